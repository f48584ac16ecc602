"""Reading the words after a verb: argparse with one-line errors, and with an example on top of the help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from lorgnette.common.text import nearest


class Arguments(argparse.ArgumentParser):
    """The arguments of one verb.

    Args:
        verb: its name.
        example: a command that somebody would type, shown first.
        about: what the verb does.
    """

    def __init__(self, verb: str, example: str, about: str):
        super().__init__(
            prog=f"lorgnette {verb}",
            description=about,
            allow_abbrev=False,
            add_help=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=100),
        )
        self.example = example
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)

    def format_help(self) -> str:
        return f"{self.example}\n\n{super().format_help()}"

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The values; a one-line ValueError where the words are wrong."""
        options, unknown = self.parse_known_args(words)
        if unknown:
            if unknown[0].startswith("-"):
                known = [name for name in self._option_string_actions if name.startswith("--")]
                raise ValueError(f"unknown option {unknown[0]}{nearest(unknown[0].partition('=')[0], known)}")
            raise ValueError(f"{self.prog}: {unknown[0]!r} is one word too many")
        return options

    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option --device."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda or mps; unset: an accelerator where there is one",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option --json."""
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file as well")
