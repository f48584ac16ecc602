"""The verbs' table, help pages and how errors end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lorgnette import cli
from lorgnette.cli import VERBS, main
from lorgnette.cli.arguments import tile_bar
from lorgnette.common.text import one_line
from lorgnette.version import __version__


def test_help_names_every_verb_and_the_main_command_first(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("lorgnette train superres --data.root photos")
    for verb in VERBS:
        assert f"\n  {verb} " in page


@pytest.mark.parametrize("verb", [*VERBS, "train superres"])
def test_every_verb_has_a_page_with_an_example_on_top(verb: str, capsys: pytest.CaptureFixture[str]):
    assert main([*verb.split(), "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith(f"lorgnette {verb}")
    assert max(map(len, page.splitlines())) <= 120


@pytest.mark.parametrize("word", ["--version", "version"])
def test_version(word: str, capsys: pytest.CaptureFixture[str]):
    assert main([word]) == 0
    assert capsys.readouterr().out == f"lorgnette {__version__}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["enhanse", "a.png", "b.png"], "unknown verb enhanse (did you mean 'enhance'?)"),
        (["xyzzy"], "unknown verb xyzzy; there is " + ", ".join(VERBS)),
        (["train", "supres"], "did you mean 'superres'?"),
        (["train", "superres", "--lora.rnak", "8"], "unknown setting --lora.rnak (did you mean '--lora.r'?)"),
        (["train", "superres", "--ouf", "runs"], "unknown setting --ouf (did you mean '--out'?)"),
        (["train", "superres", "photos"], "'photos': an option such as --data.root is expected here"),
        (["train", "superres", "--out"], "--out needs one value"),
        (
            ["train", "superres", "--train.steps", "many"],
            "--train.steps: 'many' does not work; a whole number",
        ),
        (["train", "superres", "--config", "nowhere.yaml"], "no such file: nowhere.yaml"),
        (["enhance", "in.png"], "required: OUT"),
        (["enhance", "a.png", "b.png", "c.png"], "'c.png' is one word too many"),
        (["enhance", "a.png", "b.png", "--scal", "2"], "unknown option --scal (did you mean '--scale'?)"),
        (["enhance", "a.png", "b.png", "--scale", "2", "--width", "9"], "not allowed with"),
        (["enhance", "a.png", "b.png", "--precision", "fp8"], "--precision: invalid choice: 'fp8'"),
        (["demo", "--seed", "-1"], "--seed: '-1' does not work"),
        (["info", "nowhere"], "no such file or folder: nowhere"),
        (["merge", "nowhere", "out"], "no such folder: nowhere"),
        (["eval", "nowhere", "--data", "x"], "no such folder: nowhere"),
    ],
)
def test_wrong_words_give_one_line(words: list[str], says: str, refused, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert says in refused(*words)
    assert not list(tmp_path.iterdir())


def test_interrupted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def stop(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", stop)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "lorgnette: interrupted\n"


def test_a_mistake_of_ours_shows_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def broken(words: list[str]) -> int:
        raise TypeError("a bug")

    monkeypatch.setattr(cli, "_dispatch", broken)
    with pytest.raises(TypeError):
        main(["demo"])


def test_debug_shows_where_a_user_error_came_from(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LORGNETTE_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown verb"):
        main(["xyzzy"])


def test_an_error_of_the_system_names_its_file():
    error = OSError(28, "No space left on device", "photo.png")
    assert one_line(error) == "photo.png: No space left on device"
    assert one_line(ValueError("two\nlines")) == "two lines"


def test_as_a_process():
    command = [sys.executable, "-m", "lorgnette", "xyzzy"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"lorgnette: error: unknown verb xyzzy; there is {', '.join(VERBS)}"]


@pytest.mark.parametrize("reader", ["head -1", "true"])
@pytest.mark.parametrize("words", ["train superres --help", "enhance --help", "--help"])
def test_a_reader_that_leaves_early_is_no_error(words: str, reader: str):
    command = f"(sleep 0.3; exec env -u PYTHONUNBUFFERED {sys.executable} -m lorgnette {words}) | {reader}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(("seconds", "said"), [(1.5, ""), (90, "about 60 minutes more for this picture")])
def test_what_takes_long_is_said_after_the_first_tile(
    seconds: float, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    now = [0.0]
    monkeypatch.setattr("lorgnette.cli.arguments.time.monotonic", lambda: now[0])
    done = []
    for tile in tile_bar(list(range(41))):
        assert capsys.readouterr().err.strip().removeprefix("lorgnette: ").partition(" (")[0] == (
            said if tile == 1 else ""
        )
        now[0] += seconds
        done.append(tile)
    assert done == list(range(41))
