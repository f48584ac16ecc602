"""The decoder beside the published one's outputs, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from tests.systems.mesh import goldens
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.systems.mesh.convolution import SubmanifoldConv3d
from lorgnette.systems.mesh.model import SLatMeshDecoder, WindowedAttention
from lorgnette.systems.mesh.structure import LIMIT, Structure, Structures
from lorgnette.systems.mesh.weights import from_upstream

SMALL = {"resolution": 8, "model_channels": 32, "num_blocks": 2, "num_heads": 2, "num_groups": 4, "window_size": 4}


def small(**more: object) -> SLatMeshDecoder:
    """Random everywhere, also where training begins with zeros."""
    torch.manual_seed(0)
    model = SLatMeshDecoder(**(SMALL | more)).eval()
    for name, parameter in model.named_parameters():
        if not name.endswith("bias"):
            nn.init.normal_(parameter, std=0.2)
    return model


def voxels(count: int, side: int, items: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(torch.arange(items), *[torch.arange(side)] * 3)
    return grid[torch.randperm(len(grid), generator=generator)[:count].sort().values]


def test_outputs_equal_the_published_decoders():
    shapes, golden = goldens.cut()
    model = from_upstream(goldens.state(shapes["full_attention"]), resolution=8, attn_mode="full")
    coords, values = model.features(golden["coords"], golden["feats"])
    assert coords.shape == (64 * len(golden["coords"]), 4)
    assert values.shape == (len(coords), 101)
    assert (values[:256] - golden["out_feats_first256"]).abs().max() < 5e-5


@goldens.needs_goldens
@pytest.mark.parametrize("case", goldens.CASES)
def test_outputs_equal_the_published_decoders_in_whole(case: str):
    told, golden = goldens.whole(case)
    names = ("resolution", "attn_mode", "window_size", "num_heads")
    model = from_upstream(goldens.state(told["state_dict_shapes"]), **{name: told["config"][name] for name in names})
    coords, values = model.features(golden["coords"], golden["feats"])
    assert torch.equal(coords, golden["up1_coords"])
    assert (values - golden["out_feats"]).abs().max() < 5e-5


def adapted() -> tuple[SLatMeshDecoder, dict[str, Tensor]]:
    """The network of a case with its adapters, and its arrays."""
    told, golden = goldens.whole("public_a_swin_window8")
    model = from_upstream(goldens.state(told["state_dict_shapes"]), resolution=16)
    lora.inject_lora(model, lora.LoRAConfig(r=4, lora_alpha=8, target_modules=["to_qkv", "to_out"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.from_numpy(goldens.made(name, parameter.shape)))
    return model, golden


@goldens.needs_goldens
@pytest.mark.parametrize("merged", [False, True])
def test_adapted_outputs_equal_the_published_decoders(merged: bool):
    """The adapters of the case raise the values' spread from 3 to 11, and rounding with it: see the test below."""
    model, golden = adapted()
    if merged:
        lora.merge_lora_weights(model)
    values = model.features(golden["coords"], golden["feats"])[1][:2048]
    difference = (values - golden["out_feats_lora_first2048"]).abs()
    assert difference.max() < 2e-5 * golden["out_feats_lora_first2048"].std()
    assert difference.mean() < 5e-5


@goldens.needs_goldens
def test_what_adapted_outputs_differ_by_is_the_rounding_of_both():
    """In 64 bits nothing of them is left but that: the published ones, in 32, are further than 5e-5 from it."""
    told, golden = goldens.whole("public_a_swin_window8")
    plain = from_upstream(goldens.state(told["state_dict_shapes"]), resolution=16).double()
    exact = plain.features(golden["coords"], golden["feats"].double())[1]
    assert exact.dtype == torch.float64
    assert (exact - golden["out_feats"]).abs().max() < 1e-5
    model, _ = adapted()
    ours = model.features(golden["coords"], golden["feats"])[1][:2048]
    exact = model.double().features(golden["coords"], golden["feats"].double())[1][:2048]
    theirs = golden["out_feats_lora_first2048"]
    assert 1e-4 < (theirs - exact).abs().max() < 2e-4
    assert (ours - exact).abs().max() < 3e-4
    assert (theirs - exact).abs().mean() < 2e-5


def test_all_tensors_of_the_published_configuration_load(tmp_path: Path):
    shapes = goldens.cut()[0]["768x12"]
    state = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}
    state["out_layer.bias"][7] = 3
    save_file(state, tmp_path / "slat_dec_mesh_swin8_B_64l8_fp16.safetensors")
    model = from_upstream(tmp_path / "slat_dec_mesh_swin8_B_64l8_fp16.safetensors")
    assert len(model.state_dict()) == len(shapes) == 120
    assert sum(p.numel() for p in model.parameters()) == 90_926_693
    assert model.blocks[0].attn.heads == 12
    assert model.out_layer.bias[7] == 3
    values = model.features(torch.tensor([[0, 3, 4, 5]]), torch.zeros(1, 8))[1]
    assert values.shape == (64, 101)
    assert bool((values[:, 7] == 3).all())


