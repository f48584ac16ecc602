"""A recipe's settings by flat names such as `lora.r`, from YAML files and command lines. Imports no torch.

A recipe is a dataclass of groups (`model`, `data`, `lora`, `train`), each a dataclass of plain values. Names
are checked here, so that a misspelt one gets a suggestion; values are converted and checked by jsonargparse.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import os
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from lorgnette.common.files import read_small
from lorgnette.common.text import did_you_mean, is_number, nearest

R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One value of a recipe."""

    type: Any
    default: Any
    about: str  # the sentence under the field


def settings_of(recipe_class: type) -> dict[str, Setting]:
    """Every setting of a recipe class by its flat name, in the order of the fields."""
    found: dict[str, Setting] = {}
    default = recipe_class()
    for group, group_class in groups_of(recipe_class).items():
        values = getattr(default, group) or group_class()
        hints, sentences = typing.get_type_hints(group_class), _sentences(group_class)
        for field in dataclasses.fields(group_class):
            found[f"{group}.{field.name}"] = Setting(
                hints[field.name], getattr(values, field.name), sentences.get(field.name, "")
            )
    return found


def groups_of(recipe_class: type) -> dict[str, type]:
    """The groups of a recipe class and the dataclass of each."""
    hints = typing.get_type_hints(recipe_class)
    return {
        field.name: next(part for part in _parts(hints[field.name]) if part is not types.NoneType)
        for field in dataclasses.fields(recipe_class)
    }


def make_recipe(recipe_class: type[R], given: Mapping[str, Any]) -> R:
    """A recipe with the given values, by flat name, over the defaults; a group that is None is switched off.

    Raises:
        ValueError: the recipe refuses a value.
    """
    default: Any = recipe_class()
    changed: dict[str, Any] = {}
    for group, group_class in groups_of(recipe_class).items():
        values = {name.removeprefix(f"{group}."): v for name, v in given.items() if name.startswith(f"{group}.")}
        if group in given:
            changed[group] = None
        elif values:
            changed[group] = dataclasses.replace(getattr(default, group) or group_class(), **values)
    return dataclasses.replace(default, **changed)


