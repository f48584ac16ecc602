"""What README and documentation say is so: code, command lines, names and links."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from lorgnette import lora, settings
from lorgnette.cli import VERBS, main
from lorgnette.cli.arguments import Arguments, given_settings
from lorgnette.cli.federate import here
from lorgnette.images.file import Image, write_image
from lorgnette.systems import ROOMS, room

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
FENCE = re.compile(r"^(?P<run><!-- run -->\n)?```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PLACEHOLDERS = {"ROOM": "superres", "S": "2", "N": "2"}
# Folders that are not there: without a slash they would be taken for names of adapters that ship.
PLACEHOLDERS |= {name: f"./{name}" for name in ("ADAPTER", "my-adapter", "merged")}
# In place of the settings of a real training: a network that trains in seconds.
IN_MINIATURE = {
    'Model(encoder="edsr-baseline")': 'Model(encoder="edsr-tiny", base="none")',
    "steps=400": "steps=2",
    "scales=(1, 4)": "scales=(1, 2), patch=12, points=64, test_crop=48",
}


def by_page(found: dict[Path, list[Any]]) -> Any:
    """Parameters for a test: each page that has something, under its name."""
    return [pytest.param(items, id=str(page.relative_to(ROOT))) for page, items in found.items() if items]


def blocks(page: Path, kind: str, only_run: bool = False) -> list[str]:
    """The fenced blocks of one language."""
    found = [m for m in FENCE.finditer(page.read_text(encoding="utf-8")) if m["kind"] == kind]
    return [m["text"] for m in found if not m["text"].startswith("--8<--") and (m["run"] or not only_run)]


def inline(page: Path) -> list[str]:
    """The pieces of code within sentences."""
    return INLINE.findall(FENCE.sub("", page.read_text(encoding="utf-8")))


# ------------------------------------------------------------------------------------------------------- Python


@pytest.mark.parametrize("code", by_page({page: blocks(page, "python") for page in PAGES}))
def test_python_compiles_and_its_names_exist(code: list[str]):
    modules: dict[str, ModuleType] = {}
    for node in ast.walk(ast.parse("\n".join(code))):
        match node:
            case ast.ImportFrom(module=str(home), names=names):
                module = importlib.import_module(home)
                for alias in names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{home}.{alias.name}")  # ImportError: there is no such name
                    found = getattr(module, alias.name)
                    if isinstance(found, ModuleType):
                        modules[alias.asname or alias.name] = found
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in modules:
                assert hasattr(modules[name], attribute), f"{name}.{attribute}"


@pytest.mark.parametrize("code", by_page({page: blocks(page, "python", only_run=True) for page in PAGES}))
def test_marked_python_runs(code: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The blocks of a page in turn, in a folder that holds what they name."""
    rng = np.random.default_rng(0)
    for name in ("photos/a.png", "photos/b.png", "small.jpg"):
        write_image(tmp_path / name, Image(rng.integers(0, 256, (48, 40, 3), dtype=np.uint8)))
    monkeypatch.chdir(tmp_path)
    text = "\n".join(code)
    for real, small in IN_MINIATURE.items():
        text = text.replace(real, small)
    with torch.random.fork_rng():
        exec(compile(text, "page", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("pieces", by_page({page: inline(page) for page in PAGES}))
def test_dotted_names_exist(pieces: list[str]):
    for piece in pieces:
        if re.fullmatch(r"lorgnette(\.\w+)+", piece) and piece != "lorgnette.json":
            resolve(piece)


def resolve(name: str) -> Any:
    """What a dotted name stands for."""
    found = importlib.import_module("lorgnette")
    for part in name.split(".")[1:]:
        if not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part)
    return found


def test_every_name_of_the_core_is_in_its_reference():
    page = (ROOT / "docs/api/lora.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^::: lorgnette\.lora\.(\w+)$", page, re.MULTILINE)) == set(lora.__all__)


# ------------------------------------------------------------------------------------------------ command lines


