"""The adapter of a model as products and unfrozen tensors: what travels, read from the model and written into it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from lorgnette.common.text import nearest
from lorgnette.federate.aggregation.factors import Product, narrowed, truncated
from lorgnette.lora import LowRank, adapted_layers, fingerprint, trained_tensors
from lorgnette.lora.layers.parameter import LoRAParameter, sites
from lorgnette.lora.several.stacking import holder
from lorgnette.lora.wrappers import unwrapped

Trained = Literal["AB", "A", "B"]
"""Which factors a round trains."""
VARIANCE = "running_var"
RUNNING = ("running_mean", VARIANCE, "num_batches_tracked")
"""The statistics of PyTorch's norms, known by their names also where nobody says what they are."""


@dataclass(frozen=True)
class AdapterState:
    """An adapter, independent of the ranks and scales of its layers: `B` holds the factor before `B A`.

    Layers of every kind are matrices here: a convolution's kernel is (out, in / groups * kh * kw), a transposed
    one's (in, out / groups * kh * kw), an embedding's table (rows, size), a raw parameter a stack.
    """

    factors: Mapping[str, Product] = field(default_factory=dict)
    """By the name of the adapted layer."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Base tensors that are trained with it (`modules_to_save`), by their names."""
    statistics: frozenset[str] = frozenset()
    """Names of those `tensors` that no optimiser trains, such as running means: they describe the data."""

    def at(self, ranks: int | None) -> AdapterState:
        """Every layer cut to this rank at most: its first rows and columns."""
        if ranks is None:
            return self
        return replace(self, factors={name: narrowed(p, ranks) for name, p in self.factors.items()})

    def best_at(self, rank: int | None) -> AdapterState:
        """Every layer truncated to this rank at most, as near as possible; rows of A keep their norm."""
        if rank is None:
            return self
        return replace(self, factors={name: _cut(p, rank) for name, p in self.factors.items()})

    def without(self, names: Iterable[str]) -> AdapterState:
        """The state without these names."""
        left_out = set(names)
        return AdapterState(
            {name: p for name, p in self.factors.items() if name not in left_out},
            {name: t for name, t in self.tensors.items() if name not in left_out},
            self.statistics - left_out,
        )

    def only(self, names: Iterable[str]) -> AdapterState:
        """These alone."""
        kept = set(names)
        return self.without(name for name in (*self.factors, *self.tensors) if name not in kept)

    def updated(self, other: AdapterState) -> AdapterState:
        """This state with the values of `other` where it has some."""
        return AdapterState(
            {**self.factors, **other.factors}, {**self.tensors, **other.tensors}, self.statistics | other.statistics
        )

    def is_statistic(self, name: str) -> bool:
        """Whether a tensor is no weight: it is averaged, and never moved by what a server's optimiser remembers."""
        counts = not self.tensors[name].is_floating_point()
        return counts or name in self.statistics or name.rpartition(".")[2] in RUNNING

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """The names meant by `patterns`: whole, their last dotted parts, a module above, or a regular expression.

        Raises:
            ValueError: a pattern means nothing here.
        """
        names = [*self.factors, *self.tensors]
        found: dict[str, None] = {}
        for pattern in patterns:
            try:
                meant = [name for name in names if _means(pattern, name)]
            except re.error as error:
                raise ValueError(f"personal: {pattern!r} is not a regular expression ({error})") from None
            if not meant:
                raise ValueError(f"personal: {pattern!r} matches nothing that is trained{nearest(pattern, names)}")
            found |= dict.fromkeys(meant)
        return list(found)


