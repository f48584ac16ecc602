"""Blocks that make activations again: the same numbers, fewer bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lorgnette import lora
from lorgnette.nn.recompute import recomputed
from lorgnette.nn.swin import SwinTransformerBlock, partition, shift_mask, unpartition
from lorgnette.nn.transformer import TransformerBlock

BLOCKS: dict[str, tuple[Callable[[bool], nn.Module], tuple[int, ...]]] = {
    "transformer": (lambda again: TransformerBlock(24, 3, recompute=again), (2, 7, 24)),
    "swin": (lambda again: SwinTransformerBlock(24, 3, 4, recompute=again), (2, 8, 12, 24)),
    "shifted": (lambda again: SwinTransformerBlock(24, 3, 4, 2, recompute=again), (2, 8, 12, 24)),
}


def adapted(make: Callable[[bool], nn.Module], again: bool, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    config = lora.LoRAConfig(r=3, lora_alpha=6, lora_dropout=dropout, target_modules="all-linear")
    block = lora.inject_lora(make(again), config)
    for name, parameter in block.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return block.train()


def gradients(block: nn.Module, x: Tensor, **autocast: object) -> list[Tensor]:
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    with torch.autocast("cpu", **autocast):  # type: ignore[arg-type]
        y = block(x)
    y.float().square().mean().backward()
    return [y.detach(), x.grad, *(p.grad for p in block.parameters() if p.grad is not None)]  # type: ignore[list-item]


@pytest.mark.parametrize("autocast", [{"enabled": False}, {"dtype": torch.bfloat16}], ids=["float32", "autocast"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("name", BLOCKS)
def test_recomputing_changes_no_bit(name, dropout, autocast):
    make, shape = BLOCKS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    kept, again = (gradients(adapted(make, flag, dropout), x, **autocast) for flag in (False, True))
    assert len(kept) > 8
    for a, b in zip(kept, again, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("name", BLOCKS)
def test_second_derivatives_go_through(name):
    make, shape = BLOCKS[name]
    results = []
    for flag in (False, True):
        block = adapted(make, flag).double()
        x = torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=torch.float64).view(shape).requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            (first,) = torch.autograd.grad(block(x).square().mean(), x, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_compile_without_breaks(name):
    make, shape = BLOCKS[name]
    block = adapted(make, True)
    x = torch.randn(shape)
    compiled = torch.compile(copy.deepcopy(block), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x))


def test_only_the_named_tensor_is_made_again():
    made = []
    x = torch.randn(5, 4, requires_grad=True)

    def active() -> Tensor:
        made.append(1)
        return F.gelu(x)

    y = F.gelu(x)
    other = torch.randn(5, 4)
    with recomputed(y, active):
        z = (y.view(4, 5) @ torch.ones(5, 2, requires_grad=True)).sum() + (other * x).sum()
    assert made == []
    z.backward()
    assert made == [1]


def test_what_is_not_wanted_is_kept():
    x = torch.randn(5, 4, requires_grad=True)
    y = F.gelu(x)
    with recomputed(y, lambda: pytest.fail("made again"), wanted=False):
        z = (y * y).sum()
    z.backward()


def windows_one_by_one(block: SwinTransformerBlock, x: Tensor) -> Tensor:
    """The attention of a shifted block, position by position: who may see whom is worked out from the picture."""
    window, shift, heads = block.window_size, block.shift_size, block.attn.num_heads
    _, h, w, c = x.shape
    out = torch.empty_like(x)
    y = block.norm1(x)[0].roll((-shift, -shift), (0, 1))
    band_y = torch.arange(h).ge(h - window).int() + torch.arange(h).ge(h - shift).int()
    band_x = torch.arange(w).ge(w - window).int() + torch.arange(w).ge(w - shift).int()
    table = block.attn.relative_position_bias_table
    for top in range(0, h, window):
        for left in range(0, w, window):
            places = [(top + i, left + j) for i in range(window) for j in range(window)]
            tokens = torch.stack([y[i, j] for i, j in places])
            q, k, v = block.attn.qkv(tokens).view(len(places), 3, heads, c // heads).unbind(1)
            scores = torch.einsum("ihd,jhd->hij", q, k) * (c // heads) ** -0.5
            for a, (ay, ax) in enumerate(places):
                for b, (by, bx) in enumerate(places):
                    row = (ay - by + window - 1) * (2 * window - 1) + ax - bx + window - 1
                    scores[:, a, b] += table[row]
                    if shift and (band_y[ay], band_x[ax]) != (band_y[by], band_x[bx]):
                        scores[:, a, b] -= 100
            mixed = torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).flatten(1)
            for (i, j), value in zip(places, block.attn.proj(mixed), strict=True):
                out[0, i, j] = value
    x = x + out.roll((shift, shift), (1, 2))
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("shift", [0, 2])
@torch.no_grad()
def test_a_swin_block_attends_as_its_definition_says(shift):
    torch.manual_seed(0)
    block = SwinTransformerBlock(8, 2, 4, shift)
    nn.init.normal_(block.attn.relative_position_bias_table)
    x = torch.randn(1, 8, 12, 8)
    torch.testing.assert_close(block(x), windows_one_by_one(block, x), rtol=1e-4, atol=1e-5)


def test_windows_come_apart_and_together():
    x = torch.arange(2 * 8 * 12 * 3).view(2, 8, 12, 3)
    assert torch.equal(unpartition(partition(x, 4), 4, (8, 12)), x)
    assert torch.equal(partition(x, 4)[1, 5], x[0, 1, 5])


def test_upstream_s_buffers_are_there():
    block = SwinTransformerBlock(12, 2, 4, 2, input_resolution=(8, 8))
    state = block.state_dict()
    assert state["attn_mask"].shape == (4, 16, 16)
    assert torch.equal(state["attn_mask"], shift_mask((8, 8), 4, 2))
    assert state["attn.relative_position_index"].shape == (16, 16)
    assert state["attn.relative_position_bias_table"].shape == (49, 2)
    assert "attn_mask" not in SwinTransformerBlock(12, 2, 4).state_dict()


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"^heads: 5 does not divide the width 12$"):
        TransformerBlock(12, 5)
    with pytest.raises(ValueError, match=r"^shift_size: 4 is not in \[0, 4\)"):
        SwinTransformerBlock(12, 2, 4, 4)
    with pytest.raises(ValueError, match=r"^x: 6 x 8 is not a multiple of the window_size 4"):
        SwinTransformerBlock(12, 2, 4)(torch.zeros(1, 6, 8, 12))
