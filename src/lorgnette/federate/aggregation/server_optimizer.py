"""How the server applies the mean update: momentum (FedAvgM) or Adam (FedAdam, Reddi et al., arXiv 2003.00295)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from lorgnette.federate.aggregation.factors import Product, compressed, total

BETA2 = 0.99
EPSILON = 1e-3  # tau of FedAdam: the larger, the less adaptive


class ServerOptimizer:
    """Moves tensors, or products, by the mean update of a round; its state is a mapping of tensors.

    Args:
        kind: 'momentum' or 'adam'.
        lr: learning rate; None for 1 (adam: 0.01).
        momentum: share of the last step that is kept (for adam: beta 1).
    """

    def __init__(self, kind: Literal["momentum", "adam"], lr: float | None = None, momentum: float = 0.9):
        self.kind, self.momentum = kind, momentum
        self.lr = (0.01 if kind == "adam" else 1.0) if lr is None else lr
        self.state: dict[str, Tensor] = {}

    def tensor(self, name: str, before: Tensor, mean: Tensor) -> Tensor:
        """The next value of a tensor, from the clients' mean."""
        change = mean.double() - before.double()
        first = self._kept(f"{name}:first", change)
        if self.kind == "momentum":
            first = self.momentum * first + change
            self.state[f"{name}:first"] = first
            return before.double() + self.lr * first
        first = self.momentum * first + (1 - self.momentum) * change
        second = BETA2 * self._kept(f"{name}:second", change) + (1 - BETA2) * change.square()
        self.state |= {f"{name}:first": first, f"{name}:second": second}
        return before.double() + self.lr * first / (second.sqrt() + EPSILON)

    def product(self, name: str, before: Product, mean: Product) -> Product:
        """The next value of a product: momentum is linear, so it is kept as a product, too."""
        assert self.kind == "momentum", "the settings refuse the rest"
        change = [mean, before], [1.0, -1.0]
        if f"{name}:A" in self.state:
            last = Product(self.state[f"{name}:A"], self.state[f"{name}:B"])
            change = [*change[0], last], [*change[1], self.momentum]
        step = compressed(total(*change))
        self.state |= {f"{name}:A": step.A, f"{name}:B": step.B}
        return total([before, step], [1.0, self.lr])

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved `state`."""
        self.state = dict(state)

    def _kept(self, name: str, like: Tensor) -> Tensor:
        return self.state[name] if name in self.state else torch.zeros_like(like)
