"""TorchScript files: adapters folded in, sizes free or refused, and the deprecation said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.systems.sixth.recipe import Recipe
from torch import nn

from lorgnette import lora
from lorgnette.export import export, export_torchscript, read_manifest
from lorgnette.recipe import build
from lorgnette.systems import ROOMS, room


def adapted() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)).eval()
    lora.inject_lora(net, lora.LoRAConfig(r=2, target_modules=["0", "2"]))
    with torch.no_grad():
        for parameter in lora.get_lora_params(net):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_as_the_requirement_calls_it(tmp_path: Path):
    net, path = adapted(), tmp_path / "a.pt"
    with pytest.warns(DeprecationWarning, match="TorchScript is deprecated since PyTorch"):
        assert export_torchscript(net, torch.rand(1, 3, 12, 10), path) == path
    assert lora.is_adapted(net)
    loaded = torch.jit.load(str(path))
    assert not any("lora" in name for name, _ in loaded.named_parameters())
    for size in ((12, 10), (17, 9)):
        x = torch.rand(2, 3, *size)
        torch.testing.assert_close(loaded(x), net(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"^TorchScript cannot express this network: ") as refusal:
        export_torchscript(net, torch.rand(1, 4, 12, 10), tmp_path / "b.pt")
    assert "\n" not in str(refusal.value)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_a_room_s_file_has_a_manifest_and_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ROOMS, "sixth", "tests.systems.sixth")
    recipe = Recipe()
    report = export(build(recipe), recipe, tmp_path / "lines.ts")
    assert (report.format, len(report.differences)) == ("torchscript", 5)
    assert report.difference <= 1e-6
    manifest = read_manifest(tmp_path / "lines.ts")
    assert manifest is not None
    assert manifest.room == "sixth"


@pytest.mark.slow
def test_a_network_whose_loops_are_unrolled_is_not_kept(tmp_path: Path):
    recipe, _, _ = room("superres").tiny()
    with pytest.raises(ValueError, match=r"fixes sizes|differ|gives"):
        export(build(recipe), recipe, tmp_path / "a.ts")
    assert list(tmp_path.iterdir()) == []
