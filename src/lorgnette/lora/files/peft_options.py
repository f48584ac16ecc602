"""The options of PEFT's `adapter_config.json`: which mean nothing here, which are refused, and which are not known."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from lorgnette.lora.files.peft_variants import FROM_BASE
from lorgnette.lora.layers.tables import METHODS

_UNSUPPORTED = (
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "layer_replication",
    "trainable_token_indices",
)
_BIASES = ("none", "all", "lora_only")
_READ = (
    "peft_type", "peft_version", "r", "lora_alpha", "lora_dropout", "use_rslora", "bias", "lora_bias",
    "init_lora_weights", "target_modules", "exclude_modules", "target_parameters", "modules_to_save", "rank_pattern",
    "alpha_pattern", "layers_to_transform", *(name for method in METHODS.values() for name in method.peft or ()),
)  # fmt: skip
_WITHOUT_MEANING = (
    # whom it belongs to
    "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "model_type",
    # how it was made: the tensors show it
    "layers_pattern", "fan_in_fan_out", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "runtime_config", "qalora_group_size", "ensure_weight_tying", "megatron_config", "megatron_core", "enable_lora",
    "merge_weights",
)  # fmt: skip
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")  # the others change the base weights


def check_options(config: Any) -> None:
    """Refuse what would be computed in another way here; warn of a number or a text that is not known.

    Raises:
        ValueError: the adapter is of another type, or an option is switched on that is not supported, or not known.
    """
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ValueError(f"peft_type {kind!r} is not supported; 'LORA' is")
    for name in _UNSUPPORTED:
        if _is_on(config.get(name)):
            raise ValueError(f"{name} = {config[name]!r} is not supported")
    if config.get("bias", "none") not in _BIASES:
        raise ValueError(f"bias = {config['bias']!r} is not supported; {', '.join(map(repr, _BIASES))} are")
    if config.get("init_lora_weights") not in (*_PLAIN_INITS, *FROM_BASE):
        raise ValueError(
            f"init_lora_weights = {config['init_lora_weights']!r} changed base weights, which the file lacks;"
            " PEFT's save_pretrained(path_initial_model_for_weight_conversion=...) writes a plain LoRA"
        )
    strange = {name: value for name, value in config.items() if name not in (*_READ, *_WITHOUT_MEANING, *_UNSUPPORTED)}
    for name, value in strange.items():
        if not _is_on(value):
            continue
        said = f"{name} = {value!r} is not known here (of a later PEFT?)"
        if value is True or isinstance(value, (Mapping, list)):
            raise ValueError(f"{said}, and may change what is computed; if it does not, remove it from the file")
        warnings.warn(f"adapter_config.json: {said} and is ignored", stacklevel=2)


def _is_on(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_on, value.values()))
    if isinstance(value, list):
        return any(map(_is_on, value))
    return bool(value)
