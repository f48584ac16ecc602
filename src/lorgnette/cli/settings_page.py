"""The help page of a room's settings, made from the sentences in its recipe."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from lorgnette import settings

ABOUT = """\
Adapts the model to your data: holds a part of it out, chooses how long to train, stops when that
no longer helps, and keeps the adapter, a report and all figures in a run folder."""


def settings_page(
    name: str,
    recipe_class: type,
    options: Mapping[str, tuple[str, str]],
    example: str = "lorgnette train {name} --data.root photos",
    about: str = ABOUT,
) -> str:
    """The help of `lorgnette train NAME`, or of another verb that takes a room's settings.

    Args:
        name: the room.
        recipe_class: its `Recipe`.
        options: of the verb itself: name -> (placeholder, what it does).
        example: the command on top.
        about: what the verb does.
    """
    sections = [
        example.format(name=name),
        about,
        option_lines((f"--{option} {value}".rstrip(), what) for option, (value, what) in options.items()),
    ]
    all_settings = settings.settings_of(recipe_class)
    for group in settings.groups_of(recipe_class):
        lines = [
            (f"--{option} {shown_default(setting.default)}", about_setting(setting))
            for option, setting in all_settings.items()
            if option.startswith(f"{group}.")
        ]
        off = f" (--{group} null: none)" if settings.can_be_off(recipe_class, group) else ""
        sections.append(f"{group}{off}:\n{option_lines(lines)}")
    return "\n\n".join(sections)


def option_lines(lines: Iterable[tuple[str, str]], column: int = 32) -> str:
    """Options, each with what it does beside it or below it."""
    width = max(60, min(120, shutil.get_terminal_size().columns))
    return "\n".join(
        textwrap.fill(
            about,
            width,
            initial_indent=f"  {option:<{column - 2}}" if len(option) < column - 3 else f"  {option}  ",
            subsequent_indent=" " * column,
        )
        for option, about in lines
    )


def shown_default(default: Any) -> str:
    """A default as it would be typed; nothing where there is none."""
    if default is None or default == {}:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    text = " ".join(map(str, default)) if isinstance(default, tuple | list) else str(default)
    return text if len(text) < 40 else ""


def about_setting(setting: settings.Setting) -> str:
    """The sentence of a setting, with what there is to choose from."""
    choices = settings.choices(setting.type)
    return setting.about + (f" One of: {', '.join(choices)}." if len(choices) > 1 else "")