def command_lines(page: Path) -> list[str]:
    """What a reader could type after `lorgnette`, from blocks and sentences."""
    shell = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    candidates = [part for line in shell.splitlines() for part in line.split("&&")] + inline(page)
    found = [re.match(r"\s*(?:accelerate launch -m |\.venv/bin/)?lorgnette (.+)", text) for text in candidates]
    return [re.split(r" >>? ", match[1])[0] for match in found if match and "VERB" not in match[1]]


class Understood(Exception):
    """The words of a command were read without an error."""


def on_top(recipe: Path) -> list[str]:
    """The command in the comment of a shipped recipe."""
    return re.findall(r"^# lorgnette (.+)$", recipe.read_text(encoding="utf-8"), re.MULTILINE)


LINES = {page: command_lines(page) for page in PAGES} | {r: on_top(r) for r in sorted(ROOT.glob("recipes/*.yaml"))}


@pytest.mark.parametrize("lines", by_page(LINES))
def test_command_lines_are_understood(lines: list[str], monkeypatch: pytest.MonkeyPatch):
    read = Arguments.read

    def read_only(parser: Arguments, words: list[str]):
        raise Understood(read(parser, words))

    monkeypatch.setattr(Arguments, "read", read_only)
    monkeypatch.setattr("lorgnette.lora.files.commit.is_hub", lambda name: False)  # nothing is fetched here
    monkeypatch.chdir(ROOT)  # where the recipes are
    for line in lines:
        words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line, comments=True)]
        assert words[0] in (*VERBS, "--help", "version"), line
        if "--help" in words or len(words) == 1 or words == ["federate", "init"]:
            continue
        with pytest.raises(Understood) as understood:  # else the error stands in what was captured
            main(words)
        (options,) = understood.value.args
        if "federation" in options:
            here.federation(options.federation)
        if "settings" in options:
            name = words[3] if words[1] == "init" else words[1]
            settings.make_recipe(room(name).Recipe, given_settings(name, options))
        assert words[:2] != ["federate", "init"] or options.host, line


@pytest.mark.parametrize("pieces", by_page({page: inline(page) for page in PAGES}))
def test_settings_named_in_sentences_exist(pieces: list[str]):
    known = {setting for name in ROOMS for setting in settings.settings_of(room(name).Recipe)}
    named = {match[1] for piece in pieces if (match := re.match(r"--(\w+\.\w+)", piece))}
    assert named <= known


# -------------------------------------------------------------------------------------------------------- links


def links(page: Path) -> Iterator[str]:
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not target.startswith(("http://", "https://")):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert ROOT in (file, *file.parents), f"{target} leads out of the project"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles}, target


HEADINGS = (
    "What it is", "Try it", "Adapt", "Prove", "Keep", "Use", "From Python", "Files and formats", "Limits",
)  # fmt: skip
TUTORIALS = ("super-resolution", "restoration", "classification", "mesh", "face-views", "video", "federation")


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorials_have_the_same_headings_in_the_same_order(name: str):
    """Others may stand between them."""
    text = FENCE.sub("", (ROOT / f"docs/tutorials/{name}.md").read_text(encoding="utf-8"))
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert [title for title in titles if title in HEADINGS] == list(HEADINGS)


def test_every_page_of_the_documentation_is_in_its_table_of_contents():
    listed = set(re.findall(r": ([\w./-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} == listed


def test_files_named_in_the_house_rules_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:src|tests|docs|benchmarks|recipes|examples)/[\w./-]+)`", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_maps_show_what_is_there():
    """Each line of a tree begins with a part of the folder it stands under, and each file it names is in there."""
    for page in ("README.md", "docs/architecture.md"):
        (tree,) = [text for text in blocks(ROOT / page, "text") if text.startswith("src/lorgnette/")]
        folder = part = ROOT
        for line in tree.splitlines():
            match = re.match(r"( *)([\w./]+)", line)
            assert match, line
            depth, name = len(match[1]), match[2]
            if depth == 0:
                folder = part = ROOT / name
            elif depth == 2:
                part = folder / name
            assert ROOT / name if depth == 0 else part if depth == 2 else next(part.rglob(name), None), line
            assert part.exists(), line
            for file in re.findall(r"[\w/]+\.py", line):
                assert part.name == file or any(part.rglob(file)), f"{file} in: {line}"
