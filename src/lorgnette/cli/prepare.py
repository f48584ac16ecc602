"""`lorgnette prepare ROOM FOLDER`: compute once what training reads again and again."""

from __future__ import annotations

import argparse
from dataclasses import replace

from lorgnette import settings
from lorgnette.cli.arguments import Arguments, add_config, add_strict, given_settings, left_out, progress_bar
from lorgnette.systems import preparing, room, with_preparation

ROOMS_PAGE = """\
lorgnette prepare {first} FOLDER

Compute once what training reads again and again. Rooms: {rooms}.
lorgnette prepare ROOM --help lists a room's settings."""


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    if not words or words[0].startswith("-"):
        rooms = with_preparation()
        print(ROOMS_PAGE.format(first=rooms[0], rooms=", ".join(rooms)))
        return 0 if words and words[0] in ("-h", "--help") else 2
    home = preparing(words[0])
    options = arguments(words[0]).read(words[1:])
    recipe = settings.make_recipe(room(words[0]).Recipe, given_settings(words[0], options))
    data = recipe.data if options.folder is None else replace(recipe.data, root=options.folder)
    with left_out(options.strict):
        print(home.prepare(data, lambda items: progress_bar(items, "case")))
    return 0


def arguments(name: str) -> Arguments:
    """What may stand after `lorgnette prepare NAME`."""
    parser = Arguments(
        f"prepare {name}",
        f"lorgnette prepare {name} FOLDER",
        "Reads the data once and keeps what training needs of it; with the same data settings, training then finds it.",
    )
    parser.add_argument("folder", nargs=argparse.OPTIONAL, metavar="FOLDER", help="the data; or --data.root")
    add_config(parser, name)
    add_strict(parser)
    return parser
