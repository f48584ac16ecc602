"""The operator's table: what it counts, and that it comes back from its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorgnette.cli.federate.serve import Pages
from lorgnette.federate.deploy.board import Board, page
from lorgnette.federate.rounds.round_events import (
    Answered,
    NotUsed,
    RoundDone,
    RoundsEnded,
    RoundsStarted,
    RoundStarted,
)


def done(number: int, missing: list[str], seconds: float, metrics: dict[str, float]) -> RoundDone:
    clients = {} if number != 1 or not missing else {"north": {"bytes_down": 1_500_000}}
    return RoundDone(number, {"missing": missing, "clients": clients, "seconds": seconds, "metrics": metrics})


def test_a_round_as_the_operator_sees_it(tmp_path: Path):
    board = Board.of(tmp_path / "board.json", 4, ["south", "north", "west"])
    assert "round 0 of 4, waiting for sites" in page(board)
    for name in board.sites:
        board.seen(name, 120)
    board(RoundsStarted(0, 4, sorted(board.sites), {"metrics": {"accuracy": 0.5, "loss": None}}))
    board(RoundStarted(1, ["north", "south"]))
    assert page(board).startswith("round 1 of 4, training, 0 s, accuracy 0.5")
    board(Answered(1, "north", 121, 900_000, 0.7, 12.25, {}))
    board(done(1, missing=["south"], seconds=30.0, metrics={"accuracy": 0.875}))
    lines = page(board).splitlines()
    assert lines[0] == "round 1 of 4, between rounds, about 1 min 30 s left, accuracy 0.875"
    assert lines[2].split() == ["site", "state", "samples", "rounds", "seconds", "down", "up"]
    assert lines[3].split() == ["north", "answered", "121", "1", "12.2", "1.5", "MB", "900", "kB"]
    assert lines[4].split() == ["south", "late", "120", "0", "-", "0", "bytes", "0", "bytes"]
    assert lines[5].split() == ["west", "not", "asked", "120", "0", "-", "0", "bytes", "0", "bytes"]
    assert lines[-1] == "south: round 1: no answer in time"


def test_it_comes_back_from_its_file(tmp_path: Path):
    board = Board.of(tmp_path / "board.json", 2, ["north"])
    board(RoundStarted(1, ["north"]))
    board(NotUsed(1, "north", "its schema differs"))
    board(NotUsed(1, "a stranger", "it was not asked"))
    board(done(1, missing=[], seconds=1.0, metrics={"loss": 0.5}))
    board(NotUsed(1, "north", "it is not connected"))
    assert board.sites["north"].state == "not connected"
    board(NotUsed(1, "north", "its schema differs"))
    assert board.sites["north"].state == "refused"
    board(RoundsEnded(1, "done", 0, {}))
    assert not board.is_over
    board.finish("finished")
    assert board.is_over
    again = Board.read(tmp_path / "board.json")
    assert again == board
    assert page(again, 0) == page(board, 0)
    assert page(again).splitlines()[0] == "round 1 of 2, finished, loss 0.5"
    assert page(again).splitlines()[-1] == "north: round 1: its schema differs"


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


def test_without_a_terminal_each_round_and_each_error_is_a_line(capsys: pytest.CaptureFixture[str]):
    board, pages = Board.of(None, 2, ["north", "south"]), Pages()
    pages.show(board)
    pages.show(board)
    board.failed("south", "it has another base model")
    pages.show(board)
    board(RoundStarted(1, ["north", "south"]))
    pages.show(board)
    board(done(1, missing=["south"], seconds=1.0, metrics={"accuracy": 0.5}))
    board(RoundStarted(2, ["north", "south"]))
    pages.show(board)
    board(done(2, missing=[], seconds=1.0, metrics={"accuracy": 0.75}))
    board.finish("finished")
    pages.show(board)
    assert capsys.readouterr().out.splitlines() == [
        "round 0 of 2, waiting for sites",
        "south: it has another base model",
        "round 1 of 2 done, accuracy 0.5",
        "south: round 1: no answer in time",
        "round 2 of 2 done, accuracy 0.75",
        "round 2 of 2, finished, accuracy 0.75",
    ]
