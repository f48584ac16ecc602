"""Pages made from the program, so that they cannot go stale.

`<!-- commands -->` becomes the help of every command, `<!-- settings -->` a table for each group of settings.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from lorgnette import settings
from lorgnette.cli import VERBS, main
from lorgnette.systems import ROOMS, room


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the source of each page."""
    for marker, make in (("commands", commands), ("settings", settings_tables)):
        if f"<!-- {marker} -->" in markdown:
            markdown = markdown.replace(f"<!-- {marker} -->", "\n\n".join(make()))
    return markdown


def commands() -> Iterator[str]:
    """A section for each verb: its help."""
    for verb, about in VERBS.items():
        yield f"## {verb}\n\n{about[0].upper()}{about[1:]}.\n\n```text\n{page(verb)}\n```"


def page(*words: str) -> str:
    """What `lorgnette WORDS --help` prints."""
    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(printed):
            assert main([*words, "--help"]) == 0
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return printed.getvalue().strip()


def settings_tables() -> Iterator[str]:
    """A section for each room, a table for each group of its settings."""
    for name in ROOMS:
        recipe_class = room(name).Recipe
        yield f"## {name}"
        for group, group_class in settings.groups_of(recipe_class).items():
            rows = [
                f"| `{option}` | {kind(setting.type)} | {shown(setting.default)} | {cell(setting.about)} |"
                for option, setting in settings.settings_of(recipe_class).items()
                if option.startswith(f"{group}.")
            ]
            off = f" `--{group} null` switches it off." if settings.can_be_off(recipe_class, group) else ""
            sentence = (group_class.__doc__ or "").split("\n\n")[0]
            yield f"### {name}: {group}\n\n{sentence}{off}"
            yield "\n".join(["| setting | takes | default | |", "|---|---|---|---|", *rows])


def kind(value_type: Any) -> str:
    """What a setting takes, in words."""
    return cell(settings.describe(value_type))


def shown(default: Any) -> str:
    """A default as it would be typed."""
    if default is None or default == {}:
        return "unset"
    text = " ".join(map(str, default)) if isinstance(default, tuple | list) else str(default)
    return f"`{cell(text.lower() if isinstance(default, bool) else text)}`"


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return text.replace("|", "\\|")
