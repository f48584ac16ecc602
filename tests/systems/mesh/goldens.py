"""Outputs of the published decoder's code for weights made by a recipe, and that recipe.

A small cut lies in `tests/data/mesh_decoder`; the whole is looked for beside the folder that LORGNETTE_DATA names.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[3]
CUT = ROOT / "tests" / "data" / "mesh_decoder"
WHOLE = Path(os.environ.get("LORGNETTE_DATA", ROOT.parent / "shared" / "data")).parent / "goldens" / "mesh_decoder"
CASES = ("public_a_swin_window8", "public_b_batch2_color_rms_fullattn")

needs_goldens = pytest.mark.skipif(not WHOLE.is_dir(), reason=f"needs the outputs in {WHOLE} (set LORGNETTE_DATA)")


def made(key: str, shape: Any) -> np.ndarray:
    """The weight of that name."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")
    z = np.random.RandomState(seed).standard_normal(math.prod(shape)).astype(np.float32).reshape(shape)
    if key.endswith(".bias"):
        return np.float32(0.05) * z
    if key.endswith(".gamma") or len(shape) == 1:
        return 1 + np.float32(0.1) * z
    return z * np.float32(1 / np.sqrt(math.prod(shape[1:])))


def state(shapes: dict[str, Any]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(made(key, shape)) for key, shape in shapes.items()}


def whole(case: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and arrays."""
    with np.load(WHOLE / f"{case}.npz") as arrays:
        return json.loads((WHOLE / f"{case}.json").read_text()), {k: torch.from_numpy(v) for k, v in arrays.items()}


def cut() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Shapes of two networks, and arrays of one."""
    with np.load(CUT / "full_attention_item1.npz") as arrays:
        found = {k: torch.from_numpy(v.astype(np.int64) if v.dtype == np.uint16 else v) for k, v in arrays.items()}
    return json.loads((CUT / "shapes.json").read_text()), found
