"""Adapted convolutions keep the memory format that their base layer would give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lorgnette import lora


@pytest.mark.parametrize(("kernel", "size"), [(1, (3, 4)), (3, (3, 4)), (3, (32, 32))])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grad", [True, False])
def test_channels_last_stays_channels_last(kernel: int, size: tuple[int, int], batch: int, grad: bool):
    model = nn.Sequential(nn.Conv2d(8, 6, kernel, padding=kernel // 2))
    x = torch.rand(batch, 8, *size).contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(grad):
        before = model(x)
        lora.inject_lora(model, target_modules=["0"])
        after = model(x)
    assert torch.equal(after, before)
    assert after.stride() == before.stride()
