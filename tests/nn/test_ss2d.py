"""The scanning block: its parts, and that no adapter of it is bypassed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette import lora
from lorgnette.nn.ss2d import SS2D

TARGETS = ["in_proj", "out_proj", "conv2d"]
RAW = ["x_proj_weight", "dt_projs_weight"]


def block(**settings: object) -> SS2D:
    torch.manual_seed(0)
    return SS2D(**({"d_model": 12, "d_state": 3, "expand": 1.5} | settings))  # type: ignore[arg-type]


def by_definition(ss2d: SS2D, x: Tensor) -> Tensor:
    """The block written out direction by direction, with sequences that are really flipped and transposed."""
    b, h, w, _ = x.shape
    d, n = ss2d.d_inner, ss2d.d_state
    first, gate = ss2d.in_proj(x).chunk(2, dim=-1)
    image = F.silu(ss2d.conv2d(first.permute(0, 3, 1, 2)))
    total = torch.zeros(b, d, h * w, dtype=x.dtype)
    for k in range(4):
        sequence = (image.transpose(2, 3) if k % 2 else image).flatten(2)
        sequence = sequence.flip(-1) if k >= 2 else sequence
        parts = torch.einsum("bdl,cd->bcl", sequence, ss2d.x_proj_weight[k])
        low, B, C = parts.split([ss2d.dt_rank, n, n], dim=1)
        step = F.softplus(torch.einsum("brl,dr->bdl", low, ss2d.dt_projs_weight[k]) + ss2d.dt_projs_bias[k][:, None])
        A = -torch.exp(ss2d.A_logs.view(4, d, n)[k])
        state, outs = torch.zeros(b, d, n, dtype=x.dtype), []
        for t in range(h * w):
            state = torch.exp(step[:, :, t, None] * A) * state
            state = state + (step[:, :, t] * sequence[:, :, t])[:, :, None] * B[:, None, :, t]
            outs.append((state * C[:, None, :, t]).sum(-1))
        y = torch.stack(outs, -1) + ss2d.Ds.view(4, d)[k][:, None] * sequence
        y = y.flip(-1) if k >= 2 else y
        total = total + (y.view(b, d, w, h).transpose(2, 3).reshape(b, d, -1) if k % 2 else y)
    y = ss2d.out_norm(total.transpose(1, 2).view(b, h, w, d))
    return ss2d.out_proj(y * F.silu(gate))


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 6), (4, 1)])
@torch.no_grad()
def test_the_block_is_what_its_definition_says(size):
    ss2d = block().double()
    x = torch.randn(2, *size, 12, dtype=torch.float64)
    torch.testing.assert_close(ss2d(x), by_definition(ss2d, x))
    torch.testing.assert_close(ss2d.float()(x.float()).double(), by_definition(ss2d.double(), x), rtol=1e-4, atol=1e-5)


def test_parameters_start_as_mamba_s_do():
    ss2d = SS2D(64, 8)
    steps = F.softplus(ss2d.dt_projs_bias)
    assert steps.min() >= 0.001 * 0.999
    assert steps.max() <= 0.1 * 1.001
    assert steps.median() < 0.02  # spread in logarithm, not evenly
    torch.testing.assert_close(ss2d.A_logs.exp()[5], torch.arange(1.0, 9.0))
    assert (ss2d.Ds == 1).all()
    assert ss2d.dt_rank == 4
    assert ss2d.dt_projs_weight.abs().max() <= 0.5


def test_raw_parameters_get_a_rank_for_each_direction():
    ss2d = lora.inject_lora(block(), lora.LoRAConfig(r=2, target_parameters=RAW))
    adapters = lora.adapted_layers(ss2d)
    assert adapters["lora_x_proj_weight"].lora_A.shape == (4, 2, 18)
    assert adapters["lora_dt_projs_weight"].lora_B.shape == (4, 18, 2)


def test_no_adapter_is_bypassed_and_merging_changes_nothing():
    ss2d = lora.inject_lora(block(), lora.LoRAConfig(r=2, target_modules=TARGETS, target_parameters=RAW))
    x = torch.randn(2, 5, 6, 12)
    assert torch.equal(ss2d(x), block()(x))  # B = 0
    report = lora.verify(ss2d, x)
    assert report.ok, str(report)
    assert len(report.checked) == 5
    for name, parameter in ss2d.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        adapted = ss2d(x)
        merged = lora.merge_lora_weights(ss2d)(x)
    assert (merged - adapted).norm() <= 1e-5 * adapted.norm()


def test_bfloat16_under_autocast_stays_near_float32():
    ss2d, x = block(), torch.randn(1, 8, 8, 12)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = ss2d(x)
    assert (low.float() - ss2d(x)).norm() <= 0.03 * ss2d(x).norm()


def test_a_scan_is_blind_to_what_lies_outside_its_image():
    """Items of a batch do not see each other."""
    ss2d, x = block(), torch.randn(3, 4, 5, 12)
    with torch.no_grad():
        together = ss2d(x)
        alone = torch.cat([ss2d(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
