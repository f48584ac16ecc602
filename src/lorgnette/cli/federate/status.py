"""`lorgnette federate status FOLDER`: where the rounds of a federation are."""

from __future__ import annotations

from pathlib import Path

from lorgnette.cli.arguments import Arguments


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = Arguments(
        "federate status",
        "lorgnette federate status study",
        "Shows sites, round, bytes, errors and the time left of a federation that `lorgnette federate serve` runs.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="the federation's")
    options = parser.read(words)

    from lorgnette.federate.deploy.board import Board, page
    from lorgnette.federate.flower.launch import is_serving

    file = Path(options.folder) / "run" / "board.json"
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: `lorgnette federate serve {options.folder}` was not started yet")
    board = Board.read(file)
    print(page(board))
    if not board.is_over and not is_serving(options.folder):
        print(f"\nno server is running: `lorgnette federate serve {options.folder}` goes on")
    return 0
