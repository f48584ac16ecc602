"""The page "What is kept and what is not" says what real files show."""

from __future__ import annotations

from tests.images.kept_table import of_page, table


def test_the_table_of_pictures_is_of_today():
    """Written again by: python -m tests.images.kept_table"""
    found, page = table(), of_page()
    assert found.keys() == page.keys()
    for name, row in found.items():
        assert "lost" not in row.values(), name
        # Formats of packages that are not installed here are in the page alone.
        assert row == {title: page[name][title] for title in row}, name
