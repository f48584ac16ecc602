"""MambaIR against the published network, and its options."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lorgnette import lora
from lorgnette.nn import ss2d
from lorgnette.nn.selective_scan import NUMBA, selective_scan
from lorgnette.systems.restore import MambaIR
from lorgnette.systems.restore.model import CAB

# made with the authors' code, csguoh/MambaIR 33d7b346, and mamba's reference scan
GOLDENS = Path(__file__).parents[2] / "data" / "mambair"
CASES = json.loads((GOLDENS / "cases.json").read_text())
PUBLISHED = json.loads((GOLDENS / "published.json").read_text())
WAYS = ("numba", "blocked", "doubling")


def weight(seed: int, key: str, shape: tuple[int, ...]) -> Tensor:
    """The weights of the goldens: a hash of seed and name seeds each tensor."""
    start = int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:4], "big")
    g = np.random.RandomState(start).standard_normal(shape)
    leaf = key.rpartition(".")[2]
    fans = {"x_proj_weight": 3.0, "dt_projs_weight": 1.0}
    if leaf == "A_logs":
        g = np.log(np.arange(1, shape[1] + 1, dtype=np.float64)) + 0.1 * g
    elif leaf == "Ds":
        g = 0.5 + 0.2 * g
    elif leaf == "dt_projs_bias":
        g = -3.0 + 0.7 * g
    elif leaf in fans:
        g = g * fans[leaf] / np.sqrt(shape[-1])
    elif leaf.startswith("skip_scale"):
        g = 0.9 + 0.1 * g
    elif leaf == "bias":
        g = 0.05 * g
    else:
        g = 1.0 + 0.1 * g if len(shape) == 1 else g * 0.7 / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(g.astype(np.float32))


def published(case: str) -> MambaIR:
    model = MambaIR(**CASES[case]["config"]).eval()
    state = {key: weight(CASES[case]["seed"], key, tuple(t.shape)) for key, t in model.state_dict().items()}
    model.load_state_dict(state)
    return model.requires_grad_(False)


def tiny(**settings: Any) -> MambaIR:
    torch.manual_seed(0)
    return MambaIR(**({"embed_dim": 30, "depths": (1, 2), "d_state": 3, "mlp_ratio": 1.1, "upscale": 1} | settings))


def published_cases() -> Iterator[Any]:
    """Every case in every way; one pair takes a minute."""
    for case, way in itertools.product(CASES, WAYS):
        marks = [pytest.mark.skipif(way == "numba" and not NUMBA, reason="needs numba")]
        marks += [pytest.mark.slow] if (case, way) == ("lightsr_x2", "doubling") else []
        yield pytest.param(case, way, marks=marks)


@pytest.mark.parametrize(("case", "way"), list(published_cases()))
def test_published_outputs(case: str, way: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ss2d, "selective_scan", lambda *inputs: selective_scan(*inputs, way=way))
    golden = load_file(GOLDENS / f"{case}.safetensors")
    model = published(case)
    assert (model(golden["input"]) - golden["output_f64"]).abs().max() <= 2e-5
    if "mid.block0_out" in golden:
        found: dict[str, Tensor] = {}
        group = model.layers[0]
        block = group.residual_group.blocks[0]
        for name, module in (("ss2d", block.self_attention), ("block0", block), ("group0", group)):
            module.register_forward_hook(lambda m, i, o, name=name: found.update({name: o, f"{name}_in": i[0]}))
        model(golden["input"])
        for name, mid in (("ss2d_in", "mid.ss2d_in"), ("ss2d", "mid.ss2d_out"), ("block0", "mid.block0_out"),
                          ("group0", "mid.group0_out")):  # fmt: skip
            wanted = golden[mid]
            assert (found[name].reshape(wanted.shape) - wanted).abs().max() <= 2e-5, mid


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_have_the_published_tensors(name: str):
    with torch.device("meta"):
        model = MambaIR(**PUBLISHED[name]["config"])
    state = model.state_dict()
    lines = sorted(f"{key} {'x'.join(map(str, tensor.shape))}" for key, tensor in state.items())
    lines.sort(key=lambda line: line.split()[0])
    assert len(state) == PUBLISHED[name]["tensors"]
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]["params"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == PUBLISHED[name]["sha256"]


@pytest.mark.parametrize(
    ("settings", "scale", "channels"),
    [
        ({}, 1, 3),
        ({"in_chans": 1, "img_range": 255.0}, 1, 1),
        ({"resi_connection": "3conv", "patch_norm": False}, 1, 3),
        ({"upscale": 4, "upsampler": "pixelshuffle"}, 4, 3),
        ({"upscale": 3, "upsampler": "pixelshuffle"}, 3, 3),
        ({"upscale": 3, "upsampler": "pixelshuffledirect", "in_chans": 1}, 3, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 6)])
@torch.no_grad()
def test_every_option_and_any_size(settings: dict[str, Any], scale: int, channels: int, size: tuple[int, int]):
    model = tiny(**settings).eval()
    assert model(torch.rand(2, channels, *size)).shape == (2, channels, size[0] * scale, size[1] * scale)


@torch.no_grad()
def test_the_inner_layers_see_pixels_up_to_img_range():
    """Of a grey network, which has no mean taken off: f(255 x) / 255."""
    torch.manual_seed(0)
    wide = tiny(in_chans=1, img_range=255.0).eval()
    torch.manual_seed(0)
    plain = tiny(in_chans=1).eval()
    x = torch.rand(1, 1, 7, 6)
    torch.testing.assert_close(wide(x), plain(x * 255) / 255)
    assert (wide(x) - plain(x)).abs().max() > 1e-3


def test_activation_checkpointing_gives_the_same_gradients():
    x = torch.rand(1, 3, 6, 5)
    results = []
    for flag in (False, True):
        model = tiny(use_checkpoint=flag, drop_path_rate=0.5).train()
        torch.manual_seed(1)
        model(x).square().sum().backward()
        results.append({name: p.grad for name, p in model.named_parameters()})
    assert results[0].keys() == results[1].keys()
    for name, grad in results[0].items():
        torch.testing.assert_close(results[1][name], grad, rtol=1e-5, atol=1e-7)


def test_blocks_are_dropped_whole_in_training_only():
    x = torch.rand(4, 3, 5, 5)
    model = tiny(drop_path_rate=0.9)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    assert torch.equal(model(x), tiny().eval()(x))


def test_light_attention_goes_with_the_light_head():
    light = tiny(upsampler="pixelshuffledirect", upscale=2)
    kinds = [m for m in light.modules() if isinstance(m, CAB)]
    assert all(len(cab.cab) == 6 for cab in kinds)
    assert all(len(m.cab) == 4 for m in tiny().modules() if isinstance(m, CAB))


def test_a_map_that_was_never_trained_changes_nothing():
    plain, mapped = tiny().eval(), tiny(use_lora_cache=True, lora_rank=4, cache_size=2).eval()
    missing = mapped.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert {name.rpartition(".")[2] for name in missing} == {"map_A", "map_B", "gate"}
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(mapped(x, cache_key="clip"), plain(x))
        assert torch.equal(mapped(x, cache_key="clip"), plain(x))
    caches = [module.cache for module in mapped.modules() if getattr(module, "cache", None) is not None]
    assert [(len(cache), cache.hits) for cache in caches] == [(2, 1)] * 3
    mapped.clear_cache()
    assert all(len(cache) == 0 for cache in caches)
    assert all(len(m.cache) == 0 for m in copy.deepcopy(mapped).modules() if getattr(m, "cache", None) is not None)


def test_every_kind_of_layer_can_be_adapted_and_merged():
    model = tiny(upsampler="pixelshuffledirect", upscale=2)
    config = lora.LoRAConfig(
        r=2,
        target_modules=["in_proj", "out_proj", "conv2d", "cab.0", "cab.1", "cab.3", "cab.4", "conv", "upsample.0"],
        target_parameters=["x_proj_weight", "dt_projs_weight"],
    )
    lora.inject_lora(model, config)
    x = torch.rand(1, 3, 6, 7)
    report = lora.verify(model, x)
    assert report.ok, str(report)
    assert len(report.checked) == 3 * 9 + 3
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        adapted = model.eval()(x)
        merged = lora.merge_lora_weights(model)(x)
    assert (merged - adapted).norm() <= 1e-5 * adapted.norm()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed_dim": 24}, "^embed_dim: 24 leaves no channel"),
        ({"upsampler": "nearest"}, "^upsampler: 'nearest' is not known; '', 'pixelshuffle', 'pixelshuffledirect' work"),
        ({"resi_connection": "2conv"}, "^resi_connection: '2conv'"),
        ({"upsampler": "pixelshuffle", "upscale": 5}, "^upscale: 5 cannot be shuffled"),
        ({"dept": 3}, "^dept: is no setting of MambaIR"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)


def test_settings_that_upstream_ignores_are_taken():
    assert sum(p.numel() for p in tiny(window_size=8).parameters()) == sum(p.numel() for p in tiny().parameters())


def test_a_grey_batch_for_a_colour_network_is_named():
    message = r"^x: \(1, 1, 4, 4\) is no batch for this colour network; \(B, 3, H, W\)"
    with pytest.raises(ValueError, match=message):
        tiny()(torch.rand(1, 1, 4, 4))
