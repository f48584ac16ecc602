"""Files of kohya-ss/sd-scripts and programs after it: one underscored name a layer, and `alpha` beside the factors.

lora_unet_down_blocks_0_to_q.lora_down.weight    A: (r, in) or (r, in, kh, kw)
lora_unet_down_blocks_0_to_q.lora_up.weight      B: (out, r) or (out, r, 1, 1)
lora_unet_down_blocks_0_to_q.alpha               a number; absent, it is r
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lorgnette.common.text import nearest
from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.layers.tables import layer_types
from lorgnette.lora.targets import Target

PREFIXES = ("lora_unet_", "lora_te1_", "lora_te2_", "lora_te3_", "lora_te_", "lora_")
_FACTORS = ("lora_down.weight", "lora_up.weight", "alpha")


def read_kohya(
    model: nn.Module, state: Mapping[str, Tensor], alpha: float | None, prefix: str | None
) -> tuple[dict[str, Target], dict[str, Tensor]]:
    """Where the adapters of such a file go, and its tensors under the model's names.

    Args:
        model: the base, or the same with adapters.
        state: the file's tensors.
        alpha: strength of the layers for which the file states none; None: their rank.
        prefix: take only the names with this beginning, such as 'lora_unet'; None: all.

    Raises:
        ValueError: a name fits two layers, or a key is not of this format.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        title, _, part = key.replace("_orig_mod_", "").partition(".")  # the word of a compiled model
        if prefix is None or title.startswith(f"{prefix.rstrip('_')}_"):
            layers.setdefault(title, {})[part] = tensor
    if not layers:
        raise ValueError(f"prefix: no name of the file begins with {prefix!r}; {next(iter(state), '')!r} is there")
    known = _underscored(model)
    targets: dict[str, Target] = {}
    tensors: dict[str, Tensor] = {}
    for title, parts in layers.items():
        if strange := [part for part in parts if part not in _FACTORS]:
            raise ValueError(f"{f'{title}.{strange[0]}'!r} belongs to another method than LoRA, which is not read")
        name = _named(title, known, model)
        down, up = (parts.get(part) for part in _FACTORS[:2])
        if down is None or up is None:
            raise ValueError(f"{title!r} has no {_FACTORS[0] if down is None else _FACTORS[1]}: the file is incomplete")
        weight = _weight(model, name)
        A, B = _factors(title, down, up, weight)
        strength = parts.get("alpha")
        rank = A.shape[0]
        scale = float(strength) if strength is not None else (rank if alpha is None else alpha)
        if name in targets:
            raise ValueError(f"two names of the file mean {name!r}, {title!r} is one; prefix= takes one of them")
        targets[name] = Target(name, LoRAConfig(r=rank, lora_alpha=scale))
        tensors |= {f"{name}.lora_A": A, f"{name}.lora_B": B}
    return targets, tensors


def _underscored(model: nn.Module) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if name and isinstance(module, layer_types()):
            found.setdefault(name.replace(".", "_"), []).append(name)
    return found


def _named(title: str, known: Mapping[str, list[str]], model: nn.Module) -> str:
    found: dict[str, None] = {}
    for start in ("", *PREFIXES):
        if title.startswith(start):
            found |= dict.fromkeys(known.get(title.removeprefix(start), ()))
    if len(found) > 1:
        names = " and ".join(map(repr, list(found)[:2]))
        raise ValueError(f"{title!r} may mean {names}: underscores stand for dots, and both are in the model")
    start = next((start for start in PREFIXES if title.startswith(start)), "")
    bare = title.removeprefix(start)
    if not found:
        hint = nearest(bare, known)
        raise ValueError(f"{title!r} has no layer in {type(model).__name__}{hint}")
    return next(iter(found))


def _weight(model: nn.Module, name: str) -> Tensor:
    layer = model.get_submodule(name)
    weight = layer._parameters.get("weight")
    if weight is None:
        raise ValueError(f"{name!r} is a {type(layer).__name__} without one weight, to which the file's factors belong")
    return weight


def _factors(title: str, down: Tensor, up: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    if down.dim() not in (2, weight.dim(), 4) or up.dim() not in (2, weight.dim(), 4):
        raise ValueError(f"{title!r} has factors of {down.dim()} and {up.dim()} dimensions")
    # Programs disagree on whether a matrix is written as a 1 x 1 convolution.
    trailing = (1,) * (weight.dim() - 2)
    if down[0].numel() == down.shape[1]:
        down = down.reshape(down.shape[0], down.shape[1], *trailing)
    if up[0].numel() == up.shape[1]:
        up = up.reshape(up.shape[0], up.shape[1], *trailing)
    return down, up
