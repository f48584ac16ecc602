"""Where weights come from: this package, our own files, published checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lorgnette.common.tensors import check_state, float_state, read_tensors
from lorgnette.lora import adapter_folder
from lorgnette.systems.mesh.model import OUT_CHANNELS, SLatMeshDecoder
from lorgnette.systems.mesh.recipe import SIZES, Model

SHIPPED = Path(__file__).parent / "base"
SHIPPED_SIZE = "small"
_FIRST = "input_layer.weight"


def load_base(settings: Model, resolution: int) -> SLatMeshDecoder:
    """The decoder of the settings with its base weights, for a grid of that resolution.

    Raises:
        ValueError: the weights belong to another size.
        FileNotFoundError: no such weight file.
    """
    size: dict[str, Any] = SIZES[settings.size] | {"resolution": resolution}
    if settings.base == "none":
        return SLatMeshDecoder(**size)
    if settings.base == "shipped":
        if settings.size != SHIPPED_SIZE:
            raise ValueError(
                f"model.base: the shipped weights are of the size {SHIPPED_SIZE!r}, not {settings.size!r}; give a "
                "checkpoint, or 'none' to train from the beginning"
            )
        return from_upstream(SHIPPED / "model.safetensors", **size)
    path = adapter_folder(settings.base)
    path = path / "model.safetensors" if path.is_dir() else path
    told = {name: value for name, value in size.items() if name not in ("model_channels", "num_blocks")}
    model = from_upstream(path, **told)
    if (found := (model.input_layer.out_features, len(model.blocks))) != (size["model_channels"], size["num_blocks"]):
        raise ValueError(
            f"model.size: {settings.size!r} is {size['model_channels']} x {size['num_blocks']}, but {path} "
            f"is {found[0]} x {found[1]}"
        )
    return model


def from_upstream(path_or_state: str | os.PathLike[str] | Mapping[str, Any], **settings: Any) -> SLatMeshDecoder:
    """A decoder with published weights.

    Understands the state dict of TRELLIS's `slat_dec_mesh_*` (safetensors) and of SAM 3D's `slat_decoder_mesh`, bare
    or below 'state_dict', with or without a prefix before every name; half-precision tensors become float32. Tensors
    of published files that belong to other parts are no part of it: all must fit. No code in the file is run.

    Args:
        path_or_state: a file (.safetensors, .pt, .pth, .ckpt) or what `torch.load` would give.
        settings: of `SLatMeshDecoder`. Width, latents, blocks, MLP, colours and norms of queries are read off the
            tensors; heads too where those norms are, and are `width / 64` otherwise. What no tensor tells is as in
            the published settings: resolution 64, windows of 8, 32 groups.

    Returns:
        The decoder, in eval mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or tensors that do not fit, each in one line.
    """
    source = "the state dict" if isinstance(path_or_state, Mapping) else str(path_or_state)
    raw = path_or_state if isinstance(path_or_state, Mapping) else read_tensors(path_or_state)
    state = _without_prefix(float_state(raw.get("state_dict", raw), source), source)
    try:
        model = SLatMeshDecoder(**(deduced(state, source) | settings))
    except TypeError:
        raise ValueError(f"settings: {', '.join(settings)}: not all are settings of SLatMeshDecoder") from None
    check_state(state, model.state_dict(), source)
    model.load_state_dict(state)
    return model.eval()


def deduced(state: Mapping[str, Tensor], source: str = "the state dict") -> dict[str, Any]:
    """The settings of `SLatMeshDecoder` that names and shapes of its tensors tell.

    Raises:
        ValueError: they are not those of such a decoder.
    """
    blocks = [int(m[1]) for name in state if (m := re.fullmatch(r"blocks\.(\d+)\.attn\.to_qkv\.weight", name))]
    first, out = state.get(_FIRST), state.get("out_layer.weight")
    if first is None or first.ndim != 2 or out is None or not blocks:
        raise ValueError(f"{source} is no mesh decoder: it lacks input_layer, out_layer, or blocks with to_qkv")
    colours = {rows: use for use, rows in OUT_CHANNELS.items()}
    if len(out) not in colours:
        raise ValueError(f"{source}: out_layer has {len(out)} outputs; a mesh decoder has 53, or 101 with colours")
    gamma, hidden = state.get("blocks.0.attn.q_rms_norm.gamma"), state.get("blocks.0.mlp.mlp.0.weight")
    width = len(first)
    return {
        "model_channels": width,
        "latent_channels": first.shape[1],
        "num_blocks": max(blocks) + 1,
        "num_heads": max(1, width // 64) if gamma is None else len(gamma),
        "mlp_ratio": 4 if hidden is None else len(hidden) / width,
        "qk_rms_norm": gamma is not None,
        "use_color": colours[len(out)],
    }


def _without_prefix(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Names without what stands before all of them."""
    found = [name.removesuffix(_FIRST) for name in state if name.endswith(_FIRST)]
    prefix = found[0] if len(found) == 1 else ""
    if prefix and not all(name.startswith(prefix) for name in state):
        other = next(name for name in state if not name.startswith(prefix))
        raise ValueError(f"{source} holds {other!r} beside the decoder below {prefix!r}; give that part alone")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
