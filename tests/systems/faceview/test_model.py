"""The mapping: zero at the start, row by row, counted, and strict about what it is given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lorgnette import lora
from lorgnette.systems.faceview import EnhancedTransformerDecoderOnly3D
from lorgnette.systems.faceview.model import dream_gate

SMALL = {"d_model": 32, "nhead": 4, "num_layers": 2, "dim_feedforward": 48}


def small(**settings) -> EnhancedTransformerDecoderOnly3D:
    torch.manual_seed(0)
    return EnhancedTransformerDecoderOnly3D(**{**SMALL, **settings}).eval()


def batch(n: int = 6, width: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    shapes = {"src": (n, width), "angles": (n, 3), "keypoints_3d": (n, 5, 3), "pose": (n, 3)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def shake(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_residual_is_zero_at_the_start(n: int):
    model, given = EnhancedTransformerDecoderOnly3D(num_layers=1), batch(n, 512)
    assert not model(**given).any()
    assert torch.equal(model(**given, return_residual=False), given["src"])


@pytest.mark.parametrize("settings", [{}, {"num_tokens": 1}, {"gate": "dream"}, {"use_pose_attention": False},
    {"use_angle_pe": False, "use_angle_conditioning": False}, {"activation": "relu"}], ids=str)  # fmt: skip
def test_rows_do_not_see_each_other(settings: dict):
    model, given = shake(small(**settings)), batch(6)
    whole = model(**given)
    assert whole.abs().max() > 1e-3
    order = torch.tensor([3, 1, 5])
    part = model(**{name: value[order] for name, value in given.items()})
    assert torch.allclose(part, whole[order], atol=1e-6)
    changed = given | {"src": given["src"].clone()}
    changed["src"][0] += 100
    assert torch.equal(model(**changed)[1:], whole[1:])


def test_what_it_is_given_counts():
    model, given = shake(small()), batch()
    whole = model(**given)
    for name in given:
        assert not torch.allclose(model(**given | {name: given[name] * 0.5}), whole, atol=1e-4), name
    assert torch.equal(model(**given | {"pose": None}), model(**given | {"pose": torch.zeros(6, 3)}))
    without = shake(small(use_projection_layer=False))
    assert without(given["src"], given["angles"]).shape == (6, 32)
    assert torch.equal(model(**given | {"angles": torch.cat([given["angles"], torch.ones(6, 2)], 1)}), whole)


def test_degrees_and_radians():
    given = batch() | {"angles": torch.tensor([[3.0, 60, 1]] * 6), "pose": torch.zeros(6, 3)}
    in_degrees = shake(small(angle_unit="deg"))(**given)
    assert torch.equal(shake(small())(**given | {"angles": torch.deg2rad(given["angles"])}), in_degrees)
    with pytest.raises(ValueError, match="angles: 60 is beyond 2 pi radians; are these degrees"):
        small()(**given)


def test_the_gate_leaves_what_is_frontal():
    given = batch() | {"angles": torch.zeros(6, 3), "pose": torch.zeros(6, 3)}
    assert shake(small(gate="dream"))(**given).abs().max() <= 5e-5 * shake(small())(**given).abs().max()
    yaw = torch.deg2rad(torch.tensor([0.0, 20, 45, 60, 90, -90]))
    gate = dream_gate(yaw, torch.zeros(6))
    assert gate.tolist() == pytest.approx([4.54e-5, 0.00385, 0.5, 0.9656, 0.999955, 0.999955], rel=2e-3)
    assert dream_gate(yaw, yaw).tolist() == pytest.approx([4.54e-5] * 6, rel=1e-2)


@pytest.mark.parametrize(("rank", "trained"), [(4, 132_096 + 256), (8, 264_704), (16, 529_408)])
def test_the_true_table_of_parameters(rank: int, trained: int):
    with torch.device("meta"):
        model = EnhancedTransformerDecoderOnly3D(use_lora_attention=False, use_projection_layer=False)
    total = sum(p.numel() for p in model.parameters())
    assert total == 18_383_872
    adapted = EnhancedTransformerDecoderOnly3D(rank=rank, use_projection_layer=False)
    counted = sum(p.numel() for p in adapted.get_lora_parameters())
    assert counted == rank * 8 * (3 * (512 + 9 + 512) + 1024)
    assert counted == pytest.approx(trained, rel=1e-2)
    assert counted == sum(p.numel() for p in adapted.get_trainable_parameters(include_base=False))
    assert counted < sum(p.numel() for p in adapted.get_trainable_parameters())
    assert counted / (total + counted) < 0.03


def test_a_base_is_loaded_strictly():
    base = shake(small(use_lora_attention=False, use_projection_layer=False))
    plain = small(use_lora_attention=False, use_projection_layer=False)
    plain.load_state_dict(base.state_dict())  # the plain way
    enhanced, given = small(), batch()
    enhanced.load_base(base.state_dict())
    assert torch.allclose(enhanced(**given), base(**given), atol=1e-6)
    assert torch.equal(plain(**given), base(**given))
    state = base.state_dict()
    with pytest.raises(ValueError, match="is d_model 32 right"):
        enhanced.load_base(small(d_model=64, use_lora_attention=False, use_projection_layer=False).state_dict())
    with pytest.raises(ValueError, match=r"lacks 'norm\.bias' and 0 more"):
        enhanced.load_base({name: value for name, value in state.items() if name != "norm.bias"})
    with pytest.raises(ValueError, match="no part of this network"):
        enhanced.load_base(state | {"nrm.bias": state["norm.bias"]})


def test_adapters_of_the_core_fit():
    """A base of the room, injected, is the network that the page makes with its flag."""
    base = shake(small(use_lora_attention=False))
    state = base.state_dict()
    lora.inject_lora(base, r=4, lora_alpha=1, target_modules=r"layers\.\d+\.(self|cross)_attn\.(q|k|v|out)")
    made = small()
    made.load_base(state)
    assert {n for n, _ in base.named_parameters()} == {n for n, _ in made.named_parameters()}
    assert torch.equal(base(**batch()), made(**batch()))


def test_views_of_one_sample_see_each_other():
    model, given = shake(small(use_cross_view=True, n_views=3)), batch(6)
    apart, together = model(**given), model(**given, multiview_input=True)
    assert not torch.allclose(apart, together, atol=1e-4)
    changed = given | {"src": given["src"].clone()}
    changed["src"][5] += 1
    moved = model(**changed, multiview_input=True)
    assert torch.equal(moved[:3], together[:3])
    assert not torch.allclose(moved[3:5], together[3:5], atol=1e-5)
    with pytest.raises(ValueError, match="no multiple of n_views=3"):
        model(**batch(4), multiview_input=True)


def test_all_of_the_attention_learns_with_four_tokens():
    """And with one, queries and keys of the self-attention do not: the softmax over one key is 1."""
    for tokens in (4, 1):
        model = shake(small(use_lora_attention=False, num_tokens=tokens))
        model(**batch()).square().sum().backward()
        own = model.layers[0].self_attn
        size = {name: float(getattr(own, name).weight.grad.abs().max()) for name in ("q", "k", "v")}
        assert size["v"] > 1e-3
        assert (min(size["q"], size["k"]) > 1e-4 * size["v"]) == (tokens == 4)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="heads: 5 does not divide"):
        small(nhead=5)
    with pytest.raises(ValueError, match="num_tokens: 3 does not divide d_model 32"):
        small(num_tokens=3)
    with pytest.raises(ValueError, match="gate: 'deram' does not work"):
        small(gate="deram")
    model, given = small(), batch()
    with pytest.raises(ValueError, match="keypoints_3d: missing"):
        model(given["src"], given["angles"])
    with pytest.raises(ValueError, match=r"src: shape \(6, 16\) does not work; \(B, 32\) does"):
        model(**given | {"src": given["src"][:, :16]})
    with pytest.raises(ValueError, match=r"angles: shape \(5, 3\)"):
        model(**given | {"angles": given["angles"][:5]})
    with pytest.raises(ValueError, match="keypoints_from_68"):
        model(**given | {"keypoints_3d": torch.randn(6, 68, 3)})
    with pytest.raises(ValueError, match=r"keypoints_3d: shape \(6, 4, 3\)"):
        small(use_projection_layer=False)(**given | {"keypoints_3d": torch.randn(6, 4, 3)})
