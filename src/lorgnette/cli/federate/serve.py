"""`lorgnette federate serve FOLDER`: the server of a federation, and what its operator sees."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lorgnette.cli.arguments import Arguments, add_json

if TYPE_CHECKING:
    from lorgnette.federate.deploy.board import Board


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = Arguments(
        "federate serve",
        "lorgnette federate serve study",
        "Waits for the sites, runs the rounds and keeps journal, report and adapter in FOLDER/run. Stopped or killed, "
        "it goes on at the same round when it is started again.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="the federation's")
    parser.add_argument("--simulate", action="store_true", help="all clients on this machine, with Ray; no keys needed")
    add_json(parser)
    options = parser.read(words)

    from lorgnette.common.files import write_json
    from lorgnette.federate.deploy.programs import stopping_on_terminate
    from lorgnette.federate.flower.launch import serve, simulate

    pages = Pages()
    run_rounds = simulate if options.simulate else serve
    with stopping_on_terminate():
        board = run_rounds(options.folder, lambda line: print(line, flush=True), pages.show)
    print(f"\nkept      {options.folder}/run/adapter\nreport    {options.folder}/run/report.html")
    if options.json:
        write_json(options.json, {"phase": board.phase, "round": board.round, "metrics": board.metrics})
    return 0


class Pages:
    """On a terminal the page is drawn over the last one; elsewhere a line is printed for each round and each error."""

    def __init__(self) -> None:
        self.lines = 0
        self.said: set[str] = set()

    def show(self, board: Board) -> None:
        from lorgnette.federate.deploy.board import page

        text = page(board)
        if sys.stdout.isatty():
            clear = f"\x1b[{self.lines}F\x1b[J" if self.lines else ""
            print(f"{clear}{text}", flush=True)
            self.lines = text.count("\n") + 1
            return
        done = board.round - (board.phase == "training")
        rounds = [", ".join([f"round {done} of {board.rounds} done", *board.scores()])] if done else []
        phase = [text.splitlines()[0]] if board.phase not in ("training", "between rounds") else []
        for line in (*rounds, *board.problems(), *phase):
            if line not in self.said:
                print(line, flush=True)
                self.said.add(line)
