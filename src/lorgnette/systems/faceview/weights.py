"""Where weights come from: folders that `save` wrote, and checkpoints of the original program."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from lorgnette.common.tensors import float_state, read_tensors
from lorgnette.lora import adapter_folder
from lorgnette.systems.faceview.model import EnhancedTransformerDecoderOnly3D
from lorgnette.systems.faceview.recipe import Model


def network(settings: Model) -> EnhancedTransformerDecoderOnly3D:
    """The untrained network of the settings, without adapters."""
    return EnhancedTransformerDecoderOnly3D(
        d_model=settings.d_model,
        nhead=settings.nhead,
        num_layers=settings.num_layers,
        dim_feedforward=settings.dim_feedforward,
        dropout=settings.dropout,
        use_lora_attention=False,
        use_projection_layer=settings.projection,
        voxel_resolution=settings.voxel_resolution,
        num_tokens=settings.num_tokens,
        gate=settings.gate,
        use_steps=settings.steps,
    )


def load_base(settings: Model) -> EnhancedTransformerDecoderOnly3D:
    """The network of the settings with its base weights.

    Raises:
        FileNotFoundError: no such base.
        ValueError: weights of another size, such as another `d_model`.
    """
    model = network(settings)
    if settings.base != "none":
        path = adapter_folder(settings.base)
        file = path / "model.safetensors" if path.is_dir() else path
        model.load_base(_state(read_tensors(file), str(file)))
    return model


def from_upstream(
    path_or_state: str | os.PathLike[str] | Mapping[str, Any], nhead: int = 8, gate: str = "none"
) -> EnhancedTransformerDecoderOnly3D:
    """A network with the weights of a file; its sizes are deduced from them.

    Understands a bare state dict and checkpoints with `model_state_dict`, as `train_enhanced` writes them. Adapters in
    it are left where they are: load such a file with the network that it was trained with.

    Args:
        path_or_state: a file (.safetensors, .pth, .pt), or what is in it.
        nhead: heads, which no shape tells.
        gate: see `EnhancedTransformerDecoderOnly3D`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or tensors that do not fit, in one line.
    """
    source = "the state dict" if isinstance(path_or_state, Mapping) else str(path_or_state)
    raw = path_or_state if isinstance(path_or_state, Mapping) else read_tensors(path_or_state)
    state = _state(raw, source)
    settings = replace(deduced(state, source), nhead=1)
    if settings.d_model % nhead:
        raise ValueError(f"nhead: {nhead} does not divide {settings.d_model}, the width in {source}")
    model = network(replace(settings, nhead=nhead, gate=gate))
    model.load_base(state)
    return model.eval()


def deduced(state: Mapping[str, Tensor], source: str) -> Model:
    """The sizes that tensors tell.

    Raises:
        ValueError: they are of another network.
    """
    layers = {int(match[1]) for name in state if (match := re.match(r"layers\.(\d+)\.", name))}
    hidden, width = state.get("layers.0.linear1.weight"), state.get("norm.weight")
    if not layers or hidden is None or width is None:
        raise ValueError(f"{source} holds no face mapping: it has no layers.0.linear1.weight")
    return Model(
        d_model=len(width),
        nhead=1,
        num_layers=max(layers) + 1,
        dim_feedforward=len(hidden),
        num_tokens=len({name for name in state if re.fullmatch(r"split\.\d+\.weight", name)}),
        projection="projection.lift.weight" in state,
        steps="steps.down.0.weight" in state,
    )


def _state(raw: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    inner = raw.get("model_state_dict", raw)
    state = float_state(inner, source)
    return {name: value for name, value in state.items() if not re.search(r"\.lora_[AB]$", name)}
