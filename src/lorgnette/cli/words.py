"""The words after a verb that takes the settings of a room: the verb's own options, and the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lorgnette import settings

OwnOptions = Mapping[str, tuple[str, str]]
"""Option -> (placeholder of its value, what it does); without a placeholder it takes no value."""
Words = list[tuple[str, list[str]]]


def split_words(words: Sequence[str], known: OwnOptions) -> tuple[dict[str, str], Words]:
    """The options of the verb itself, and the others (settings of the recipe) with the words after each.

    Raises:
        ValueError: a word belongs to no option, or an option lacks its value.
    """
    options: Words = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            options.append((name, [value] if equals else []))
        elif not options:
            raise ValueError(f"{word!r}: an option such as --data.root is expected here")
        else:
            options[-1][1].append(word)
    own: dict[str, str] = {}
    for name, values in options:
        if name not in known:
            continue
        placeholder = known[name][0]
        if len(values) != bool(placeholder):
            raise ValueError(f"--{name} needs one value: {placeholder}" if placeholder else f"--{name} takes no value")
        own[name] = values[0] if values else ""
    return own, [(name, values) for name, values in options if name not in known]


def settings_from_file(name: str, recipe_class: type, file: str) -> dict[str, Any]:
    """The settings of a room in a YAML file, flat.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none, or for another room.
    """
    mapping = settings.read_yaml(file)
    mapping.pop("format_version", None)
    if mapping.pop("room", name) != name:
        raise ValueError(f"--config: {file} holds settings of another room than {name}")
    return settings.from_mapping(recipe_class, mapping, file)
