"""Adapters of raw parameters, and `effective_parameter`, by which a model reads them.

A module that owns a parameter without being a known layer keeps its class and its parameter. The adapter is a
child of it, named `lora_<parameter>`, and has an effect only where the owner asks for `effective_parameter`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.layers.base import LoRALayer, LowRank, adapted_layers
from lorgnette.lora.layers.method import Method
from lorgnette.lora.layers.offloaded import lies_elsewhere

Rows = tuple[int, int]


class LoRAParameter(LowRank):
    """The adapter of one parameter of another module, or of some rows of it.

    A parameter `(*stack, out, in)` of two to four dimensions is a stack of matrices, each with its own factors.
    Dropout acts on `lora_A`, as only the whole matrix is ever read.

    Attributes:
        lora_A: first factor, `(*stack, r, in)`.
        lora_B: second factor, `(*stack, out, r)`.
        parameter: name of the parameter in the module that owns it.
        rows: first row of the matrix that is adapted, and the first that is not any more; None for all.
    """

    def __init__(
        self,
        parameter: str,
        weight: Tensor,
        config: LoRAConfig,
        method: Method,
        rows: Rows | None = None,
        share: LowRank | None = None,
    ) -> None:
        super().__init__()
        self.parameter = parameter
        self.rows = rows
        shapes = part_shapes(weight.shape, config.r, rows)
        self.attach_to(weight if rows is None else weight[slice(*rows)], shapes, config, method, share)

    rank_axes = (-2, -1)

    @property
    def r(self) -> int:
        """Rank of the adapter."""
        return self.lora_A.shape[-2]

    def _init_lora_A(self, config: LoRAConfig) -> None:
        if config.init_lora_weights == "gaussian":
            return super()._init_lora_A(config)
        bound = self.lora_A.shape[-1] ** -0.5  # as for a layer: each matrix of the stack has this fan in
        nn.init.uniform_(self.lora_A, -bound, bound)

    def matrices(self, tensor: Tensor) -> Tensor:
        return tensor

    def by_output(self, weight: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        return weight, tuple(range(weight.dim() - 1))

    def _add(self, weight: Tensor, factor: Tensor) -> Tensor:
        if self.rows is None:
            return super()._add(weight, factor)
        start, stop = self.rows
        return torch.cat([weight[:start], super()._add(weight[start:stop], factor), weight[stop:]])

    def extra_repr(self) -> str:
        rows = "" if self.rows is None else f"[{self.rows[0]}:{self.rows[1]}]"
        return f"{self.parameter}{rows}, r={self.r}, lora_alpha={self.lora_alpha:g}"


class Site(NamedTuple):
    """Where an adapter belongs."""

    adapter: LowRank
    owner: nn.Module
    """The module that owns the adapted parameter: the adapter itself, if it is a layer."""
    parameter: str

    @property
    def weight(self) -> nn.Parameter:
        """The adapted parameter, raw.

        Raises:
            ValueError: it is computed now, or lies elsewhere.
        """
        weight = self.owner._parameters.get(self.parameter)
        if weight is None and (left := self.owner._buffers.pop(self.parameter, None)) is not None:
            # what remove_parametrizations leaves of a frozen weight
            weight = self.owner._parameters[self.parameter] = nn.Parameter(left, requires_grad=False)
        if weight is None:
            raise ValueError(
                f"the {self.parameter} of an adapted {type(self.owner).__name__} is computed (weight norm, pruning or"
                " another parametrisation put on it since), so that no update can be folded in: remove that first"
            )
        if lies_elsewhere(self.owner, weight):
            raise ValueError(
                f"the {self.parameter} of an adapted {type(self.owner).__name__} is offloaded: remove the hooks first"
                " (accelerate.hooks.remove_hook_from_module(model, recurse=True))"
            )
        return weight


def effective_parameter(module: nn.Module, name: str) -> Tensor:
    """A parameter of a module as its adapters make it; without an adapter, the parameter itself.

    This is how a module reads a parameter that may be adapted: `effective_parameter(self, "x_proj_weight")`
    instead of `self.x_proj_weight`, which is always the frozen base. It works for layers too:
    `effective_parameter(self.in_proj, "weight")`. `lorgnette.lora.verify` finds who reads past it.

    Args:
        module: owner of the parameter.
        name: of the parameter.

    Returns:
        `parameter + s B A` in the dtype and shape of the parameter; see `LoRALayer.effective_weight`.
    """
    weight = getattr(module, name)
    if isinstance(module, LoRALayer) and name == "weight":
        return module.effective_weight()
    for adapter in adapters_of(module, name):
        weight = adapter.add_to(weight)
    return weight


def adapters_of(module: nn.Module, name: str) -> list[LoRAParameter]:
    """The adapters that a module's own parameter has."""
    return [child for child in module.children() if isinstance(child, LoRAParameter) and child.parameter == name]


def part_name(part: str) -> str:
    """Name of the child that adapts a part of its owner: a parameter, or a slice such as 'q' or '0:64'."""
    return f"lora_{part.replace(':', '_')}"


def is_part(name: str) -> bool:
    """Whether an adapter of this name adapts a part of its owner."""
    return name.rpartition(".")[2].startswith(part_name(""))


def part_shapes(weight: tuple[int, ...], r: int, rows: Rows | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of `lora_A` and `lora_B` for a parameter of this shape, `(*stack, out, in)`."""
    *stack, out, wide = weight
    out = out if rows is None else rows[1] - rows[0]
    return (*stack, r, wide), (*stack, out, r)


def sites(model: nn.Module) -> dict[str, Site]:
    """Every adapter by its (first) name in the model, with the parameter it belongs to."""
    found = {}
    for name, adapter in adapted_layers(model).items():
        owner = model.get_submodule(name.rpartition(".")[0]) if isinstance(adapter, LoRAParameter) else adapter
        found[name] = Site(adapter, owner, getattr(adapter, "parameter", "weight"))
    return found
