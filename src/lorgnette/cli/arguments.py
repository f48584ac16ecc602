"""Reading the words after a verb: argparse with one-line errors, and with an example on top of the help.

A verb that takes the settings of a room reads them as options like its own: `--lora.r 8`.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, ClassVar, NoReturn

from lorgnette import settings
from lorgnette.common.parts import LeftOut
from lorgnette.common.text import duration
from lorgnette.systems import room

LOOK_SECONDS, MINUTE = 3.0, 60.0
"""After how long it is said what long work takes, and what is long."""


class Arguments(argparse.ArgumentParser):
    """The arguments of one verb.

    Args:
        verb: its name.
        example: a command that somebody would type, shown first.
        about: what the verb does.
    """

    instead_of_help: ClassVar[Callable[[Arguments], object] | None] = None
    """Is called where the help would be printed: `lorgnette completion` asks the parsers for their options so."""

    def __init__(self, verb: str, example: str, about: str):
        super().__init__(
            prog=f"lorgnette {verb}", description=about, allow_abbrev=False, add_help=False, formatter_class=_Help
        )
        self.example = example
        self.takes_settings = False
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)

    def add_settings(self, recipe_class: type, dest: str = "settings", bare: bool = False) -> None:
        """Options for all settings of a recipe class, with a section of the help for each of its groups.

        Args:
            recipe_class: a room's `Recipe`, or another dataclass of groups.
            dest: where `read` leaves them: a list of (flat name, words after it), for `settings.from_options`.
            bare: name them without their group, `--rounds` for `federate.rounds`; `-` stands for `_` as well.
        """
        self.takes_settings, self.usage = True, argparse.SUPPRESS
        groups = settings.groups_of(recipe_class)
        sections = {}
        for group in groups:
            off = f" (--{group} null: none)" if settings.can_be_off(recipe_class, group) else ""
            sections[group] = self.add_argument_group(f"{group}{off}")
            if not bare:
                self.add_argument(f"--{group}", action=_Setting, name=group, dest=dest, help=argparse.SUPPRESS)
        for name, setting in settings.settings_of(recipe_class).items():
            group, _, own = name.partition(".")
            options = dict.fromkeys([f"--{own}", f"--{own.replace('_', '-')}"] if bare else [f"--{name}"])
            shown, about = _shown_default(setting.default), _about(setting)
            sections[group].add_argument(*options, action=_Setting, name=name, dest=dest, metavar=shown, help=about)

    def format_help(self) -> str:
        return f"{self.example}\n\n{super().format_help()}"

    def print_help(self, file: Any = None) -> None:
        asked = type(self).instead_of_help
        super().print_help(file) if asked is None else asked(self)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The values; a one-line ValueError where the words are wrong."""
        options, unknown = self.parse_known_args(words)
        if not unknown:
            return options
        if not unknown[0].startswith("-"):
            raise ValueError(self._too_many(unknown[0], words))
        known = [name for name in self._option_string_actions if name.startswith("--")]
        kind = "setting" if self.takes_settings else "option"
        raise ValueError(settings.unknown_setting(unknown[0].partition("=")[0], known, kind))

    def _too_many(self, word: str, words: Sequence[str]) -> str:
        before = [w.partition("=")[0] for w in words[: list(words).index(word)] if w.startswith("--")]
        if self.takes_settings and not before:
            return f"{word!r}: an option such as --data.root is expected here"
        last = self._option_string_actions.get(before[-1]) if before else None
        if last is not None and last.nargs == 0:
            return f"{before[-1]} takes no value; {word!r} is one word too many"
        return f"{self.prog}: {word!r} is one word too many"

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        if match := re.fullmatch(r"(\S+): expected one argument", message):
            message = f"{match[1]} needs one value: {self._option_string_actions[match[1].split('/')[0]].metavar}"
        raise ValueError(message)


class _Setting(argparse.Action):
    """Notes the words after a setting; all settings stand in one list, in the order of the command line."""

    def __init__(self, option_strings: Sequence[str], dest: str, name: str, **more: Any) -> None:
        super().__init__(option_strings, dest, nargs="*", default=(), **more)
        self.name = name

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), (self.name, values)])


