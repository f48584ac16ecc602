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
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lorgnette.lora.config import LoRAConfig
from lorgnette.lora.files.peft_options import check_options
from lorgnette.lora.files.peft_variants import FROM_BASE
from lorgnette.lora.state import PEFT_START
from lorgnette.lora.targets import Target

PARTS = (
    "unet", "transformer", "transformer_2", "transformer_ref", "text_encoder", "text_encoder_2", "text_encoder_3",
    "text_conditioner", "connectors", "controlnet", "prior", "diffusion_model",
)  # fmt: skip
"""What a name may begin with where the model at hand is that part of the pipeline. The last is how programs beside
diffusers call it (ComfyUI, ai-toolkit)."""
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
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[dict[str, Target], dict[str, Tensor]]:
    """Where the adapters of such a file go, and its tensors under the model's names.

    Args:
        model: the base, one part of the pipeline or all of it.
        state: the file's tensors.
        alpha: strength of the layers for which the file states none; None: their rank.
        prefix: take only the part of the pipeline of this name, such as 'unet'; None: all.
        settings: what the file's metadata say of each part; '' is all of them.

    Raises:
        ValueError: a key is not of this format, or a factor has no other.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    stated: dict[str, Mapping[str, Any]] = {}
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
            stated[found[1]] = {"lora_alpha": float(tensor)}
        else:
            raise ValueError(f"{key!r} belongs to another method than LoRA, which is not read")
        for layer in factors.keys() - stated.keys():
            if settings and part in settings:
                stated.setdefault(layer, settings[part])
    if not factors:
        raise ValueError(f"prefix: no name of the file begins with {prefix!r}; {next(iter(state), '')!r} is there")
    targets, tensors = {}, {}
    for layer, pair in factors.items():
        if len(pair) < 2:
            raise ValueError(f"{layer!r} has {next(iter(pair))} alone: the file is incomplete")
        rank = pair["lora_A"].shape[0]
        told = stated.get(layer) or {"lora_alpha": rank if alpha is None else alpha}
        targets[layer] = Target(layer, LoRAConfig(r=rank, **told))
        tensors |= {f"{layer}.{factor}": tensor for factor, tensor in pair.items()}
    return targets, tensors


def settings_of(path: Path) -> dict[str, dict[str, Any]]:
    """What the file's metadata tell of each part of the pipeline: `lora_alpha`, `use_rslora`.

    Raises:
        ValueError: they tell of something else that changes what is computed, in one line.
    """
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}
    parts: dict[str, dict[str, Any]] = {}
    for name, value in found.items() if isinstance(found, dict) else ():
        part, _, option = name.rpartition(".")
        if option == "alpha_pattern" and value:
            raise ValueError(f"its metadata have {name} = {value!r}, which is not read")
        parts.setdefault(part, {})[option] = value
    for part, options in parts.items():
        try:
            check_options({"peft_type": "LORA"} | options)
        except ValueError as error:
            raise ValueError(f"its metadata of {part or 'the adapter'!r}: {error}") from None
        if options.get("init_lora_weights") in FROM_BASE:
            raise ValueError(f"its metadata of {part!r}: init_lora_weights = {options['init_lora_weights']!r} changed"
                             " base weights, which the file lacks")  # fmt: skip
    return {
        part: {"lora_alpha": options["lora_alpha"], "use_rslora": bool(options.get("use_rslora"))}
        for part, options in parts.items()
        if isinstance(options.get("lora_alpha"), (int, float))
    }


def _split(model: nn.Module, key: str) -> tuple[str, str]:
    key = key.removeprefix(PEFT_START)
    part, _, rest = key.partition(".")
    if part not in PARTS:
        return "", key
    return part, key if part in model._modules else rest
