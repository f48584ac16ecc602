"""Where weights come from: this package, our own files, upstream checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lorgnette.common.tensors import check_state, float_state, read_tensors
from lorgnette.lora import adapter_folder
from lorgnette.systems.superres.encoders import EDSR, ENCODERS, make_encoder
from lorgnette.systems.superres.model import LMLTE
from lorgnette.systems.superres.recipe import Model

SHIPPED = Path(__file__).parent / "base"
SHIPPED_ENCODER = "edsr-baseline"


def load_base(settings: Model) -> LMLTE:
    """The network of the settings with its base weights.

    Raises:
        ValueError: the weights belong to another encoder, or the settings name an unknown one.
        FileNotFoundError: no such weight file.
    """
    encoder = make_encoder(settings.encoder)
    if settings.base == "none":
        model = LMLTE(encoder)
        model.start_as_bilinear()
        return model
    if settings.base == "shipped":
        if settings.encoder != SHIPPED_ENCODER:
            raise ValueError(
                f"model.base: the shipped weights are for {SHIPPED_ENCODER!r}, not {settings.encoder!r}; "
                "give a checkpoint, or 'none' to train from the beginning"
            )
        return from_upstream(SHIPPED / "model.safetensors", encoder=SHIPPED_ENCODER)
    path = adapter_folder(settings.base)
    return from_upstream(path / "model.safetensors" if path.is_dir() else path, encoder=settings.encoder)


def from_upstream(
    path_or_state: str | os.PathLike[str] | Mapping[str, Any],
    method: str = "lm-lte",
    encoder: str | None = None,
) -> LMLTE:
    """A network with published weights.

    Understands `{"model": {"name", "args", "sd"}}` as upstream's training writes it (HeZongyao/LMF), a bare state
    dict, and a safetensors file of one; half-precision tensors become float32. No code in the file is run.

    Args:
        path_or_state: a file (.pth, .pt, .safetensors) or what `torch.load` would give.
        method: 'lm-lte'.
        encoder: a name in `ENCODERS`. None: deduced from the tensors (their number of blocks and channels).

    Returns:
        An `LMLTE` in eval mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or tensors that do not fit, each in one line.
    """
    if method.replace("-", "").lower() != "lmlte":
        raise ValueError(f"method: {method!r} is not known; 'lm-lte' is")
    source = "the state dict" if isinstance(path_or_state, Mapping) else str(path_or_state)
    raw = path_or_state if isinstance(path_or_state, Mapping) else read_tensors(path_or_state)
    state = _state_dict(raw, source)
    model = LMLTE(make_encoder(encoder) if encoder else _deduced_encoder(state, source))
    check_state(state, model.state_dict(), source)
    model.load_state_dict(state)
    return model.eval()


def _state_dict(raw: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The tensors by name, whatever they are wrapped in, in float32."""
    inner: Any = raw
    if isinstance(inner.get("model"), Mapping):
        name = str(inner["model"].get("name", "lmlte"))
        if name != "lmlte":
            raise ValueError(f"{source} holds a network of the kind {name!r}; 'lmlte' is what is read here")
        inner = inner["model"].get("sd")
    return float_state(inner, source)


def _deduced_encoder(state: Mapping[str, Tensor], source: str) -> EDSR:
    blocks = [int(m[1]) for name in state if (m := re.fullmatch(r"encoder\.body\.(\d+)\.body\.0\.weight", name))]
    head = state.get("encoder.head.0.weight")
    if not blocks or head is None or head.ndim != 4:
        raise ValueError(f"{source} has no EDSR encoder; give the setting encoder")
    found = {"n_resblocks": max(blocks) + 1, "n_feats": head.shape[0]}
    for name, settings in ENCODERS.items():
        if found.items() <= settings.items():
            return make_encoder(name)
    raise ValueError(f"{source}: no known encoder has {found['n_resblocks']} blocks of {found['n_feats']} channels")