def from_mapping(recipe_class: type, mapping: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Flat, checked values of nested settings, as a YAML file holds them.

    Args:
        recipe_class: the room's `Recipe`.
        mapping: `{"lora": {"r": 8}, ...}`, or `{"lora": None}` for a group that is switched off.
        source: where they come from, for the error.

    Raises:
        ValueError: an unknown name, or a value of another kind, in one line.
    """
    settings, groups = settings_of(recipe_class), groups_of(recipe_class)
    given: dict[str, Any] = {}
    for group, values in mapping.items():
        if group not in groups:
            raise ValueError(f"{source}: {unknown_setting(str(group), [*groups, *settings])}")
        if values is None and can_be_off(recipe_class, group):
            given[group] = None
            continue
        if not isinstance(values, Mapping):
            raise ValueError(f"{source}: {group}: {values!r} is not a table of settings")
        for key, value in values.items():
            name = f"{group}.{key}"
            if name not in settings:
                raise ValueError(f"{source}: {unknown_setting(name, settings)}")
            given[name] = _converted(f"{source}: {name}", value, settings[name].type)
    return given


def from_options(recipe_class: type, options: Iterable[tuple[str, Sequence[str]]]) -> dict[str, Any]:
    """Flat, checked values of a command line.

    Args:
        recipe_class: the room's `Recipe`.
        options: (flat name without dashes, the words after it); a later one replaces an earlier one.

    Raises:
        ValueError: an unknown name, or a value of another kind, in one line.
    """
    settings, groups = settings_of(recipe_class), groups_of(recipe_class)
    given: dict[str, Any] = {}
    for name, words in options:
        if name in groups and list(words) == ["null"] and can_be_off(recipe_class, name):
            given = override(given, {name: None})
        elif name in settings:
            kind = settings[name].type
            value = _converted(f"--{name}", _as_text(name, words, kind), kind, words)
            given = override(given, {name: value})
        elif name in groups:
            known = [option for option in settings if option.startswith(f"{name}.")]
            raise ValueError(f"--{name} is a group of settings: give one of them, such as --{known[0]}")
        else:
            raise ValueError(unknown_setting(f"--{name}", [f"--{known}" for known in settings]))
    return given


def override(given: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Both; the later ones count. A group switched off loses its values, a value switches its group on."""
    result = dict(given)
    for name, value in later.items():
        group, dot, _ = name.partition(".")
        if dot:
            result.pop(group, None)
        else:
            result = {key: v for key, v in result.items() if not key.startswith(f"{group}.")}
        result[name] = value
    return result


def can_be_off(recipe_class: type, group: str) -> bool:
    """Whether a group may be None."""
    return types.NoneType in _parts(typing.get_type_hints(recipe_class)[group])


def unknown_setting(name: str, known: Iterable[str], kind: str = "setting") -> str:
    """A sentence on a setting that does not exist, with the one that was probably meant."""
    known = list(known)
    same_end = [k for k in known if k.rpartition(".")[2] == name.lstrip("-").rpartition(".")[2]]
    return f"unknown {kind} {name}{did_you_mean(same_end) or nearest(name, known)}"


def choices(kind: Any) -> list[str]:
    """The words a type offers to choose from; none where it takes other values."""
    return [str(word) for word in typing.get_args(kind)] if typing.get_origin(kind) is Literal else []


def read_yaml(path: str | os.PathLike[str], max_bytes: int = 2**20) -> dict[str, Any]:
    """A YAML file that holds a table.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is too large, no YAML, or holds something else.
    """
    import yaml

    try:
        value = yaml.safe_load(read_small(path, max_bytes).decode())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no table of settings")
    return value


def describe(kind: Any) -> str:
    """What a type accepts, in words: int | None -> 'a whole number or null'."""
    if choices(kind):
        return " or ".join(choices(kind))
    if len(_parts(kind)) > 1:
        return " or ".join(map(describe, _parts(kind)))
    if typing.get_origin(kind) is tuple and Ellipsis not in typing.get_args(kind):
        return f"a list of {len(typing.get_args(kind))} values"
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        types.NoneType: "null",
    }
    words |= {list: "a list", tuple: "a list", dict: "a table such as {name: value}"}
    return words.get(typing.get_origin(kind) or kind, str(kind))


def _as_text(name: str, words: Sequence[str], kind: Any) -> str:
    """The words after an option as one value: `--data.scales 1 4` is `--data.scales [1, 4]`."""
    if not words:
        raise ValueError(f"--{name} needs a value: {describe(kind)}")
    parts = _parts(kind)
    is_list = any(typing.get_origin(part) in (list, tuple) for part in parts)
    is_item = is_number(words[0]) or (str not in parts and words[0] != "null" and words[0][:1] != "[")
    is_item = is_item and parts[0] is not str  # `str | list[str]`: one word is itself, whatever it looks like
    if is_list and (len(words) > 1 or is_item):
        return json.dumps(list(words))
    if len(words) > 1:
        raise ValueError(f"--{name} takes one value; {words[1]!r} is too much")
    return words[0]


def _converted(title: str, value: Any, kind: Any, words: Sequence[str] | None = None) -> Any:
    """The value as its type wants it; `words`: it is the text of these words of a command line."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        parsed = parser.parse_args([f"--value={value}"]) if words else parser.parse_object({"value": value})
        if parsed.value is not None or types.NoneType in _parts(kind):
            return parsed.value
    except ArgumentError:
        pass
    shown = " ".join(words) if words else value
    raise ValueError(f"{title}: {shown!r} does not work; {describe(kind)} does")


def _parts(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union; of another type, itself."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _sentences(group_class: type) -> dict[str, str]:
    """Field -> the sentence under it in the source; nothing where there is no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(group_class)))
    except (OSError, SyntaxError):
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found: dict[str, str] = {}
    for pair in itertools.pairwise(body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(sentence))):
                found[name] = " ".join(sentence.split())
    return found
