"""`lorgnette completion`: its script in a real bash, and what of the commands it knows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lorgnette.cli import VERBS, main
from lorgnette.cli.arguments import Arguments
from lorgnette.cli.completion import commands

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
$(complete -p lorgnette | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import contextlib
    import io

    folder, found = tmp_path_factory.mktemp("scripts"), {}
    for shell in ("bash", "zsh", "fish"):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(["completion", shell]) == 0
        found[shell] = folder / shell
        found[shell].write_text(printed.getvalue())
    return found


@pytest.fixture(scope="module")
def completed(scripts: dict[str, Path]):
    """What bash would show for a line, whose last word is the one that is being typed."""

    def ask(*words: str) -> list[str]:
        shell = ["bash", "--norc", "-c", ASK, "bash", str(scripts["bash"]), "lorgnette", *words]
        done = subprocess.run(shell, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_verbs_rooms_options_and_values_are_completed(completed):
    assert completed("") == list(VERBS)
    assert completed("en") == ["enhance"]
    assert completed("train", "") == ["superres", "restore", "clip", "mesh", "faceview"]
    assert completed("prepare", "") == ["mesh"]
    assert completed("federate", "n") == ["node"]
    assert completed("completion", "") == ["bash", "zsh", "fish"]
    assert completed("train", "restore", "--data.sig") == ["--data.sigmas"]
    assert completed("train", "superres", "--data.root", "photos", "--lora.r") == ["--lora.r", "--lora.rank_pattern"]
    assert completed("train", "superres", "--train.precision", "") == ["fp32", "bf16", "fp16"]
    assert completed("train", "mesh", "--model.size", "t") == ["tiny", "trellis"]
    assert completed("enhance", "a.png", "b.png", "--room", "") == ["superres", "restore"]
    assert "--sigmas" not in completed("train", "superres", "--")
    assert completed("nothing", "") == []


def test_where_a_file_is_meant_bash_is_left_to_complete_files(completed, scripts: dict[str, Path]):
    assert completed("enhance", "") == []
    assert completed("enhance", "small.jpg", "la") == []
    assert completed("train", "superres", "--data.root", "ph") == []
    assert "complete -o bashdefault -o default -F" in scripts["bash"].read_text()


def test_every_option_of_every_command_is_known(completed):
    found = {command.words: command for command in commands()}
    assert {words[0] for words in found} == set(VERBS)
    for words in (
        ("enhance",),
        ("eval",),
        ("push",),
        ("train", "clip"),
        ("federate", "superres"),
        ("federate", "init"),
    ):
        second = words if len(words) > 1 else (*words, "FILE")
        assert completed(*second, "--") == list(found[words].options)
        assert found[words].options
    assert "--license" in found["push",].options
    assert all("\n" not in about for command in found.values() for about in command.options.values())
    assert Arguments.instead_of_help is None


def test_the_others_say_the_same(scripts: dict[str, Path]):
    assert scripts["zsh"].read_text().endswith(scripts["bash"].read_text())
    fish = scripts["fish"].read_text()
    for command in commands():
        for option in command.options:
            assert re.search(rf" -l {re.escape(option[2:])}\s", fish), option
    assert re.search(r"-l train\.precision -x -a 'fp32 bf16 fp16' -d '", fish)
    assert fish.count("\\'") > 0, "quotes within help are masked"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_takes_the_script(shell: str, scripts: dict[str, Path]):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(scripts[shell])], check=True)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["completion", "tcsh"]) == 2
    assert "choose from" in capsys.readouterr().err
