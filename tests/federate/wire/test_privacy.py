"""The noise on an update is what the accountant reckons with."""

from __future__ import annotations

import pytest
import torch

from lorgnette.federate.aggregation.adapter_state import AdapterState
from lorgnette.federate.aggregation.factors import Product
from lorgnette.federate.wire.messages import Local
from lorgnette.federate.wire.privacy import privatised


def of(A: float, B: float, bias: float) -> AdapterState:
    return AdapterState(
        {"w": Product(torch.full((4, 1000), A), torch.full((1000, 4), B))}, {"b": torch.full((2000,), bias)}
    )


@pytest.mark.parametrize(("clip", "noise"), [(0.5, 1.0), (3.0, 1.0), (0.5, 4.0), (7.0, 0.25)])
def test_its_deviation_is_noise_times_clip(clip: float, noise: float):
    start = of(0.0, 0.0, 0.0)
    sent = privatised(start, start, "AB", Local(clip=clip, noise=noise), seed=3)
    for values in (*sent.factors["w"], sent.tensors["b"]):
        assert values.std().item() == pytest.approx(noise * clip, rel=0.07)
        assert abs(values.mean().item()) < 0.1 * noise * clip


def test_a_change_is_scaled_to_the_clip_as_a_whole_and_never_up():
    start, trained = of(1.0, 0.0, 0.0), of(1.5, 0.25, -1.0)
    norm = (4000 * 0.25 + 4000 * 0.0625 + 2000) ** 0.5
    sent = privatised(trained, start, "AB", Local(clip=norm / 4), seed=0)
    assert torch.allclose(sent.factors["w"].A, torch.tensor(1.125))
    assert torch.allclose(sent.factors["w"].B, torch.tensor(0.0625))
    assert torch.allclose(sent.tensors["b"], torch.tensor(-0.25))
    assert privatised(trained, start, "AB", Local(clip=2 * norm), seed=0).tensors["b"].tolist() == [-1.0] * 2000