def test_what_published_files_are_wrapped_in_is_understood(tmp_path: Path):
    model = small(qk_rms_norm=True, use_color=True, mlp_ratio=3)
    ways = {"bare": model.state_dict(), "below": {"state_dict": model.state_dict(), "step": 3}}
    ways["prefixed"] = {f"_base_models.decoder.{name}": tensor for name, tensor in model.state_dict().items()}
    coords, feats = voxels(30, 8), torch.randn(30, 8)
    same = {"resolution": 8, "num_groups": 4, "window_size": 4}
    for name, content in ways.items():
        torch.save(content, tmp_path / f"{name}.ckpt")
        again = from_upstream(tmp_path / f"{name}.ckpt", **same)
        assert torch.equal(again.features(coords, feats)[1], model.features(coords, feats)[1])


def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path: Path):
    state = small().state_dict()
    same = {"resolution": 8, "num_groups": 4, "num_heads": 2}
    lacking = {name: tensor for name, tensor in state.items() if name != "blocks.1.attn.to_out.bias"}
    for wrong, said in [
        (lacking, r"lacks 'blocks\.1\.attn\.to_out\.bias'"),
        (state | {"blocks.0.attn.to_kv.weight": torch.zeros(2, 2)}, "to_kv.weight' is not part of this network"),
        (state | {"out_layer.weight": torch.zeros(54, 4)}, "54 outputs; a mesh decoder has 53, or 101"),
        (state | {"upsample.0.skip_connection.conv.weight": torch.zeros(8, 3)}, r"has shape \(8, 3\)"),
        ({"weight": torch.zeros(3, 3)}, "is no mesh decoder"),
        ({"x." + name: tensor for name, tensor in state.items()} | {"encoder.w": torch.zeros(1)}, "beside the decoder"),
    ]:
        with pytest.raises(ValueError, match=said) as error:
            from_upstream(wrong, **same)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="not all are settings"):
        from_upstream(state, groups=4)
    (tmp_path / "code.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match="refused unrun"):
        from_upstream(tmp_path / "code.pt")
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        from_upstream(tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    ("coords", "said"),
    [
        (torch.zeros(0, 4, dtype=torch.long), "N > 0"),
        (torch.zeros(3, 3, dtype=torch.long), "must be"),
        (torch.zeros(3, 4), "integers"),
        (torch.tensor([[0, 1, 1, 1], [0, 1, 1, 1]]), "named twice"),
        (torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]]), "sorted by the batch item"),
        (torch.tensor([[0, 1, -1, 1]]), r"must lie in \[0"),
        (torch.tensor([[0, 1, LIMIT, 1]]), r"must lie in \[0"),
    ],
)
def test_wrong_coordinates_are_refused(coords: Tensor, said: str):
    with pytest.raises(ValueError, match=said):
        Structure(coords)


def test_what_lies_outside_the_grid_and_wrong_features_are_refused():
    model = small()
    with pytest.raises(ValueError, match="outside a grid of 8"):
        model.features(torch.tensor([[0, 8, 0, 0]]), torch.zeros(1, 8))
    with pytest.raises(ValueError, match=r"feats: \(2, 8\) must be \(1, 8\)"):
        model.features(torch.tensor([[0, 7, 0, 0]]), torch.zeros(2, 8))
    for setting in ({"attn_mode": "shift_window"}, {"pe_mode": "rope"}, {"num_groups": 5}, {"num_heads": 3}):
        with pytest.raises(ValueError, match=next(iter(setting)).replace("num_heads", "heads")):
            small(**setting)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(2, 6), st.integers(1, 3), st.integers(0, 10**6))
def test_the_convolution_equals_a_dense_one(count: int, side: int, items: int, seed: int):
    torch.manual_seed(seed)
    structure = Structure(voxels(count, side, items, seed))
    conv = SubmanifoldConv3d(5, 3).double()
    feats = torch.randn(len(structure), 5, dtype=torch.float64, requires_grad=True)

    def dense(x: Tensor) -> Tensor:
        grid = x.new_zeros(items, side, side, side, 5).index_put(tuple(structure.coords.unbind(1)), x)
        out = F.conv3d(grid.movedim(-1, 1), conv.weight.movedim(-1, 1), conv.bias, padding=1).movedim(1, -1)
        return out[tuple(structure.coords.unbind(1))]

    ours, theirs = conv(feats, structure), dense(feats)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(ours)
    wanted = torch.autograd.grad(theirs, [feats, conv.weight, conv.bias], grad)
    for a, b in zip(torch.autograd.grad(ours, [feats, conv.weight, conv.bias], grad), wanted, strict=True):
        torch.testing.assert_close(a, b)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**6))
