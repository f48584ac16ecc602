"""Pose gets in by the low-rank path alone; views see each other, and nobody else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lorgnette import lora
from lorgnette.lora import LoRALinear
from lorgnette.systems.faceview import CrossViewAttention, LoRALinearLayer, PoseConditionedLoRAAttention
from lorgnette.systems.faceview.attention import PosedLinear, collapse_from_multiview, expand_to_multiview


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def shake(module: nn.Module, words: str = "lora_") -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if words in name:
                parameter.add_(0.3 * torch.randn_like(parameter))


def test_the_linear_layer_is_the_core_s():
    layer = LoRALinearLayer(in_features=512, out_features=512, rank=4, alpha=1.0)
    assert isinstance(layer, LoRALinear)
    assert layer.scaling == 0.25
    assert LoRALinearLayer(8, 8, rank=16, alpha=None).scaling == 1  # a rank above the width is allowed
    assert sum(p.numel() for p in layer.get_trainable_parameters()) == 4096
    assert [p.requires_grad for p in layer.parameters()].count(True) == 2
    x = torch.randn(8, 3, 512)
    assert torch.equal(layer(x), x @ layer.weight.T)
    shake(layer)
    wanted = x @ layer.weight.T + 0.25 * x @ layer.lora_A.T @ layer.lora_B.T
    assert torch.allclose(layer(x), wanted, atol=1e-4)
    merged = layer.merge_weights()
    assert type(merged) is not type(layer)
    assert torch.allclose(merged(x), wanted, atol=1e-4)
    with pytest.raises(ValueError, match="at least 1"):
        LoRALinearLayer(8, 8, rank=0)


def test_the_seed_s_call():
    attn = PoseConditionedLoRAAttention(feature_dim=512, pose_dim=3, num_heads=8, rank=4, alpha=1.0)
    output, weights = attn(torch.randn(8, 512), torch.randn(8, 3), return_attention=True)
    assert output.shape == (8, 512)
    assert weights.shape == (8, 8, 1, 1)
    assert (weights == 1).all()  # of one token
    output, weights = attn(torch.randn(8, 6, 512), torch.randn(8, 3), return_attention=True)
    assert output.shape == (8, 6, 512)
    assert torch.allclose(weights.sum(-1), torch.ones(8, 8, 6))
    trained = {name.split(".")[-1] for name, p in attn.named_parameters() if p.requires_grad}
    assert trained == {"lora_A", "lora_B"}
    assert sum(p.numel() for p in attn.parameters() if p.requires_grad) == 4 * (3 * (512 + 9 + 512) + 1024)


def test_pose_counts_through_the_adapter_alone():
    attn = PoseConditionedLoRAAttention(32, 3, 4, rank=4, alpha=4.0).eval()
    x, pose, other = torch.randn(5, 3, 32), torch.randn(5, 3), torch.randn(5, 3)
    assert torch.equal(attn(x, pose), attn(x, other))  # B is 0
    shake(attn)
    assert not torch.allclose(attn(x, pose), attn(x, other), atol=1e-3)
    with lora.disabled(attn):
        assert torch.equal(attn(x, pose), attn(x, other))
    wanted = attn(x, pose)
    merged = lora.merge_lora_weights(attn)
    assert torch.allclose(merged(x, pose), wanted, atol=1e-5)


@pytest.mark.parametrize("copied", [False, True])
def test_the_base_s_columns_for_the_pose_do_not_learn(copied: bool):
    attn = PoseConditionedLoRAAttention(16, 3, 2, rank=0)
    attn = copy.deepcopy(attn) if copied else attn
    attn(torch.randn(4, 3, 16), torch.randn(4, 3)).square().sum().backward()
    for layer in (attn.q, attn.k, attn.v):
        assert isinstance(layer, PosedLinear)
        assert not layer.weight[:, 16:].any()
        gradient = layer.weight.grad
        assert gradient is not None
        assert not gradient[:, 16:].any()
        assert gradient[:, :16].any()


def test_it_is_the_attention_of_torch():
    ours, theirs = PoseConditionedLoRAAttention(24, 3, 4, rank=0), nn.MultiheadAttention(24, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.weight[:, :24] for layer in (ours.q, ours.k, ours.v)]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in (ours.q, ours.k, ours.v)]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x, context, seen = torch.randn(2, 5, 24), torch.randn(2, 7, 24), torch.rand(5, 7) > 0.3
    seen[:, 0] = True
    expected, weights = theirs(x, context, context, attn_mask=~seen, average_attn_weights=False)
    output, own = ours(x, torch.zeros(2, 3), context=context, attn_mask=seen, return_attention=True)
    assert torch.allclose(output, expected, atol=1e-6)
    assert torch.allclose(own, weights, atol=1e-6)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="heads: 5 does not divide the width 512"):
        PoseConditionedLoRAAttention(512, 3, 5)
    attn = PoseConditionedLoRAAttention(16, 3, 2)
    with pytest.raises(ValueError, match="are these degrees"):
        attn(torch.randn(2, 16), torch.tensor([[0.0, 65, 0]] * 2))
    with pytest.raises(ValueError, match="pose: 2 angles were given; 3 are expected"):
        attn(torch.randn(2, 16), torch.zeros(2, 2))


def cross_view(**settings) -> CrossViewAttention:
    layer = CrossViewAttention(32, 4, **settings).eval()
    shake(layer, "out")
    return layer


def test_views_change_nothing_at_the_start():
    layer = CrossViewAttention(feature_dim=512, num_heads=8, n_views=5)
    features = torch.randn(40, 512)
    assert torch.equal(layer(features), features)
    assert layer(torch.randn(40, 3, 512)).shape == (40, 3, 512)


def test_permuted_views_permute_the_answers():
    layer, x, order = cross_view(n_views=5), torch.randn(15, 32), torch.randperm(5)
    rows = (torch.arange(3)[:, None] * 5 + order).flatten()
    assert torch.allclose(layer(x[rows]), layer(x)[rows], atol=1e-6)


def test_groups_do_not_see_each_other():
    layer, x = cross_view(n_views=3), torch.randn(9, 32)
    changed = x.clone()
    changed[3:6] += torch.randn(3, 32)
    assert torch.equal(layer(changed)[:3], layer(x)[:3])
    assert torch.equal(layer(changed)[6:], layer(x)[6:])
    assert not torch.allclose(layer(changed)[3:6] - changed[3:6], layer(x)[3:6] - x[3:6], atol=1e-3)


def test_masked_views_are_not_seen():
    layer, x = cross_view(n_views=3), torch.randn(6, 32)
    mask = torch.tensor([True, True, False] * 2)
    changed = x.clone()
    changed[2::3] += 3
    assert torch.equal(layer(changed, view_mask=mask)[:2], layer(x, view_mask=mask)[:2])
    y, weights = layer(x, view_mask=torch.zeros(6, dtype=torch.bool), return_attention=True)
    assert not weights.any()
    assert torch.isfinite(y).all()


def test_a_view_can_be_kept_from_itself():
    layer, x = cross_view(n_views=2, exclude_self=True), torch.randn(4, 32)
    weights = layer(x, return_attention=True)[1]
    assert torch.equal(weights, torch.tensor([[0.0, 1], [1, 0]]).expand_as(weights))
    with pytest.raises(ValueError, match="n_views: 1 is too small"):
        CrossViewAttention(32, 4, 1, exclude_self=True)
    assert cross_view(n_views=1)(x).shape == x.shape


def test_a_batch_that_is_no_multiple():
    with pytest.raises(ValueError, match="批次大小必须是n_views的倍数") as refusal:
        CrossViewAttention(32, 4, 5)(torch.randn(41, 32))
    assert "a batch of 41 is no multiple of n_views=5; 40 works" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_rank_trains_adapters_alone():
    layer = CrossViewAttention(32, 4, 3, rank=2)
    assert {name.split(".")[-1] for name, p in layer.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


def test_views_expanded_and_collapsed():
    x = torch.randn(4, 6, 3).transpose(1, 2)  # not contiguous
    views = expand_to_multiview(x, 5)
    assert views.shape == (20, 3, 6)
    assert torch.equal(views[5], x[1])
    assert torch.allclose(collapse_from_multiview(views, 5), x)
    with pytest.raises(ValueError, match="no multiple"):
        collapse_from_multiview(views, 3)