class Adapter:
    """The adapter of one model: read, written, and with parts folded into a base that is never lost.

    Args:
        model: with adapters, and the base as everyone has it.

    Raises:
        ValueError: it has none, or one that is not the base plus `B A` (any method but plain LoRA).
    """

    def __init__(self, model: nn.Module):
        with unwrapped(model) as plain:
            layers, self.sites = adapted_layers(plain), sites(plain)
            self._parameters = {name for name, _ in plain.named_parameters(remove_duplicate=False)}
        if not layers:
            raise ValueError(f"federation: {type(model).__name__} has no adapter; lora.r 8 is usual")
        for name, layer in layers.items():
            if layer.lora_method.tensors:
                raise ValueError(
                    f"federation: {name!r} has {layer.lora_method.title}, whose update does not add up over clients;"
                    " that of a plain LoRA does"
                )
        self.model, self.layers = model, layers
        self.base = base_digest(model)
        self._plain: dict[str, Tensor] = {}  # base weights of what was folded into, as they were
        sharing: dict[int, list[LowRank]] = {}
        for module in model.modules():
            if isinstance(module, LowRank):
                sharing.setdefault(id(module.lora_A), []).append(module)
        self._sharing = {name: sharing[id(layer.lora_A)] for name, layer in layers.items()}

    def read(self) -> AdapterState:
        """A copy of the present adapter, on the CPU."""
        factors = {}
        for name, layer in self.layers.items():
            A, B = (factor.detach().float().cpu() for factor in (layer.lora_A, layer.lora_B))
            if not isinstance(layer, LoRAParameter):
                A, B = A.flatten(1), B.flatten(1)
            factors[name] = Product(A.clone(), B * layer.scaling)
        tensors = {name: t.detach().cpu().clone() for name, t in trained_tensors(self.model).items()}
        return AdapterState(factors, tensors, frozenset(tensors.keys() - self._parameters))

    @torch.no_grad()
    def write(self, state: AdapterState, folded: Mapping[str, Product] | None = None) -> None:
        """Write this adapter, of any ranks, into the model, on the base plus `folded` (None: the base alone)."""
        for name, product in state.factors.items():
            self._write_factors(name, product)
        tensors = trained_tensors(self.model)
        for name, value in state.tensors.items():
            tensors[name].copy_(value)
        for name in {*self._plain, *(folded or {})}:
            weight = self.sites[name].weight
            plain = self._plain.setdefault(name, weight.detach().clone())
            if not folded or name not in folded:
                weight.copy_(plain)
                continue
            A, B = (factor.to(plain.device, plain.dtype) for factor in folded[name])
            weight.copy_(holder(self.layers[name], A, B).merged_into(plain))

    def freeze(self, trained: Trained) -> None:
        """Train only these factors from now on."""
        for layer in self.layers.values():
            layer.lora_A.requires_grad_("A" in trained)
            layer.lora_B.requires_grad_("B" in trained)

    def _write_factors(self, name: str, product: Product) -> None:
        layer = self.layers[name]
        A, B = product.A, product.B / layer.scaling
        if not isinstance(layer, LoRAParameter):  # back in the shapes of the layer: (r, in, *kernel), (out, r, 1, ...)
            A = A.reshape(product.rank, *layer.lora_A.shape[1:])
            B = B.reshape(layer.lora_B.shape[0], product.rank, *layer.lora_B.shape[2:])
        if product.rank == layer.r:
            layer.lora_A.copy_(A)
            layer.lora_B.copy_(B)
            return
        scaling = layer.scaling
        parameters = [
            nn.Parameter(value.to(was).contiguous().clone(), requires_grad=was.requires_grad)
            for value, was in ((A, layer.lora_A), (B, layer.lora_B))
        ]
        for other in self._sharing[name]:
            other.lora_A, other.lora_B = parameters
            other.scaling = scaling


def base_digest(model: nn.Module) -> str:
    """A fingerprint of the base without the values of what is trained: those come with the adapter."""
    trained = trained_tensors(model)
    tensors = fingerprint(model).tensors
    lines = [f"{name} {value.split()[0] if name in trained else value}" for name, value in sorted(tensors.items())]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def factors_digest(factors: Mapping[str, Tensor]) -> str:
    """A hash of named tensors, by their bytes."""
    hasher = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(factors.items()):
        hasher.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


def _cut(product: Product, rank: int) -> Product:
    if product.rank <= rank:
        return product
    size = row_size(product.A)
    A, B = truncated(product, rank)
    return Product((A * size).to(product.A), (B / size).to(product.B))


def row_size(A: Tensor) -> float:
    """Root of the mean squared norm of the rows of a first factor: what its learning rate is used to."""
    return float(A.double().square().sum(-1).mean().sqrt()) or 1.0


def _means(pattern: str, name: str) -> bool:
    return (
        name == pattern
        or name.endswith(f".{pattern}")
        or name.startswith(f"{pattern}.")
        or f".{pattern}." in name
        or re.fullmatch(pattern, name) is not None
    )
