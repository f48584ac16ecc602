"""Low-rank adaptation of any `torch.nn.Module`.

Needs torch and safetensors only, and knows no model. Names are imported on first use, so that the settings
(`LoRAConfig`) cost no import of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorgnette.lora.adapter import load_adapter, save_adapter
    from lorgnette.lora.allocation import Allocation, AllocationRow, allocate
    from lorgnette.lora.attention import LoRAMultiheadAttention, LoRASlicedLinear
    from lorgnette.lora.base import LoRALayer, LowRank, adapted_layers, is_adapted
    from lorgnette.lora.checks import VerifyReport, verify
    from lorgnette.lora.combining import align_adapters, combine
    from lorgnette.lora.config import LoRAConfig
    from lorgnette.lora.convolution import (
        LoRAConv1d,
        LoRAConv2d,
        LoRAConv3d,
        LoRAConvTranspose1d,
        LoRAConvTranspose2d,
        LoRAConvTranspose3d,
    )
    from lorgnette.lora.embedding import LoRAEmbedding
    from lorgnette.lora.eva import initialise_eva
    from lorgnette.lora.folder import adapter_info, current_file
    from lorgnette.lora.foreign import export_loralib, import_adapter
    from lorgnette.lora.gate import GateWatch, RankUse, watch_gates
    from lorgnette.lora.identity import Fingerprint, fingerprint
    from lorgnette.lora.layers import LoRALinear
    from lorgnette.lora.merging import (
        DeltaSurvival,
        delta_survival,
        merge_lora_weights,
        merged,
        unmerge_lora_weights,
    )
    from lorgnette.lora.mixing import per_sample
    from lorgnette.lora.parameter import LoRAParameter, effective_parameter
    from lorgnette.lora.planning import Plan, PlanRow, plan
    from lorgnette.lora.resizing import Resized, ResizedRow, resize
    from lorgnette.lora.several import (
        NamedAdapter,
        adapters,
        add_adapter,
        remove_adapter,
        save_adapters,
        set_adapter,
    )
    from lorgnette.lora.state import LoadReport, get_lora_state_dict, load_lora_state_dict, trained_tensors
    from lorgnette.lora.surgery import (
        ParameterCount,
        count_parameters,
        disabled,
        freeze_base_params,
        get_lora_params,
        inject_lora,
        unload_lora,
    )

_HOME = {
    "LoRAConfig": "config",
    "LoRALayer": "base",
    "LowRank": "base",
    "LoRALinear": "layers",
    "LoRAConv1d": "convolution",
    "LoRAConv2d": "convolution",
    "LoRAConv3d": "convolution",
    "LoRAConvTranspose1d": "convolution",
    "LoRAConvTranspose2d": "convolution",
    "LoRAConvTranspose3d": "convolution",
    "LoRAEmbedding": "embedding",
    "LoRASlicedLinear": "attention",
    "LoRAMultiheadAttention": "attention",
    "LoRAParameter": "parameter",
    "effective_parameter": "parameter",
    "plan": "planning",
    "Plan": "planning",
    "PlanRow": "planning",
    "resize": "resizing",
    "allocate": "allocation",
    "Allocation": "allocation",
    "AllocationRow": "allocation",
    "NamedAdapter": "several",
    "adapters": "several",
    "add_adapter": "several",
    "align_adapters": "combining",
    "combine": "combining",
    "remove_adapter": "several",
    "save_adapters": "several",
    "set_adapter": "several",
    "per_sample": "mixing",
    "Resized": "resizing",
    "ResizedRow": "resizing",
    "inject_lora": "surgery",
    "freeze_base_params": "surgery",
    "get_lora_params": "surgery",
    "count_parameters": "surgery",
    "ParameterCount": "surgery",
    "is_adapted": "base",
    "adapted_layers": "base",
    "disabled": "surgery",
    "merge_lora_weights": "merging",
    "unmerge_lora_weights": "merging",
    "merged": "merging",
    "delta_survival": "merging",
    "DeltaSurvival": "merging",
    "unload_lora": "surgery",
    "verify": "checks",
    "VerifyReport": "checks",
    "get_lora_state_dict": "state",
    "load_lora_state_dict": "state",
    "trained_tensors": "state",
    "LoadReport": "state",
    "save_adapter": "adapter",
    "load_adapter": "adapter",
    "initialise_eva": "eva",
    "adapter_info": "folder",
    "current_file": "folder",
    "import_adapter": "foreign",
    "export_loralib": "foreign",
    "watch_gates": "gate",
    "GateWatch": "gate",
    "RankUse": "gate",
    "fingerprint": "identity",
    "Fingerprint": "identity",
}

__all__ = [
    "Allocation",
    "AllocationRow",
    "DeltaSurvival",
    "Fingerprint",
    "GateWatch",
    "LoRAConfig",
    "LoRAConv1d",
    "LoRAConv2d",
    "LoRAConv3d",
    "LoRAConvTranspose1d",
    "LoRAConvTranspose2d",
    "LoRAConvTranspose3d",
    "LoRAEmbedding",
    "LoRALayer",
    "LoRALinear",
    "LoRAMultiheadAttention",
    "LoRAParameter",
    "LoRASlicedLinear",
    "LoadReport",
    "LowRank",
    "NamedAdapter",
    "ParameterCount",
    "Plan",
    "PlanRow",
    "RankUse",
    "Resized",
    "ResizedRow",
    "VerifyReport",
    "adapted_layers",
    "adapter_info",
    "adapters",
    "add_adapter",
    "align_adapters",
    "allocate",
    "combine",
    "count_parameters",
    "current_file",
    "delta_survival",
    "disabled",
    "effective_parameter",
    "export_loralib",
    "fingerprint",
    "freeze_base_params",
    "get_lora_params",
    "get_lora_state_dict",
    "import_adapter",
    "initialise_eva",
    "inject_lora",
    "is_adapted",
    "load_adapter",
    "load_lora_state_dict",
    "merge_lora_weights",
    "merged",
    "per_sample",
    "plan",
    "remove_adapter",
    "resize",
    "save_adapter",
    "save_adapters",
    "set_adapter",
    "trained_tensors",
    "unload_lora",
    "unmerge_lora_weights",
    "verify",
    "watch_gates",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
