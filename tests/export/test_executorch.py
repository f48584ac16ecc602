"""Programs for phones: as the network, with a manifest behind them, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.export.test_manifest import MANIFEST
from tests.export.test_torchscript import adapted
from tests.systems.sixth.recipe import Recipe
from torch import nn

from lorgnette import lora
from lorgnette.checkpoint import save
from lorgnette.cli import main
from lorgnette.export import convert_for_mobile, export, read_manifest
from lorgnette.export.executorch import lowered, runner
from lorgnette.export.manifest import MAGIC, with_tail
from lorgnette.export.program import traced_freely
from lorgnette.nn.loop import loop
from lorgnette.recipe import build
from lorgnette.systems import ROOMS, room
from lorgnette.train.loop import fit


def needs_executorch() -> None:
    pytest.importorskip("executorch.exir", reason="pip install 'lorgnette[mobile]'")


@pytest.mark.slow
def test_a_room_s_file_runs_and_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    needs_executorch()
    monkeypatch.setitem(ROOMS, "sixth", "tests.systems.sixth")
    recipe, batches, _ = room("sixth").tiny()
    assert isinstance(recipe, Recipe)
    task = build(recipe)
    fit(task, batches, recipe.train)
    report = export(task, recipe, tmp_path / "lines.pte")
    assert (report.format, len(report.differences)) == ("executorch", 5)
    assert report.difference <= 1e-6
    assert report.bytes == (tmp_path / "lines.pte").stat().st_size
    manifest = read_manifest(tmp_path / "lines.pte")
    assert manifest is not None
    assert manifest.room == "sixth"
    kept = save(task, recipe, tmp_path / "kept")
    figures = tmp_path / "figures.json"
    assert main(["export", str(kept), str(tmp_path / "b.pte"), "--json", str(figures)]) == 0
    assert json.loads(figures.read_text())["difference"] <= 1e-6
    assert main(["info", str(tmp_path / "b.pte"), "--json", str(figures)]) == 0
    assert json.loads(figures.read_text())["room"] == "sixth"
    assert f"wrote     {tmp_path / 'b.pte'}" in capsys.readouterr().out


@pytest.mark.slow
def test_as_the_requirement_calls_it(tmp_path: Path):
    needs_executorch()
    net, path = adapted(), tmp_path / "a.pte"
    assert convert_for_mobile(net, torch.rand(2, 3, 12, 10), path) == path
    assert lora.is_adapted(net)
    run = runner(path)
    for size in ((12, 10), (17, 9)):  # sizes are free
        x = torch.rand(3, 3, *size)
        torch.testing.assert_close(run(x), net(x), rtol=1e-4, atol=1e-5)

    class Sorted(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    with pytest.raises(ValueError, match=r"^ExecuTorch cannot express this network: .*svd") as refusal:
        convert_for_mobile(Sorted(), torch.rand(4, 4), tmp_path / "b.pte")
    assert "\n" not in str(refusal.value)
    with pytest.raises(FileNotFoundError, match="no such folder: nothing"):
        convert_for_mobile("nothing", torch.rand(4, 4), tmp_path / "b.pte")
    assert [file.name for file in tmp_path.iterdir()] == ["a.pte"]


def test_loops_are_refused_by_name():
    class Looped(nn.Module):
        def forward(self, x):
            return loop(lambda carried, row: (carried + row, carried * row), torch.zeros(4), [x])[1]

    graph = traced_freely(Looped(), (torch.rand(3, 4),))
    with pytest.raises(ValueError, match=r"^ExecuTorch has no loops of free length, .*; --size 128"):
        lowered(graph)


def test_the_manifest_behind_a_program(tmp_path: Path):
    file = tmp_path / "a.pte"
    file.write_bytes(with_tail(b"program", MANIFEST))
    assert file.read_bytes().startswith(b"program{")
    assert read_manifest(file) == MANIFEST
    for content in (b"", b"program", b"x" * 500):
        file.write_bytes(content)
        assert read_manifest(file) is None
    file.write_bytes(b"short" + (6).to_bytes(8, "little") + MAGIC)
    with pytest.raises(ValueError, match=r"a\.pte is no intact .* \(its manifest has 6 bytes; 5 are the most"):
        read_manifest(file)
    file.write_bytes(b"{nope" + (5).to_bytes(8, "little") + MAGIC)
    with pytest.raises(ValueError, match=r"a\.pte: its manifest is damaged"):
        read_manifest(file)


def test_without_executorch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "executorch.exir", None)
    with pytest.raises(ValueError, match=r"^executorch is not installed: pip install 'lorgnette\[mobile\]'"):
        convert_for_mobile(adapted(), torch.rand(1, 3, 12, 10), tmp_path / "a.pte")
    assert list(tmp_path.iterdir()) == []