def test_a_convolution_of_children_is_one_of_the_parents(count: int, seed: int):
    torch.manual_seed(seed)
    structure = Structure(voxels(count, 4, 2, seed))
    conv = SubmanifoldConv3d(5, 3).double()
    feats = torch.randn(len(structure), 5, dtype=torch.float64, requires_grad=True)
    ours = conv.of_children(feats, structure)
    theirs = conv(feats.repeat_interleave(8, 0), structure.children)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(ours)
    wanted = torch.autograd.grad(theirs, [feats, conv.weight], grad)
    for a, b in zip(torch.autograd.grad(ours, [feats, conv.weight], grad), wanted, strict=True):
        torch.testing.assert_close(a, b)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.sampled_from([0, 3, 4, 8]), st.booleans(), st.integers(0, 10**6))
def test_windows_attend_as_a_mask_over_all_pairs_would(count: int, side: int, shifted: bool, seed: int):
    torch.manual_seed(seed)
    structure = Structure(voxels(count, 9, 2, seed))
    shift = side // 2 * shifted
    attention = WindowedAttention(8, 2, side, shift, qk_rms_norm=False).double()
    x = torch.randn(len(structure), 8, dtype=torch.float64)
    window = structure.coords.clone()
    window[:, 1:] = (window[:, 1:] + shift) // side if side else 0
    mask = (window[:, None] == window).all(-1)
    q, k, v = attention.to_qkv(x).unflatten(-1, (3, 2, 4)).permute(1, 2, 0, 3)
    whole = attention.to_out(F.scaled_dot_product_attention(q, k, v, mask).transpose(0, 1).flatten(1))
    torch.testing.assert_close(attention(x, structure), whole)


def test_short_windows_are_filled_up_by_a_quarter_at_most():
    structure = Structure(voxels(3000, 24))
    buckets, place = structure.windows(8, 4)
    assert torch.equal(torch.cat([voxels.flatten() for voxels, _ in buckets])[place], torch.arange(3000))
    for index, inside in buckets:
        assert inside is None or inside.sum(1).min() * 1.25 >= index.shape[1] or index.shape[1] <= 8


def test_an_item_of_a_batch_does_not_see_the_others():
    model = small()
    coords, feats = voxels(60, 8, 2), torch.randn(60, 8)
    together = model.features(coords, feats)[1].unflatten(0, (-1, 64))
    for item in (0, 1):
        mine = coords[:, 0] == item
        torch.testing.assert_close(model.features(coords[mine], feats[mine])[1].unflatten(0, (-1, 64)), together[mine])


def test_places_are_computed_once_and_forgotten_in_turn():
    structures, a = Structures(voxels=40), voxels(20, 4)
    first = structures(a)
    assert structures(a.clone()) is first
    structures(voxels(20, 4, seed=1))
    structures(voxels(20, 4, seed=2))
    assert structures(a) is not first


def test_adapters_reach_every_linear_layer_and_merge():
    model = small()
    lora.inject_lora(model, lora.LoRAConfig(r=2, target_modules="all-linear"))
    coords, feats = voxels(40, 8), torch.randn(40, 8)
    assert model.input_layer.r == model.out_layer.r == 2
    report = lora.verify(model, (coords, feats))
    assert report
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.05)
        adapted = model.features(coords, feats)[1]
        lora.merge_lora_weights(model)
        assert (model.features(coords, feats)[1] - adapted).abs().max() < 1e-5


class SparseLinear(nn.Linear):
    """As the original programs have it: a linear layer that takes and gives a sparse tensor."""

    def forward(self, input):
        return input.replace(super().forward(input.feats))


def test_a_linear_layer_of_sparse_tensors_is_refused_by_name():
    model = nn.ModuleDict({"to_qkv": nn.Linear(4, 12), "out_layer": SparseLinear(4, 53)})
    with pytest.raises(ValueError, match=r"out_layer.*SparseLinear.*forward of its own"):
        lora.inject_lora(model, lora.LoRAConfig(r=2, target_modules=["to_qkv", "out_layer"]))
    assert type(model["to_qkv"]) is nn.Linear


def test_q_alone_does_not_mean_qkv():
    with pytest.raises(ValueError, match="'to_q' matches no layer"):
        lora.inject_lora(small(), lora.LoRAConfig(r=2, target_modules=["to_q"]))