class _Help(argparse.HelpFormatter):
    """As wide as the terminal; a setting is shown with its default after it."""

    def __init__(self, prog: str) -> None:
        width = max(60, min(120, shutil.get_terminal_size().columns))
        super().__init__(prog, max_help_position=32, width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, _Setting):
            return f"{action.option_strings[0]} {action.metavar}".rstrip()
        return super()._format_action_invocation(action)

    def _expand_help(self, action: argparse.Action) -> str:
        return str(action.help) if isinstance(action, _Setting) else super()._expand_help(action)


def _shown_default(default: Any) -> str:
    """A default as it would be typed; nothing where there is none."""
    if default is None or default == {}:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    text = " ".join(map(str, default)) if isinstance(default, tuple | list) else str(default)
    return text if len(text) < 40 else ""


def _about(setting: settings.Setting) -> str:
    """The sentence of a setting, with what there is to choose from."""
    choices = settings.choices(setting.type)
    return setting.about + (f" One of: {', '.join(choices)}." if len(choices) > 1 else "")


def add_config(parser: Arguments, name: str | None) -> None:
    """The option --config, and all settings of a room where one is given."""
    about = "settings of the room from a YAML file; those on the command line win"
    parser.add_argument("--config", metavar="FILE", help=about)
    if name is not None:
        parser.add_settings(room(name).Recipe)


def given_settings(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The settings of a room that --config and the command line give, by flat name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, or for another room, or a value does not work.
    """
    recipe_class, from_file = room(name).Recipe, {}
    if options.config:
        mapping = settings.read_yaml(options.config)
        mapping.pop("format_version", None)
        if mapping.pop("room", name) != name:
            raise ValueError(f"--config: {options.config} holds settings of another room than {name}")
        from_file = settings.from_mapping(recipe_class, mapping, options.config)
    return settings.override(from_file, settings.from_options(recipe_class, options.settings))


def kept_folder(text: str) -> str:
    """The folder of an adapter or a whole model; that of its run will do, `hub:user/name@revision`, and the name of an
    adapter that ships."""
    from lorgnette.shipped import named_folder

    try:
        return str(named_folder(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None  # of others argparse shows no word


def add_strict(parser: argparse.ArgumentParser) -> None:
    """The option --strict."""
    about = "refuse the data where something of it would be left out, such as an image that cannot be read"
    parser.add_argument("--strict", action="store_true", help=about)


@contextlib.contextmanager
def left_out(strict: bool) -> Iterator[list[LeftOut]]:
    """Within the block, what is left out of the data is said on stderr and gathered in a list; or refused."""
    gathered: list[LeftOut] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "always", LeftOut)
        usual: Callable[..., None] = warnings.showwarning

        def show(message: Warning | str, *where: Any, **more: Any) -> None:
            if not isinstance(message, LeftOut):
                return usual(message, *where, **more)
            gathered.append(message)
            print(f"lorgnette: warning: {message}", file=sys.stderr)

        warnings.showwarning = show
        try:
            yield gathered
        except LeftOut as refusal:
            raise ValueError(f"--strict: {refusal}") from None


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option --device."""
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="cpu, cuda or mps; unset: an accelerator where there is one"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option --json."""
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file as well")


def progress_bar(items: Any, unit: str = "image") -> Any:
    """The items, with a bar on a terminal while they are gone through; elsewhere long work is announced."""
    if not sys.stderr.isatty():
        return _announced(items, unit) if isinstance(items, Sized) else items
    try:
        from tqdm import tqdm
    except ImportError:  # where an exported model runs there may be little else
        return items
    return tqdm(items, unit=unit, leave=False)


def _announced(items: Any, unit: str) -> Iterator[Any]:
    """The items; once it is known that they take over a minute, a line on stderr says about how long."""
    start, due = time.monotonic(), True
    for done, item in enumerate(items):
        spent = time.monotonic() - start
        if due and done and spent >= LOOK_SECONDS:
            left, due = spent / done * (len(items) - done), False
            if left > MINUTE:
                print(f"{len(items):,} {unit}s: about {duration(left)} left", file=sys.stderr, flush=True)
        yield item
