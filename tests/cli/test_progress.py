"""Long work says how long it takes: by a bar on a terminal, elsewhere in a line."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lorgnette.cli.arguments import progress_bar


def gone_through(seconds: float, number: int, monkeypatch: pytest.MonkeyPatch, of: type = list) -> None:
    """So many items, each of which takes so long by the clock."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    seen = []
    for item in progress_bar(of(range(number)), unit="tile"):
        seen.append(item)
        now += seconds
    assert seen == list(range(number))


@pytest.mark.parametrize(
    ("seconds", "number", "says"),
    [
        (10, 8, "8 tiles: about 1 min 10 s left\n"),  # after the first
        (1.5, 2000, "2,000 tiles: about 49 min 57 s left\n"),  # after two, in which it can be known
        (10, 7, ""),  # a minute after the first is not long
        (0.01, 2000, ""),
        (500, 1, ""),  # nothing is known before it is over
        (5, 0, ""),
    ],
)
def test_it_is_said_once_and_only_where_it_is_long(
    seconds: float, number: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    gone_through(seconds, number, monkeypatch)
    assert capsys.readouterr().err == says


def test_of_how_many_nobody_knows_nothing_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def iterator(numbers: range) -> Iterator[int]:
        return iter(numbers)

    gone_through(100, 5, monkeypatch, iterator)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
