"""Outputs of the authors' code (HeZongyao/LMF 17e356ed) for weights that names decide."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

GOLDENS = Path(__file__).parents[2] / "data" / "lmf"
KEPT = (".sub_mean.", ".add_mean.", "relative_position_index", "attn_mask", "escape_NaN")
QUIET = ("freq.", *(f"{net}.layers.2." for net in ("hypernet", "hypernet_q", "imnet_k", "imnet_v", "prenet_q")))


def fill(model: nn.Module) -> None:
    """A hash of the name seeds each tensor."""
    for key, tensor in model.state_dict().items():
        if any(part in key for part in KEPT):
            continue
        seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")
        z = np.random.RandomState(seed).standard_normal(tensor.numel()).astype(np.float32).reshape(tensor.shape)
        if z.ndim >= 2:
            z = z / np.float32(math.sqrt(math.prod(z.shape[1:])))
        elif key.endswith("bias"):
            z = np.float32(0.1) * z
        else:
            z = 1 + np.float32(0.1) * z
        if key.startswith(QUIET):
            z = z * np.float32(0.1)
        tensor.copy_(torch.from_numpy(np.asarray(z, dtype=np.float32)))


def golden(name: str) -> dict[str, Any]:
    """`image` (3, h, w) in [0, 1], `out` (H, W, 3) in network space, `meta`, and more."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        data = dict(file)
    return data | {"meta": json.loads(str(data["meta"]))}


def keys(method: str, encoder: str) -> dict[str, list[int]]:
    """Names and shapes in a published checkpoint."""
    known = json.loads((GOLDENS / "keys.json").read_text())
    encoded = {f"encoder.{name}": shape for name, shape in known["encoders"][encoder].items()}
    return encoded | known["decoders"][f"{method.replace('-', '')} {encoder}"]
