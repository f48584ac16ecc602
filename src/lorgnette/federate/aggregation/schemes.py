"""The schemes: how the products of all clients become one. Pure tensors, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lorgnette.federate.aggregation.adapter_state import Trained, row_size
from lorgnette.federate.aggregation.factors import Product, padded, total, truncated


class Layer(NamedTuple):
    """One layer at the end of a round."""

    before: Product
    """What the server had."""
    clients: Sequence[Product]
    """What the clients trained from it (with `stack`: what they add to it)."""
    weights: Sequence[float]
    """The weight of each; the sum is 1."""
    target: Product
    """The product to reach: the weighted mean of the clients', unless the server has momentum."""
    trained: Trained
    generator: torch.Generator
    """For random rows; a resumed run draws the same as an unbroken one."""


class Combined(NamedTuple):
    """One layer after a round."""

    after: Product
    folded: Product | None = None
    """What every client adds to its base permanently."""


@dataclass(frozen=True)
class Scheme:
    """One way to aggregate, and what the rounds must do for it."""

    about: str
    combine: Callable[[Layer], Combined]
    trains: Callable[[int], Trained] = lambda round: "AB"
    """The factors that a round (from 1) trains: only these travel up."""
    sends: Trained = "AB"
    """The factors that travel down."""
    exact: bool = True
    """Whether the result is the weighted mean of the clients' products."""
    folds: bool = False
    """Whether something is folded into the base."""
    restarts: bool = False
    """Whether clients start each round from a product of zero."""
    moves_axes: bool = False
    """Whether the factors get new axes each round, so that they cannot be followed element by element."""
    linear: bool = False
    """Whether the sum of the updates is all the server needs: then secure aggregation works."""


def _fedavg(layer: Layer) -> Combined:
    return Combined(_mean_of_factors(layer))


def _frozen_A(layer: Layer) -> Combined:
    """FFA-LoRA: all clients have the same A, and so the mean of `B_k A` is `mean(B_k) A`."""
    return Combined(Product(layer.before.A.double(), _mean_of_factors(layer).B))


def _alternating(layer: Layer) -> Combined:
    """RoLoRA: in each round one factor is the same for all, so the mean of the other is exact."""
    if layer.trained == "B":
        return _frozen_A(layer)
    return Combined(Product(_mean_of_factors(layer).A, layer.before.B.double()))


def _svd(layer: Layer) -> Combined:
    """FlexLoRA: the mean product, truncated to the server's rank."""
    rank = layer.before.rank
    A, B = truncated(layer.target, rank)
    # Rows of the same norm as those that were trained, so that the learning rate keeps its meaning.
    size = row_size(torch.cat([product.A for product in layer.clients], -2))
    product = Product(A * size, B / size)
    if product.rank < rank:  # fewer rows came in than the server has: random ones fill up
        fresh = _fresh_rows(layer, rank - product.rank)
        product = Product(torch.cat([product.A, fresh], -2), padded(product, rank).B)
    return Combined(product)


def _stack(layer: Layer) -> Combined:
    """FLoRA: what clients added is folded into the base; they continue with fresh factors."""
    fresh = _fresh_rows(layer, layer.before.rank)
    return Combined(Product(fresh, torch.zeros_like(layer.before.B, dtype=fresh.dtype)), layer.target)


def _residual(layer: Layer) -> Combined:
    """FedEx-LoRA: the mean factors; their difference from the mean product is folded into the base.

    The residual is `mean(B A) - mean(B) mean(A)`, of shape (out, in) as the weight.
    """
    mean = _mean_of_factors(layer)
    return Combined(mean, total([layer.target, mean], [1.0, -1.0]))


def _mean_of_factors(layer: Layer) -> Product:
    """Means of A and of B; lower ranks count as zeros in the last rows (HetLoRA's padding)."""
    rank = layer.before.rank
    filled = [padded(Product(p.A.double(), p.B.double()), rank) for p in layer.clients]
    pairs = list(zip(filled, layer.weights, strict=True))
    A = torch.stack([product.A * weight for product, weight in pairs]).sum(0)
    B = torch.stack([product.B * weight for product, weight in pairs]).sum(0)
    return Product(A, B)


def _fresh_rows(layer: Layer, count: int) -> Tensor:
    """Random rows (*stack, count, n) of the same norm as the present ones."""
    *stack, _, wide = layer.before.A.shape
    rows = torch.randn(*stack, count, wide, generator=layer.generator, dtype=torch.float64)
    return rows * (row_size(layer.before.A) / wide**0.5)


def _in_turn(round: int) -> Trained:
    return "B" if round % 2 else "A"  # B first: A has no gradient as long as B is zero


SCHEMES: dict[str, Scheme] = {
    "svd": Scheme("FlexLoRA: the mean product, cut to each client's rank", _svd, exact=False, moves_axes=True),
    "fedavg": Scheme("A and B averaged separately", _fedavg, exact=False, linear=True),
    "ffa": Scheme("FFA-LoRA: A is frozen", _frozen_A, lambda round: "B", "B", linear=True),
    "stack": Scheme("FLoRA: updates stacked, folded into the base", _stack, folds=True, restarts=True, moves_axes=True),
    "residual": Scheme("FedEx-LoRA: factors averaged, the rest folded into the base", _residual, folds=True),
    "alternating": Scheme("RoLoRA: B and A trained in alternating rounds", _alternating, _in_turn, linear=True),
}
"""Every scheme by its name in `federate.scheme`."""
