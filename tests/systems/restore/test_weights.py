"""Checkpoints as upstream writes them, and files that are something else."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lorgnette.systems.restore import MambaIR, Model, from_upstream
from lorgnette.systems.restore.weights import deduced, load_base

SETTINGS: list[dict[str, Any]] = [
    {"upscale": 1},
    {"upscale": 1, "in_chans": 1, "resi_connection": "3conv", "patch_norm": False, "mlp_ratio": 1.2},
    {"upscale": 2, "upsampler": "pixelshuffle"},
    {"upscale": 3, "upsampler": "pixelshuffle"},
    {"upscale": 4, "upsampler": "pixelshuffle", "mlp_ratio": 2.0},
    {"upscale": 3, "upsampler": "pixelshuffledirect"},
]


def network(**settings: Any) -> MambaIR:
    torch.manual_seed(0)
    return MambaIR(**({"embed_dim": 31, "depths": (1, 2), "d_state": 3, "mlp_ratio": 1.3} | settings)).eval()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_the_tensors_tell_is_read_off_them(settings: dict[str, Any]):
    model = network(**settings)
    again = from_upstream(model.state_dict())
    x = torch.rand(1, model.in_chans, 5, 6)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert deduced(model.state_dict())["depths"] == [1, 2]


def test_averaged_weights_are_preferred_and_the_rest_is_understood(tmp_path: Path):
    model, other = network(upscale=1), network(upscale=1)
    torch.nn.init.ones_(other.conv_first.bias)
    prefixed = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"params": other.state_dict(), "params_ema": prefixed}, tmp_path / "net_g_latest.pth")
    torch.save({"params": model.state_dict()}, tmp_path / "released.pth")
    save_file({name: tensor.half() for name, tensor in model.state_dict().items()}, tmp_path / "half.safetensors")
    for name in ("net_g_latest.pth", "released.pth"):
        read = from_upstream(tmp_path / name)
        pairs = zip(read.state_dict().values(), model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert from_upstream(tmp_path / "half.safetensors").conv_first.weight.dtype == torch.float32


def test_a_checkpoint_of_another_depth_names_the_first_tensor_that_differs():
    deeper = network(upscale=1, depths=(1, 3)).state_dict()
    with pytest.raises(ValueError, match=r"'layers\.1\.residual_group\.blocks\.2\.\S+ is not part of this network"):
        from_upstream(deeper, depths=(1, 2))
    with pytest.raises(ValueError, match=r"lacks 'layers\.1\.residual_group\.blocks\.3\."):
        from_upstream(deeper, depths=(1, 4))
    with pytest.raises(ValueError, match=r"x_proj_weight has shape \(4, 8, 40\), not \(4, 8, 62\)"):
        from_upstream(deeper, mlp_ratio=2.0)


def test_the_map_may_be_absent_from_a_checkpoint_and_nothing_else():
    plain = network(upscale=1)
    mapped = from_upstream(plain.state_dict(), use_lora_cache=True, lora_rank=4)
    x = torch.rand(1, 3, 5, 6)
    with torch.no_grad():
        assert torch.equal(mapped(x, cache_key=1), plain(x))
    again = from_upstream(mapped.state_dict(), use_lora_cache=True, lora_rank=4)
    assert again.state_dict().keys() == mapped.state_dict().keys()
    state = plain.state_dict()
    del state["norm.weight"]
    with pytest.raises(ValueError, match=r"lacks 'norm.weight'"):
        from_upstream(state, use_lora_cache=True)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of the file has run",)


def test_strange_files_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with (tmp_path / "code.pth").open("wb") as file:
        pickle.dump({"params": Harmful()}, file)
    torch.save({"params": {"a": torch.zeros(2)}}, tmp_path / "other.pth")
    torch.save({"params_ema": {}}, tmp_path / "empty.pth")
    for name, message in (("code", "refused unrun"), ("other", "no checkpoint of MambaIR"), ("empty", "no state dict")):
        with pytest.raises(ValueError, match=message) as refusal:
            from_upstream(tmp_path / f"{name}.pth")
        assert "\n" not in str(refusal.value)
    assert "has run" not in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        from_upstream(tmp_path / "none.pth")


def test_the_shipped_weights_go_with_their_own_settings_only():
    with pytest.raises(ValueError, match=r"^model.base: the shipped weights have model.embed_dim 64, not 48"):
        load_base(replace(Model(), embed_dim=48))
