"""`lorgnette completion SHELL`: a script by which a shell completes verbs, rooms, options and values."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from lorgnette.cli import VERBS
from lorgnette.cli.arguments import Arguments
from lorgnette.cli.federate import SEVERAL_MACHINES
from lorgnette.settings import choices, settings_of
from lorgnette.systems import ROOMS, room

BASH = """\
# lorgnette completion bash > ~/.local/share/bash-completion/completions/lorgnette
_lorgnette() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "@verbs" -- "$cur"))
        return
    fi
    case "${COMP_WORDS[1]} ${COMP_WORDS[2]} $prev" in
@choices
    esac
    if [[ -z $words ]]; then
        case "${COMP_WORDS[1]} ${COMP_WORDS[2]}" in
@options
        esac
        # Files and folders where no option begins, and after a verb that takes no room.
        [[ $cur == -* || $words != -* ]] || words=
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o bashdefault -o default -F _lorgnette lorgnette
"""
ZSH = "#compdef lorgnette\n# Put this into your ~/.zshrc.\nautoload -U +X bashcompinit && bashcompinit\n"


class Command(NamedTuple):
    """A verb, perhaps with a room or another second word, and what may follow."""

    words: Sequence[str]
    options: dict[str, str]
    """--name -> its help."""
    choices: dict[str, list[str]]
    """--name -> the values there are; '' is what follows without a name."""


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = Arguments(
        "completion",
        "lorgnette completion bash > ~/.local/share/bash-completion/completions/lorgnette",
        "Writes a script by which a shell completes verbs, rooms, options and values with the TAB key. zsh: "
        "lorgnette completion zsh >> ~/.zshrc. fish: lorgnette completion fish > "
        "~/.config/fish/completions/lorgnette.fish",
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="for which shell")
    options = parser.read(words)
    found = list(commands())
    print(fish(found) if options.shell == "fish" else {"bash": "", "zsh": ZSH}[options.shell] + bash(found), end="")
    return 0


def commands() -> Iterator[Command]:
    """All that can be typed, from the parsers themselves."""
    rooms = {
        "train": list(ROOMS),
        "federate": list(ROOMS),
        "prepare": [name for name in ROOMS if room(name).ABOUT.prepares],
        "prune": [name for name in ROOMS if room(name).ABOUT.prunes],
    }
    for verb in VERBS:
        if verb not in rooms:
            yield command((verb,))
        for second in rooms.get(verb, []):
            yield command((verb, second), settings_of(room(second).Recipe))
    for second in SEVERAL_MACHINES:
        yield command(("federate", second))


def command(words: Sequence[str], settings: dict[str, Any] | None = None) -> Command:
    """What a command takes: asked of its parser where it would print its help."""
    options: dict[str, str] = {}
    values: dict[str, list[str]] = {}
    for action in parser_of(words)._actions:
        names = [name for name in action.option_strings if name.startswith("--") and name != "--help"]
        for name in names if action.option_strings else [""]:
            setting = (settings or {}).get(name.removeprefix("--"))
            about = setting.about if setting else "" if action.help == argparse.SUPPRESS else action.help
            if name:
                options[name] = " ".join(str(about or "").split()).partition(". ")[0]
            if there := [str(value) for value in (choices(setting.type) if setting else action.choices) or () if value]:
                values[name] = there
    return Command(words, options, values)


def parser_of(words: Sequence[str]) -> Arguments:
    """The parser of a command."""
    caught: list[Arguments] = []
    Arguments.instead_of_help = caught.append
    try:
        import_module(f"lorgnette.cli.{words[0]}").run([*words[1:], "--help"])
    except SystemExit:  # argparse ends so after --help
        pass
    finally:
        Arguments.instead_of_help = None
    return caught[0]


def bash(found: list[Command]) -> str:
    """The script for bash, which zsh understands too."""
    cases, values = [], []
    seconds: dict[str, list[str]] = {}
    for one in found:
        typed = shlex.quote(" ".join(one.words)) if len(one.words) > 1 else f"{one.words[0]}\\ *"
        words = " ".join([*one.choices.get("", ()), *one.options])
        cases.append(f"            {typed}) words={shlex.quote(words)};;")
        for name, there in one.choices.items():
            if name:
                values.append(f"        {typed}\\ {name}) words={shlex.quote(' '.join(there))};;")
        if len(one.words) > 1:
            seconds.setdefault(one.words[0], []).append(one.words[1])
    cases += [f"            {verb}\\ *) words={shlex.quote(' '.join(there))};;" for verb, there in seconds.items()]
    script = BASH.replace("@verbs", " ".join(VERBS)).replace("@choices", "\n".join(values))
    return script.replace("@options", "\n".join(cases))


def fish(found: list[Command]) -> str:
    """The script for fish, with a word about each option."""
    lines = ["# lorgnette completion fish > ~/.config/fish/completions/lorgnette.fish"]

    def add(when: str, what: str, about: str = "") -> None:
        lines.append(f"complete -c lorgnette -n {quoted(when)} {what}" + (f" -d {quoted(about)}" if about else ""))

    for verb, about in VERBS.items():
        add("__fish_use_subcommand", f"-a {verb}", about)
    second = "test (count (commandline -opc)) -eq 2"
    for one in found:
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in one.words)
        verb, *others = one.words
        if others:
            add(f"__fish_seen_subcommand_from {verb}; and {second}", f"-a {others[0]}")
        elif "" in one.choices:
            add(f"{seen}; and {second}", f"-a {quoted(' '.join(one.choices['']))}")
        for name, about in one.options.items():
            there = f" -x -a {quoted(' '.join(one.choices[name]))}" if name in one.choices else ""
            add(seen, f"-l {name.removeprefix('--')}{there}", about)
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """For fish: single quotes, in which a backslash and a quote are written with a backslash."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
