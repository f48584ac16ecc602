"""What PEFT's files say in another way than plain LoRA: biases of B, and factors that started as a part of the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lorgnette.lora.layers.base import LORA_TENSORS, is_adapted
from lorgnette.lora.state import from_peft
from lorgnette.lora.targets import Target

_BIAS = f"{LORA_TENSORS[1]}.bias"
FROM_BASE = ("pissa", "olora")
"""Starts that are a part of the base, which the base tells again. Those of 'pissa_niter_N' were drawn by chance."""


def biases_folded(model: nn.Module, targets: Mapping[str, Target], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state in which a bias of B (`lora_bias`), times the factor before `B A`, is part of the layer's own bias.

    The output is the same. The layer's bias then counts as trained with the adapter.

    Raises:
        ValueError: the layer has no bias, or its bias may hold such a part already.
    """
    folded = dict(state)
    keys = {from_peft(key, tensor, ())[0]: key for key, tensor in state.items()}
    for name, key in keys.items():
        if not name.endswith(f".{_BIAS}"):
            continue
        owner = name.removesuffix(f".{_BIAS}")
        target, own = targets.get(owner), keys.get(f"{owner}.bias", f"{owner}.bias")
        if target is None or is_adapted(model):
            raise ValueError(f"lora_bias: {name!r} goes into the bias of a layer without adapters")
        bias = folded.get(own, model.get_submodule(owner)._parameters.get("bias"))
        if bias is None:
            raise ValueError(f"lora_bias: {owner!r} has no bias that {name!r} could go into")
        del folded[key]
        folded[own] = bias.detach() + target.settings.scaling * state[key].to(bias)
    return folded


def with_starts(
    model: nn.Module, config: Mapping[str, Any], targets: Mapping[str, Target], state: Mapping[str, Tensor]
) -> tuple[dict[str, Target], dict[str, Tensor]]:
    """Targets and state with the factors at the start beside those of now, as `save_adapter` packs them.

    PEFT took the part out of the base when the adapter was made, and does so again when it loads the file.
    """
    start = config.get("init_lora_weights")
    if start not in FROM_BASE:
        return dict(targets), dict(state)
    named = {from_peft(key, tensor, ())[0]: key for key, tensor in state.items()}
    adapted, packed = {}, dict(state)
    for name, target in targets.items():
        layer = model.get_submodule(target.owner)
        if target.parameter is not None or not isinstance(layer, nn.Linear):
            raise ValueError(f"init_lora_weights = {start!r}: {name!r} is no nn.Linear, for which alone PEFT has it")
        A0, B0 = _start(str(start), layer.weight.detach(), target.settings.r, target.settings.scaling)
        for factor, other, axis in zip(LORA_TENSORS, (A0, -B0), (0, 1), strict=True):
            if (key := named.get(f"{name}.{factor}")) is not None:
                packed[key] = torch.cat([state[key], other.to(state[key])], axis)
        adapted[name] = target._replace(settings=replace(target.settings, init_lora_weights=str(start)))
    return adapted, packed


def _start(kind: str, weight: Tensor, r: int, scaling: float) -> tuple[Tensor, Tensor]:
    """The factors that PEFT starts from: `(r, in)` and `(out, r)`."""
    matrix = weight.float()
    if kind == "olora":
        Q, R = torch.linalg.qr(matrix)
        return R[:r], Q[:, :r]
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    root = (S[:r] / scaling).sqrt()
    return root[:, None] * Vh[:r], U[:, :r] * root
