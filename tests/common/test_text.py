"""Figures, tables and suggestions in words."""

from __future__ import annotations

import pytest

from lorgnette.common.text import did_you_mean, duration, metrics_table, nearest, number, size, table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (29.4149, "29.41"), (0.84213, "0.8421"), (128.44, "128.4"), (1234567, "1,234,567"),
        (12345.6, "12,346"), (3.2e-5, "3.2e-05"), (0.0, "0.0000"), (float("inf"), "∞"), (float("nan"), "–"),
        (None, "–"), ("as is", "as is"),
    ],
)  # fmt: skip
def test_numbers(value: object, text: str):
    assert number(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (21_000, "21.0 kB"), (252_300, "252 kB"), (3_912_000, "3.9 MB"),
     (1_500_000_000, "1.5 GB")],
)  # fmt: skip
def test_sizes(count: int, text: str):
    assert size(count) == text


def test_durations():
    assert [duration(s) for s in (0.4, 59.6, 75, 7300)] == ["0 s", "1 min 0 s", "1 min 15 s", "2 h 1 min"]


def test_tables():
    rows = [["a", "b", "1"], ["long", "", "23"]]
    assert table(["x", "y", "n"], rows, left=2) == "x     y   n\na     b   1\nlong     23"
    assert table(["x", "n"], [], left=1) == "x  n"
    both = {"base": {"psnr": 28.5, "ssim": 0.9}, "adapted": {"psnr": 29.25}}
    assert metrics_table(both, "set") == "set     base  adapted\npsnr   28.50    29.25\nssim  0.9000        -"


def test_suggestions():
    assert nearest("rnak", ["rank", "alpha"]) == " (did you mean 'rank'?)"
    assert nearest("xyz", ["rank", "alpha"]) == ""
    assert did_you_mean(["a.lr", "b.lr"]) == " (did you mean 'a.lr' or 'b.lr'?)"
