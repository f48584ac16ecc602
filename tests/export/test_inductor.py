"""Packages of AOTInductor, where there is a compiler."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.systems.sixth.recipe import Recipe

from lorgnette.export import export, read_manifest
from lorgnette.recipe import build
from lorgnette.systems import ROOMS


@pytest.fixture(autouse=True)
def one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROOMS, "sixth", "tests.systems.sixth")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")
def test_a_package_runs_and_says_what_it_is(tmp_path: Path):
    recipe = Recipe()
    report = export(build(recipe), recipe, tmp_path / "lines.pt2", format="inductor")
    assert (report.format, len(report.differences)) == ("inductor", 5)
    assert report.difference <= 1e-6
    manifest = read_manifest(tmp_path / "lines.pt2")
    assert manifest is not None
    assert manifest.room == "sixth"
    assert [file.name for file in tmp_path.iterdir()] == ["lines.pt2"]


def test_without_a_compiler_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    recipe = Recipe()
    with pytest.raises(ValueError, match="there is no C\\+\\+ compiler no-such-compiler here") as refusal:
        export(build(recipe), recipe, tmp_path / "lines.pt2", format="inductor")
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []
