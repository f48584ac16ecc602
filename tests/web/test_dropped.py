"""Files of the page: only those that were dropped on it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow  # Gradio takes seconds to import
pytest.importorskip("gradio", reason="the page needs the extra 'web'")


def test_a_request_cannot_name_a_file_of_the_server(tmp_path: Path):
    from lorgnette.web.page.follow import dropped

    server = SimpleNamespace(home=tmp_path)
    inside = tmp_path / "page" / "hash" / "cat.png"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"cat")
    assert dropped(server, str(inside)) == inside
    (tmp_path / "page" / "link.png").symlink_to("/etc/passwd")
    for path in ("/etc/passwd", f"{tmp_path}/page/../jobs/x", str(tmp_path / "page" / "link.png")):
        with pytest.raises(ValueError, match="not dropped on this page"):
            dropped(server, path)
