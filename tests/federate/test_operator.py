"""The operator's table: what it counts, and that it comes back from its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorgnette.federate.operator import Board, duration, page


def test_a_round_as_the_operator_sees_it(tmp_path: Path):
    board = Board.of(tmp_path / "board.json", 4, ["south", "north", "west"])
    assert "round 0 of 4, waiting for sites" in page(board)
    for name in board.sites:
        board.seen(name, 120)
    board.open_round(1, {"north": 1_500_000, "south": 1_500_000})
    board.answered("north", 900_000, 12.25)
    board.failed("south", "no answer in time", "late")
    board.round_began -= 30
    board.close_round({"accuracy": 0.875})
    lines = page(board).splitlines()
    assert lines[0] == "round 1 of 4, between rounds, about 1 min 30 s left, accuracy 0.875"
    assert lines[2].split() == ["site", "state", "samples", "rounds", "seconds", "down", "up"]
    assert lines[3].split() == ["north", "answered", "120", "1", "12.2", "1.50", "MB", "0.90", "MB"]
    assert lines[4].split() == ["south", "late", "120", "0", "-", "1.50", "MB", "0", "B"]
    assert lines[5].split() == ["west", "not", "asked", "120", "0", "-", "0", "B", "0", "B"]
    assert lines[-1] == "south: round 1: no answer in time"


def test_it_comes_back_from_its_file(tmp_path: Path):
    board = Board.of(tmp_path / "board.json", 2, ["north"])
    board.open_round(1, {"north": 10})
    board.answered("north", 20, 1.0)
    board.close_round({"loss": 0.5})
    board.finish("finished")
    again = Board.read(tmp_path / "board.json")
    assert again == board
    assert page(again, 0) == page(board, 0)
    assert "left" not in page(again).splitlines()[0]


def test_time_left_does_not_fall_below_the_rounds_that_remain(tmp_path: Path):
    board = Board.of(None, 3, ["north"])
    assert board.seconds_left(0) is None
    board.round_seconds = [10.0, 20.0, 30.0]
    board.round, board.phase, board.round_began = 2, "training", 100.0
    assert board.seconds_left(105.0) == 20 + 15
    assert board.seconds_left(500.0) == 20


@pytest.mark.parametrize("content", ["[]", "{}", '{"format_version": 1}', '{"format_version": 1, "sites": 3}', "x"])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: str):
    (tmp_path / "board.json").write_text(content)
    with pytest.raises(ValueError, match=r"board\.json"):
        Board.read(tmp_path / "board.json")


def test_durations():
    assert [duration(s) for s in (0.4, 59.6, 75, 7300)] == ["0 s", "1 min 0 s", "1 min 15 s", "2 h 1 min"]
