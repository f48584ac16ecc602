"""`sam3d_objects/model/lora.py`: adapters under the original's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from lorgnette import lora
from lorgnette.lora import (
    LoRAConfig,
    count_parameters as count_parameters,
    freeze_base_params as freeze_base_params,
    get_lora_params as get_lora_params,
    get_lora_state_dict as get_lora_state_dict,
    inject_lora as inject_lora,
    load_lora_state_dict as load_lora_state_dict,
    merge_lora_weights as merge_lora_weights,
)
from lorgnette.lora.layers.tables import attach_lora
from lorgnette.lora.selection import select_layers

TARGETS = ("to_qkv", "to_out")
OUTPUT_LAYERS = ("out_layer",)


class _Adapted(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, lora.LoRALinear)


class LoRALinear(metaclass=_Adapted):
    """An adapter on a given layer: `LoRALinear(linear, rank, alpha, dropout)`.

    The layer itself becomes the adapted one, a `lorgnette.lora.LoRALinear` with all that this has: `lora_A` (rank, in),
    `lora_B` (out, rank), `merge_weights()`, `effective_weight()` for the sum. Its own weight and bias are frozen.

    Raises:
        ValueError: the layer has a forward of its own, or an adapter already.
    """

    def __new__(cls, linear: nn.Linear, rank: int = 4, alpha: float = 8.0, dropout: float = 0.0) -> Any:
        if type(linear) is not nn.Linear:
            raise ValueError(
                f"linear: a {type(linear).__name__} has a forward or an adapter of its own; nn.Linear works"
            )
        adapted = attach_lora(linear, LoRAConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout))
        freeze_base_params(adapted)
        return adapted


def _find_modules_by_name(model: nn.Module, target_names: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """Layers whose names end in these: by whole parts of a name, so that `to_q` is not `to_qkv`."""
    chosen = select_layers(model, LoRAConfig(target_modules=list(target_names)))
    return [(name, model.get_submodule(target.owner)) for name, target in chosen.items()]


def setup_lora_for_medical_finetuning(
    model: nn.Module,
    rank: int = 4,
    alpha: float = 8,
    dropout: float = 0.0,
    unfreeze_output_layers: bool = True,
    target_modules: Sequence[str] | Callable[[str, nn.Module], Any] = TARGETS,
    output_layers: Sequence[str] = OUTPUT_LAYERS,
    per_layer: Mapping[str, Mapping[str, Any]] | None = None,
) -> nn.Module:
    """Adapters in a decoder's attention, everything else frozen but, if wished, its output layers; in place.

    Args:
        model: any module with such layers.
        rank: of the adapters.
        alpha: their strength.
        dropout: before them.
        unfreeze_output_layers: train the output layers whole; `get_lora_state_dict` holds them too.
        target_modules: names of layers, or a function (name, layer) -> bool | None | LoRAConfig.
        output_layers: names of the layers that are unfrozen.
        per_layer: other settings for some layers: regular expression for the end of the name -> settings of
            `LoRAConfig`, such as `{"blocks.0.attn.to_qkv": {"r": 8}}`.

    Returns:
        The same model.

    Raises:
        ValueError: a name that no layer has, or a layer that cannot be adapted; nothing was changed.
    """
    targets: Any = target_modules if callable(target_modules) else list(target_modules)
    return inject_lora(
        model,
        target_modules=targets,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        modules_to_save=list(output_layers) if unfreeze_output_layers else None,
        overrides={name: dict(settings) for name, settings in (per_layer or {}).items()},
    )
