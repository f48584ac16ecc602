"""The updates of a round become one adapter; how far it is from the mean of theirs is measured every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lorgnette.federate.aggregation.adapter_state import VARIANCE, AdapterState
from lorgnette.federate.aggregation.factors import Product, compressed, distance, norm, total
from lorgnette.federate.aggregation.schemes import SCHEMES, Layer, Scheme
from lorgnette.federate.aggregation.server_optimizer import ServerOptimizer
from lorgnette.train.batches import derived_seed


class ClientUpdate(NamedTuple):
    """What one client trained from the adapter it was sent."""

    client: str
    weight: float
    """Its weight, such as its number of samples."""
    state: AdapterState


@dataclass(frozen=True)
class Global:
    """What the server has."""

    adapter: AdapterState
    folded: Mapping[str, Product] = field(default_factory=dict)
    """What has been added to the base since the start, by layer (`stack`, `residual`)."""

    def whole(self) -> AdapterState:
        """All that differs from the base at the start, as one adapter of a higher rank."""
        factors = {
            name: compressed(total([product, self.folded[name]])) if name in self.folded else product
            for name, product in self.adapter.factors.items()
        }
        return replace(self.adapter, factors={name: _float(product) for name, product in factors.items()})


class Aggregated(NamedTuple):
    """The result of a round."""

    after: Global
    error: float
    """Frobenius norm of (what the server has now - weighted mean of the clients' products), over all layers, as a
    share of the norm of that mean. What a server's momentum or Adam adds is not counted as an error."""
    errors: Mapping[str, float]
    """The same, layer by layer."""


def aggregate(
    scheme: str | Scheme,
    before: Global,
    updates: Sequence[ClientUpdate],
    round: int = 1,
    seed: int = 0,
    optimizer: ServerOptimizer | None = None,
) -> Aggregated:
    """Aggregate the updates of a round.

    Args:
        scheme: its name, or a `Scheme`.
        before: what the server had.
        updates: at least one; each has every layer and tensor of `before`, of any rank up to the server's.
        round: from 1.
        seed: of random rows.
        optimizer: the server's; its state changes.

    Returns:
        The result; it does not depend on the order of the updates.
    """
    chosen = SCHEMES[scheme] if isinstance(scheme, str) else scheme
    updates = sorted(updates, key=lambda update: update.client)
    assert updates, "the rounds ask for a quorum"
    whole = sum(update.weight for update in updates)
    weights = [update.weight / whole for update in updates]
    factors, folded, errors = {}, dict(before.folded), {}
    lost = wanted = 0.0
    for position, (name, old) in enumerate(sorted(before.adapter.factors.items())):
        clients = [update.state.factors[name] for update in updates]
        mean = target = total(clients, weights)
        if optimizer is not None and chosen.moves_axes | chosen.folds:
            start = Product(old.A, torch.zeros_like(old.B)) if chosen.restarts else old
            target = optimizer.product(name, start, mean)
        generator = torch.Generator().manual_seed(derived_seed(seed, round, position))
        layer = Layer(old, clients, weights, target, chosen.trains(round), generator)
        after, rest = chosen.combine(layer)
        miss = distance(total([after, *([rest] if rest else [])]), target)
        if optimizer is not None and not (chosen.moves_axes or chosen.folds):
            after = _moved(optimizer, name, old, after, layer.trained)
        factors[name] = _float(after)
        if rest is not None:
            parts = [Product(*folded[name]), rest] if name in folded else [rest]
            folded[name] = _float(compressed(total(parts)))
        size = norm(target)
        errors[name] = miss / size if size else 0.0
        lost, wanted = lost + miss**2, wanted + size**2
    tensors = {}
    for name, old in before.adapter.tensors.items():
        mean = _mean(name, old, updates, weights)
        if optimizer is not None and not before.adapter.is_statistic(name):
            mean = optimizer.tensor(name, old, mean)
        tensors[name] = mean.to(old.dtype)
    error = (lost / wanted) ** 0.5 if wanted else 0.0
    ordered = {name: factors[name] for name in before.adapter.factors}
    return Aggregated(Global(replace(before.adapter, factors=ordered, tensors=tensors), folded), error, errors)


def aggregation_error(after: Product, clients: Sequence[Product], weights: Sequence[float]) -> float:
    """Relative Frobenius distance of a product from the weighted mean of others; nothing is multiplied out."""
    share = [weight / sum(weights) for weight in weights]
    mean = total(clients, share)
    size = norm(mean)
    return distance(after, mean) / size if size else 0.0


def _moved(optimizer: ServerOptimizer, name: str, old: Product, mean: Product, trained: str) -> Product:
    A = optimizer.tensor(f"{name}.lora_A", old.A, mean.A) if "A" in trained else mean.A
    B = optimizer.tensor(f"{name}.lora_B", old.B, mean.B) if "B" in trained else mean.B
    return Product(A, B)


def _mean(name: str, old: Tensor, updates: Sequence[ClientUpdate], weights: Sequence[float]) -> Tensor:
    """The mean of an unfrozen tensor or a statistic, in float64; counters, such as batches seen, are rounded.

    A variance that noise or rounding on the way made negative stays what it was.
    """
    pairs = zip(updates, weights, strict=True)
    mean = torch.stack([update.state.tensors[name].double() * weight for update, weight in pairs]).sum(0)
    if name.rpartition(".")[2] == VARIANCE:
        mean = torch.where(mean >= 0, mean, old.double())
    return mean if old.is_floating_point() else mean.round()


def _float(product: Product) -> Product:
    return Product(product.A.float(), product.B.float())
