"""Files of diffusers, `pytorch_lora_weights.safetensors`: names with dots, and the part of a pipeline before them.

unet.down_blocks.0.attn1.to_q.lora_A.weight             A, since diffusers 0.20 in PEFT's words
unet.down_blocks.0.attn1.to_q.lora.down.weight          A, before
unet.down_blocks.0.attn1.processor.to_q_lora.down.weight    A, before that
text_encoder.layers.0.q_proj.lora_linear_layer.down.weight
unet.down_blocks.0.attn1.to_q.alpha                     a number; absent, it is in the file's metadata or the rank
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.state import PEFT_START
from lorgnette.lora.targets import Target

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "controlnet", "prior")
"""What a name may begin with where the model at hand is that part of the pipeline."""
_FACTORS = {"lora_A": "lora_A", "lora_B": "lora_B", "down": "lora_A", "up": "lora_B"}
_KEY = re.compile(r"(.+?)\.(?:lora\.|lora_linear_layer\.)?(lora_[AB]|down|up)(?:\.(?!weight$)[^.]+)?\.weight")
_OF_PROCESSOR = re.compile(r"(.+)\.processor\.(to_[a-z]+)_lora\.(down|up)\.weight")
_ALPHA = re.compile(r"(.+?)(?:\.lora|\.lora_linear_layer)?(?:\.down\.weight)?\.alpha")


def is_diffusers(key: str) -> bool:
    """Whether a tensor's name is of this format and of no other."""
    return bool(_OF_PROCESSOR.fullmatch(key) or re.search(r"\.lora(_linear_layer)?\.(down|up)\.weight$", key)) or (
        key.partition(".")[0] in PARTS and ".lora_A." in key
    )


def read_diffusers(
    model: nn.Module,
    state: Mapping[str, Tensor],
    alpha: float | None,
    prefix: str | None,
    strengths: Mapping[str, float] | None = None,
) -> tuple[dict[str, Target], dict[str, Tensor]]:
    """Where the adapters of such a file go, and its tensors under the model's names.

    Args:
        model: the base, one part of the pipeline or all of it.
        state: the file's tensors.
        alpha: strength of the layers for which the file states none; None: their rank.
        prefix: take only the part of the pipeline of this name, such as 'unet'; None: all.
        strengths: what the file's metadata say: part -> lora_alpha; '' is all of them.

    Raises:
        ValueError: a key is not of this format, or a factor has no other.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    stated: dict[str, float] = {}
    for key, tensor in state.items():
        part, name = _split(model, key)
        if prefix is not None and part != prefix.rstrip("."):
            continue
        if found := _OF_PROCESSOR.fullmatch(name):
            layer = f"{found[1]}.{found[2]}" + ".0" * (found[2] == "to_out")
            factors.setdefault(layer, {})[_FACTORS[found[3]]] = tensor
        elif found := _KEY.fullmatch(name):
            factors.setdefault(found[1], {})[_FACTORS[found[2]]] = tensor
        elif found := _ALPHA.fullmatch(name):
            stated[found[1]] = float(tensor)
        else:
            raise ValueError(f"{key!r} belongs to another method than LoRA, which is not read")
        for layer in factors.keys() - stated.keys():
            if (strengths or {}).get(part) is not None:
                stated.setdefault(layer, strengths[part])  # type: ignore[index]
    if not factors:
        raise ValueError(f"prefix: no name of the file begins with {prefix!r}; {next(iter(state), '')!r} is there")
    targets, tensors = {}, {}
    for layer, pair in factors.items():
        if len(pair) < 2:
            raise ValueError(f"{layer!r} has {next(iter(pair))} alone: the file is incomplete")
        rank = pair["lora_A"].shape[0]
        strength = stated.get(layer, rank if alpha is None else alpha)
        targets[layer] = Target(layer, LoRAConfig(r=rank, lora_alpha=strength))
        tensors |= {f"{layer}.{factor}": tensor for factor, tensor in pair.items()}
    return targets, tensors


def strengths_of(path: Path) -> dict[str, float]:
    """`lora_alpha` of each part of the pipeline, where the file's metadata tell it."""
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}
    strengths = {}
    for name, value in found.items() if isinstance(found, dict) else ():
        if name.endswith("alpha_pattern") and value:
            raise ValueError(f"its metadata have {name} = {value!r}, which is not read")
        if name.endswith("lora_alpha") and isinstance(value, (int, float)):
            strengths[name.removesuffix("lora_alpha").rstrip(".")] = float(value)
    return strengths


def _split(model: nn.Module, key: str) -> tuple[str, str]:
    key = key.removeprefix(PEFT_START)
    part, _, rest = key.partition(".")
    if part not in PARTS:
        return "", key
    return part, key if part in model._modules else rest
