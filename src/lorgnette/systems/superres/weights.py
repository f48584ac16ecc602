"""Where weights come from: this package, our own files, upstream checkpoints."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lorgnette.common.modules import check_fits, narrow
from lorgnette.common.tensors import check_state, float_state, read_tensors
from lorgnette.lora import adapter_folder
from lorgnette.systems.superres.decoders import ContinuousImage
from lorgnette.systems.superres.encoders import deduced_encoder, known_encoder
from lorgnette.systems.superres.model import NETWORKS, make_network
from lorgnette.systems.superres.names import METHODS, method_name
from lorgnette.systems.superres.recipe import Model

SHIPPED = Path(__file__).parent / "base"
SHIPPED_NETWORK: dict[str, Any] = {"method": "lm-lte", "encoder": "edsr-baseline"}


def load_base(settings: Model) -> ContinuousImage:
    """The network of the settings with its base weights.

    Raises:
        ValueError: the weights belong to another network, or the settings name an unknown one.
        FileNotFoundError: no such weight file.
    """
    model = _base(settings)
    if settings.use_checkpoint:
        model.use_checkpoint = True
    return model


def _base(settings: Model) -> ContinuousImage:
    if settings.pruned and settings.base in ("none", "shipped"):
        raise ValueError(f"model.pruned: {settings.base!r} is not pruned; model.base is a folder that holds what is")
    if settings.base == "none":
        model = make_network(settings.method, settings.encoder)
        model.start_as_bilinear()
        return model
    if settings.base == "shipped":
        for name, shipped in SHIPPED_NETWORK.items():
            if getattr(settings, name) != shipped:
                raise ValueError(
                    f"model.base: the shipped weights are for {shipped!r}, not {getattr(settings, name)!r}; "
                    "give a checkpoint, or 'none' to train from the beginning"
                )
        return from_upstream(SHIPPED / "model.safetensors", **SHIPPED_NETWORK)
    path = adapter_folder(settings.base)
    file = path / "model.safetensors" if path.is_dir() else path
    return from_upstream(file, settings.method, settings.encoder, settings.pruned)


def from_upstream(
    path_or_state: str | os.PathLike[str] | Mapping[str, Any],
    method: str | None = None,
    encoder: str | None = None,
    pruned: bool = False,
) -> ContinuousImage:
    """A network with published weights.

    Understands `{"model": {"name", "args", "sd"}}` as upstream's trainings write it (HeZongyao/LMF, and yinboc/liif and
    jaewon-lee-b/lte before it), a bare state dict, and a safetensors file of one; half-precision tensors become
    float32. No code in the file is run.

    Args:
        path_or_state: a file (.pth, .pt, .safetensors) or what `torch.load` would give.
        method: 'lm-lte', 'lm-liif', 'lm-ciaosr', 'lte' or 'liif', also spelled as 'LMLTE'. None: deduced from the
            names of the tensors.
        encoder: a name in `ENCODERS`. None: deduced from the tensors (their number of blocks and channels).
        pruned: the tensors are of a network of these names that was made narrower since; `encoder` must be given.

    Returns:
        A network in eval mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, another network than was asked for, or tensors that do not fit, each in one
            line.
    """
    wanted = method_name(method) if method else None
    source = "the state dict" if isinstance(path_or_state, Mapping) else str(path_or_state)
    raw = path_or_state if isinstance(path_or_state, Mapping) else read_tensors(path_or_state)
    said, inner = _unwrapped(raw, source)
    state = float_state(inner, source)
    found = _deduced_method(state, source)
    if wanted not in (None, found):
        raise ValueError(f"{source} holds weights of {found}, not of {wanted}; leave the method out, or say {found}")
    its = encoder if pruned and encoder else _encoder(state, source, encoder)
    model = make_network(found, its, **_settings(found, said, state))
    if pruned:
        narrow(model, state)
    check_state(state, model.state_dict(), source)
    model.load_state_dict(state)
    if pruned:
        check_fits(model, model.example_inputs(), source)
    return model.eval()


def _unwrapped(raw: Mapping[str, Any], source: str) -> tuple[Mapping[str, Any], Any]:
    """What a checkpoint says of its network, and its tensors."""
    inner = raw.get("model")
    if not isinstance(inner, Mapping):
        return {}, raw
    name = inner.get("name")
    if name is not None and str(name) not in [known.replace("-", "") for known in METHODS]:
        raise ValueError(f"{source} holds a network of the kind {name!r}; {', '.join(METHODS)} are what is read here")
    args = inner.get("args")
    return args if isinstance(args, Mapping) else {}, inner.get("sd")


def _deduced_method(state: Mapping[str, Tensor], source: str) -> str:
    """By parts that only one has."""
    parts = {name.partition(".")[0] for name in state}
    for method, own in {
        "lm-ciaosr": {"hypernet_q"},
        "lm-lte": {"freq", "hypernet"},
        "lm-liif": {"hypernet"},
        "lte": {"freq"},
        "liif": {"imnet"},
    }.items():
        if own <= parts:
            return method
    raise ValueError(f"{source} holds no network that is read here: {', '.join(METHODS)} are")


def _encoder(state: Mapping[str, Tensor], source: str, encoder: str | None) -> str:
    """The encoder that is asked for; one that is another by its tensors is refused."""
    wanted = known_encoder(encoder) if encoder else None
    try:
        found = deduced_encoder(state, source)
    except ValueError:
        if wanted is None:
            raise
        return wanted
    if wanted not in (None, found):
        raise ValueError(f"{source}: its encoder is {found!r}, not {wanted!r}; leave the encoder out, or say {found}")
    return found


def _settings(method: str, said: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The decoder's settings that its tensors show, and those which only the checkpoint's own arguments tell."""
    found: dict[str, Any] = {}
    if layers := {name for name in state if re.fullmatch(r"imnet(_q)?\.layers\.\d+\.weight", name)}:
        found["imnet_depth"] = len(layers) - 1
    found["mod_input"] = "imphase.weight" in state if method == "lm-lte" else True
    if method == "lm-ciaosr":
        found["non_local_attn"] = any(name.startswith("cs_attn.") for name in state)
    for name in ("local_ensemble", "cell_decode", "local_size", "multi_scale", "softmax_scale"):
        if isinstance(said.get(name), bool | int | float | list):
            found[name] = said[name]
    takes = inspect.signature(NETWORKS[method]).parameters
    return {name: value for name, value in found.items() if name in takes}
