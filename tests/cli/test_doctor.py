"""`lorgnette doctor`: what is there, what is not, and what to do about it."""

from __future__ import annotations

import email.message
import importlib.metadata
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from lorgnette.cli import main
from lorgnette.cli.doctor import FOR_DEVELOPERS

ROOT = Path(__file__).parents[2]
NEEDS = ["torch>=2.11", "nibabel>=5; extra == 'mesh'", "av>=18; extra == 'video'", "big[more]; extra == 'many'"]
BIG = ["ray>=2; extra == 'more'", "numpy>=1"]
Versions = Callable[..., None]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Versions:
    """Say which versions are there, of a package with four needs."""

    def say(**versions: str) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        about = email.message.Message()
        for extra in ("mesh", "video", "many", "docs"):
            about["Provides-Extra"] = extra
        monkeypatch.setattr(importlib.metadata, "metadata", lambda name: about)
        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(importlib.metadata, "requires", {"lorgnette": NEEDS, "big": BIG}.get)

    return say


def lacking(file: Path, status: int) -> dict[str, list[str]]:
    assert main(["doctor", "--json", str(file)]) == status
    found = json.loads(file.read_text())["lacking"]
    return {extra: missing for extra, missing in found.items() if missing}


def test_what_is_missing_is_named_with_what_to_do(
    installed: Versions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    installed(torch="2.13.0+cpu", nibabel="4.9", big="1")
    assert lacking(tmp_path / "d.json", 0) == {
        "mesh": ["nibabel is 4.9, >=5 is needed"],
        "video": ["av is not there"],
        "many": ["ray is not there"],
    }
    printed = capsys.readouterr().out
    assert "pip install 'lorgnette[video]'" in printed
    assert f"pip of this environment: {sys.executable} -m pip" in printed
    assert "docs" not in printed


def test_what_everything_needs_decides(installed: Versions, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    installed(torch="2.9.1", nibabel="5.3", av="18.0", big="1", ray="2.1")
    assert lacking(tmp_path / "d.json", 2) == {"": ["torch is 2.9.1, >=2.11 is needed"]}
    assert "all " in capsys.readouterr().out


def test_nothing_is_missing_where_all_is_there(installed: Versions, tmp_path: Path):
    installed(torch="2.11.0", nibabel="5.0", av="18", big="1", ray="2.4", numpy="1.0")
    assert lacking(tmp_path / "d.json", 0) == {}


def test_of_this_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--json", str(tmp_path / "d.json")]) == 0
    found = json.loads((tmp_path / "d.json").read_text())
    known = importlib.metadata.metadata("lorgnette").get_all("Provides-Extra") or []
    assert set(found["lacking"]) == {"", *known} - set(FOR_DEVELOPERS)
    assert Path(found["places"]["package"]).name == "lorgnette"
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(FOR_DEVELOPERS) <= set(declared)
    assert "PyTorch" in capsys.readouterr().out


def test_the_page_for_the_start_lists_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "getting-started.md").read_text().partition("## Extras")[2].partition("\n## ")[0]
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert listed == set(project["optional-dependencies"]) - {"bench", "browser"}
