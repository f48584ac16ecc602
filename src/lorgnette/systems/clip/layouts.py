"""How other programs name and shape the weights of a CLIP."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

Activation = Literal["gelu", "quick_gelu"]


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under transformers' names; those of OpenAI and OpenCLIP are renamed, and fused projections split."""
    if "visual.conv1.weight" not in state:
        return {name.removeprefix("clip."): tensor for name, tensor in state.items()}
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in ("visual.proj", "text_projection"):  # stored for x @ W
            ours = name.replace("visual.proj", "visual_projection") + ".weight"
            found[ours] = tensor.T.contiguous()
            continue
        if name in ("input_resolution", "context_length", "vocab_size", "attn_mask"):
            continue
        block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name)
        if block is None:
            found[_OUTER.get(name, name)] = tensor
            continue
        layer = f"{'vision_model' if block[1] else 'text_model'}.encoder.layers.{block[2]}."
        if block[3] in ("attn.in_proj_weight", "attn.in_proj_bias"):
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{layer}self_attn.{part}_proj.{block[3].rpartition('_')[2]}"] = piece.contiguous()
            continue
        for theirs, ours in _INNER.items():
            if block[3].startswith(theirs):
                found[layer + ours + block[3].removeprefix(theirs)] = tensor
    return found


_OUTER = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_INNER = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
          "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}  # fmt: skip


def deduced(state: Mapping[str, Tensor], source: str = "the state dict", heads: int | None = None) -> dict[str, Any]:
    """A configuration of `CLIPModel` that the names and shapes of a checkpoint tell.

    Raises:
        ValueError: it is no CLIP with a vision transformer.
    """
    try:
        patches = state["vision_model.embeddings.patch_embedding.weight"]
        places = state["vision_model.embeddings.position_embedding.weight"].shape[0] - 1
        words = state["text_model.embeddings.token_embedding.weight"].shape
        length = state["text_model.embeddings.position_embedding.weight"].shape[0]
        dim = state["visual_projection.weight"].shape[0]
        towers = {}
        for tower, width in (("vision", patches.shape[0]), ("text", words[1])):
            inside = [name for name in state if name.startswith(f"{tower}_model.encoder.layers.")]
            towers[tower] = {
                "hidden_size": width,
                "intermediate_size": state[f"{tower}_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
                "num_hidden_layers": 1 + max(int(name.split(".")[3]) for name in inside),
                "num_attention_heads": (heads if tower == "vision" else None) or max(1, width // 64),
            }
    except (KeyError, IndexError, ValueError):
        raise ValueError(f"{source} is no checkpoint of a CLIP with a vision transformer") from None
    patch = patches.shape[-1]
    towers["vision"] |= {"patch_size": patch, "image_size": patch * math.isqrt(places)}
    towers["text"] |= {"vocab_size": words[0], "max_position_embeddings": length,
                       "bos_token_id": words[0] - 2, "eos_token_id": words[0] - 1}  # fmt: skip
    return {"vision_config": towers["vision"], "text_config": towers["text"], "projection_dim": dim}


def activation_of(state: Mapping[str, Any], name: str) -> Activation:
    """That of a checkpoint without a configuration; a ValueError where it might be another."""
    if "input_resolution" in state:  # only OpenAI's own files have it
        return "quick_gelu"
    raise ValueError(
        f"{name}: its tensors do not tell the activation, and with the wrong one its features are worthless:"
        " activation='gelu' is OpenCLIP's own models' (LAION, DataComp), 'quick_gelu' OpenAI's; or give the config"
    )


def with_activation(config: dict[str, Any], activation: str | None) -> dict[str, Any]:
    """The configuration with this activation in both towers, where one is given."""
    if activation is None:
        return config
    towers = ("vision_config", "text_config")
    return config | {tower: {**config.get(tower, {}), "hidden_act": activation} for tower in towers}
