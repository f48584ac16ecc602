"""Where weights come from: this package, our own files, upstream checkpoints."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorgnette.common.modules import check_fits, narrow
from lorgnette.common.tensors import check_state, float_state, read_tensors
from lorgnette.lora import adapter_folder
from lorgnette.systems.restore.model import MambaIR
from lorgnette.systems.restore.recipe import Model

SHIPPED = Path(__file__).parent / "base"
ADDED = re.compile(r".*\.self_attention\.lora_cache\.(map_A|map_B|gate)")
"""What `use_lora_cache` adds to a network, and checkpoints without it lack."""
CACHE = ("use_lora_cache", "lora_rank", "lora_alpha", "lora_dropout", "cache_size", "similarity_threshold",
         "cache_in_training", "max_bytes")  # fmt: skip


def load_base(settings: Model) -> MambaIR:
    """The network of the settings with its base weights.

    Raises:
        ValueError: the weights belong to another network; one line names the first tensor that differs.
        FileNotFoundError: no such weight file.
    """
    given = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    base, pruned = given.pop("base"), given.pop("pruned")
    if pruned and base in ("none", "shipped"):
        raise ValueError(f"model.pruned: {base!r} is not pruned; model.base is a folder that holds what is")
    if base == "none":
        return MambaIR(**given)
    if base == "shipped":
        changed = [name for name in given if name not in CACHE and given[name] != getattr(Model(), name)]
        if changed:
            name = changed[0]
            raise ValueError(
                f"model.base: the shipped weights have model.{name} {getattr(Model(), name)!r}, not {given[name]!r};"
                " give a checkpoint, or 'none' to train from the beginning"
            )
        if not (SHIPPED / "model.safetensors").is_file():
            raise FileNotFoundError(f"model.base: no weights are shipped in {SHIPPED}; give a checkpoint")
        return from_upstream(SHIPPED / "model.safetensors", **given)
    path = adapter_folder(base)
    return from_upstream(path / "model.safetensors" if path.is_dir() else path, pruned, **given)


def from_upstream(
    path_or_state: str | os.PathLike[str] | Mapping[str, Any], pruned: bool = False, **settings: Any
) -> MambaIR:
    """A network with published weights.

    Understands `{"params_ema": ..., "params": ...}` as BasicSR writes it (the averaged weights are preferred), a bare
    state dict, and a safetensors file of one; half-precision tensors become float32. No code in the file is run.

    Args:
        path_or_state: a file (.pth, .pt, .safetensors) or what `torch.load` would give.
        pruned: the tensors are of such a network that was made narrower since.
        settings: of `MambaIR`. What is not given is read off the tensors: in_chans, embed_dim, depths, d_state,
            mlp_ratio, upsampler, upscale, resi_connection, patch_norm. `img_range` cannot be, and is 1.

    Returns:
        A `MambaIR` in eval mode. With `use_lora_cache` it may have tensors that the checkpoint lacks.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or tensors that do not fit; one line names the first that differs.
    """
    source = "the state dict" if isinstance(path_or_state, Mapping) else str(path_or_state)
    raw: Any = path_or_state if isinstance(path_or_state, Mapping) else read_tensors(path_or_state)
    inner = raw.get("params_ema", raw.get("params", raw))
    state = float_state(inner, source)
    model = MambaIR(**(deduced(state, source) | settings))
    if pruned:
        narrow(model, state)
    own = model.state_dict()
    check_state(state, {name: t for name, t in own.items() if name in state or not ADDED.fullmatch(name)}, source)
    model.load_state_dict(state, strict=not settings.get("use_lora_cache"))
    if pruned:
        check_fits(model, (torch.zeros(1, model.in_chans, 8, 8),), source)
    return model.eval()


def deduced(state: Mapping[str, Tensor], source: str = "the state dict") -> dict[str, Any]:
    """Settings of `MambaIR` that the names and shapes of a checkpoint tell.

    Raises:
        ValueError: it is no MambaIR.
    """
    blocks = re.compile(r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.skip_scale")
    found = [(int(m[1]), int(m[2])) for name in state if (m := blocks.fullmatch(name))]
    first, scan = state.get("conv_first.weight"), "layers.0.residual_group.blocks.0.self_attention."
    if not found or first is None or first.ndim != 4 or scan + "A_logs" not in state:
        raise ValueError(f"{source} is no checkpoint of MambaIR (version 1): it has no scan in its first block")
    depths = [1 + max(block for group, block in found if group == g) for g in range(1 + max(g for g, _ in found))]
    embed_dim, in_chans = first.shape[:2]
    inner = state[scan + "out_norm.weight"].shape[0]
    upsampler, upscale = _head(state, in_chans)
    return {
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": depths,
        "d_state": state[scan + "A_logs"].shape[1],
        "mlp_ratio": _ratio(inner, embed_dim),
        "upsampler": upsampler,
        "upscale": upscale,
        "resi_connection": "3conv" if "conv_after_body.0.weight" in state else "1conv",
        "patch_norm": "patch_embed.norm.weight" in state,
    }


def _ratio(inner: int, width: int) -> float:
    """A ratio for which `int(ratio * width)` is `inner`: the shortest decimal that does."""
    for digits in range(1, 8):
        for ratio in (round(inner / width, digits), round(inner / width + 0.5 / 10**digits, digits)):
            if int(ratio * width) == inner:
                return ratio
    return (inner + 0.5) / width


def _head(state: Mapping[str, Tensor], channels: int) -> tuple[str, int]:
    if "conv_before_upsample.0.weight" in state:
        wide = state["upsample.0.weight"].shape[0] // 64
        if wide == 9:
            return "pixelshuffle", 3
        return "pixelshuffle", 2 ** sum(re.fullmatch(r"upsample\.\d+\.weight", name) is not None for name in state)
    if "upsample.0.weight" in state:
        return "pixelshuffledirect", round((state["upsample.0.weight"].shape[0] / channels) ** 0.5)
    return "", 1
