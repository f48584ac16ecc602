"""Factors that start where a layer's inputs vary most: EVA (Paischer et al., arXiv 2410.07170)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette.lora.checks import called
from lorgnette.lora.layers.base import LoRALayer, adapted_layers
from lorgnette.lora.ranks.resizing import resize
from lorgnette.lora.wrappers import unwrapped


@torch.no_grad()
def initialise_eva(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Any] | None = None,
    *,
    rho: float = 1.0,
) -> dict[str, float]:
    """Set `lora_A` of Linear and plain Conv2d layers to the main right singular vectors of their inputs.

    The singular vectors are updated batch by batch (an incremental decomposition). `lora_B` must be zero and stays
    zero, so that the output does not change by a bit. Other adapters keep their start. The model runs in the mode
    it is in; call `eval()` first where statistics or dropout matter.

    Args:
        model: with fresh adapters.
        batches: a few inputs; a tuple is spread over the model's arguments.
        forward: calls the model in another way: `forward(model, batch)`.
        rho: above 1, ranks are redistributed: each goes where the next direction holds the largest share of a layer's
            energy. A layer gets rank 1 at least and `rho` times its own at most; their sum and the factor before
            `B A` stay, the parameters are new ones: make the optimiser afterwards.

    Returns:
        For each layer that was set, the share of its inputs' energy in the chosen directions, in [0, 1].

    Raises:
        ValueError: `rho` is below 1, there are no batches, no suitable layers, or a layer is trained already, or saw
            fewer inputs than its rank asks for; nothing was changed.
    """
    if not rho >= 1:
        raise ValueError(f"initialise_eva: rho {rho!r} is below 1; 2 is usual, and 1 leaves the ranks as they are")
    with unwrapped(model) as inner:
        layers = {name: layer for name, layer in adapted_layers(inner).items() if _suits(layer)}
    if not layers:
        raise ValueError(f"initialise_eva: {type(model).__name__} has no adapter of a Linear or plain Conv2d layer")
    for name, layer in layers.items():
        if layer.lora_B.any() or layer.lora_method.acts_on == "weight":
            raise ValueError(f"initialise_eva: {name!r} is no fresh adapter (B = 0, without DoRA); inject it again")
    seen = {name: _Directions(int(rho * layer.r)) for name, layer in layers.items()}
    hooks = [layer.register_forward_pre_hook(_follower(seen[name])) for name, layer in layers.items()]
    try:
        for batch in batches:
            (forward or called)(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in layers.items():
        found = seen[name].rows
        if found is None or len(found) < (layer.r if rho == 1 else 1):
            rank = 0 if found is None else len(found)
            raise ValueError(f"initialise_eva: {name!r} has rank {layer.r}, and its inputs gave {rank} directions")
    if rho > 1:
        resize(model, _redistributed({name: layer.r for name, layer in layers.items()}, seen))
    for name, layer in layers.items():
        rows, seen[name].r = seen[name].rows, layer.r
        assert rows is not None
        layer.lora_A.copy_(F.normalize(rows[: layer.r], dim=1).view(layer.lora_A.shape))
    return {name: seen[name].share for name in layers}


def _redistributed(ranks: dict[str, int], seen: dict[str, _Directions]) -> dict[str, int]:
    """Ranks of the same sum, one at least, each further one where the next direction holds the largest share."""
    shares = [(share, name) for name in ranks for share in seen[name].shares()[1:]]
    best = sorted(shares, key=lambda pair: -pair[0])[: sum(ranks.values()) - len(ranks)]
    return {name: 1 + sum(other == name for _, other in best) for name in ranks}


class _Directions:
    """The main directions of rows that come in batches: `rows` are the right singular vectors times their values."""

    def __init__(self, r: int) -> None:
        self.r = r
        self.rows: Tensor | None = None
        self.energy = 0.0

    def follow(self, rows: Tensor) -> None:
        rows = rows.float()
        self.energy += rows.square().sum().item()
        stacked = rows if self.rows is None else torch.cat([self.rows, rows])
        if len(stacked) > stacked.shape[1]:
            stacked = torch.linalg.qr(stacked, mode="r").R
        _, S, Vh = torch.linalg.svd(stacked, full_matrices=False)
        real = (S / S[0].clamp_min(1e-30)) > 1e-6
        self.rows = (S[:, None] * Vh)[real][: 2 * self.r]  # what lies beyond may still grow

    def shares(self) -> list[float]:
        """Of the inputs' energy, for each direction that may be used, in falling order."""
        assert self.rows is not None
        return (self.rows[: self.r].square().sum(1) / self.energy).tolist()

    @property
    def share(self) -> float:
        return sum(self.shares())


def _suits(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return isinstance(layer, LoRALayer) and layer.groups == 1 and _plain_padding(layer)
    return isinstance(layer, LoRALayer) and isinstance(layer, nn.Linear)


def _plain_padding(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _follower(directions: _Directions) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def follow(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        if isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str), "it was sorted out before"
            x = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).mT
        directions.follow(x.reshape(-1, x.shape[-1]))

    return follow
