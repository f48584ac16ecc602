"""A rank that depends on the input: at each position a gate decides which of the `r` directions count.

The layer applies `W x + s B (g * h)` with `h = A x`, for each token of a Linear layer and each pixel of a
convolution. The gate `g` is the point nearest to `1 + G h + c` among those with no negative entry and the sum `r`
(sparsemax, Martins and Astudillo, arXiv 1602.02068). G and c start at zero, where each gate is 1: the layer is a plain
LoRA until it learns otherwise. Most projections lie on an edge, so that some gates are exactly 0 and the rest larger;
the rank of the update at this position is the number of the rest. To activate ranks by the input is the idea of SMoRA
(Zhao et al., arXiv 2501.15103), which routes to a fixed number of them; here the number follows the input too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.layers.base import LowRank, adapted_layers
from lorgnette.lora.layers.method import Method, Sizes


class Gate(Method):
    name = "dynamic rank"
    acts_on = "activations"
    tensors = ("lora_gate", "lora_gate_bias")
    fixed_rank = "has a gate over its directions (lora.dynamic_rank)"

    def settings(self) -> dict[str, Any]:
        return {"dynamic_rank": True}

    def shapes(self, sizes: Sizes) -> dict[str, tuple[int, ...]]:
        return {"lora_gate": (sizes.r, sizes.r), "lora_gate_bias": (sizes.r,)}

    def start(self, adapter: LowRank, weight: Tensor, config: LoRAConfig) -> None:
        like = {"dtype": adapter.lora_A.dtype, "device": weight.device}
        adapter.lora_gate = nn.Parameter(torch.zeros(config.r, config.r, **like))
        adapter.lora_gate_bias = nn.Parameter(torch.zeros(config.r, **like))

    def between(self, adapter: LowRank, h: Tensor) -> Tensor:
        G, c = (adapter.get_parameter(name).to(h.dtype) for name in self.tensors)
        g = _projected(1 + F.linear(h, G, c).to(torch.promote_types(h.dtype, torch.float32)))
        watch = getattr(adapter, _WATCH, None)
        if watch is not None:
            watch.append(g)
        return g.to(h.dtype) * h


_WATCH = "lora_watch"
"""On an adapter, while `watch_gates` holds: where its gates are collected."""


class RankUse(NamedTuple):
    """How many directions of an adapter were open, over all positions of a batch."""

    mean: float
    least: int
    most: int
    r: int
    """How many there are."""


@dataclass
class GateWatch:
    """What the gates of a model did within `watch_gates`."""

    gates: dict[str, list[Tensor]] = field(default_factory=dict)
    """For each adapter its gates at each call, `(..., r)`, with gradients if there were any."""

    def ranks(self) -> dict[str, RankUse]:
        """The rank that each adapter used."""
        return {name: _use(torch.cat([g.detach().flatten(0, -2) for g in seen])) for name, seen in self._seen.items()}

    def cost(self) -> Tensor:
        """The effective rank, as a share of `r`: a scalar in (0, 1] which, added to a loss, closes what is of no use.

        At each position it is `r / sum(g^2)`: the number of directions, if all that are open are equally so.

        Raises:
            ValueError: no gate was seen.
        """
        if not self._seen:
            raise ValueError("watch_gates: no adapter with lora.dynamic_rank has run")
        gates = [torch.cat([g.flatten(0, -2) for g in seen]) for seen in self._seen.values()]
        return torch.stack([(g.shape[1] / g.square().sum(1)).mean() for g in gates]).mean()

    @property
    def _seen(self) -> dict[str, list[Tensor]]:
        return {name: seen for name, seen in self.gates.items() if seen}


@contextlib.contextmanager
def watch_gates(model: nn.Module) -> Iterator[GateWatch]:
    """Within this context the gates of a model are collected.

    `with watch_gates(model) as seen: loss = ...`, then `(loss + 0.05 * seen.cost()).backward()` trains for a low rank,
    and `seen.ranks()` says which ranks the batch took.

    Raises:
        ValueError: no adapter of the model has a rank that depends on the input.
    """
    layers = {name: layer for name, layer in adapted_layers(model).items() if isinstance(layer.lora_method, Gate)}
    if not layers:
        raise ValueError(f"watch_gates: no adapter of {type(model).__name__} has lora.dynamic_rank")
    watch = GateWatch({name: [] for name in layers})
    try:
        for name, layer in layers.items():
            setattr(layer, _WATCH, watch.gates[name])
        yield watch
    finally:
        for layer in layers.values():
            vars(layer).pop(_WATCH, None)


def _projected(z: Tensor) -> Tensor:
    """The nearest point of `(..., r)` without negative entries whose sum is r."""
    ordered = z.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - z.shape[-1]
    count = torch.arange(1, z.shape[-1] + 1, device=z.device)
    kept = (ordered * count > excess).sum(-1, keepdim=True)
    return (z - excess.gather(-1, kept - 1) / kept).clamp_min(0)


def _use(gates: Tensor) -> RankUse:
    """Of gates `(positions, r)`."""
    kept = (gates > 0).sum(1)
    if not len(kept):
        return RankUse(0.0, 0, 0, gates.shape[1])
    return RankUse(kept.double().mean().item(), int(kept.min()), int(kept.max()), gates.shape[1])
