"""Low-rank adaptation of any `torch.nn.Module`.

Needs torch and safetensors only, and knows no model. Names are imported on first use, so that the settings
(`LoRAConfig`) cost no import of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy

if TYPE_CHECKING:
    from lorgnette.lora.checks import VerifyReport as VerifyReport, verify as verify
    from lorgnette.lora.config import LoRAConfig as LoRAConfig
    from lorgnette.lora.files.adapter import load_adapter as load_adapter, save_adapter as save_adapter
    from lorgnette.lora.files.commit import (
        adapter_folder as adapter_folder,
        adapter_info as adapter_info,
        current_file as current_file,
    )
    from lorgnette.lora.files.fingerprint import Fingerprint as Fingerprint, fingerprint as fingerprint
    from lorgnette.lora.files.foreign import import_adapter as import_adapter
    from lorgnette.lora.layers.attention import (
        LoRAMultiheadAttention as LoRAMultiheadAttention,
        LoRASlicedLinear as LoRASlicedLinear,
    )
    from lorgnette.lora.layers.base import (
        LoRALayer as LoRALayer,
        LowRank as LowRank,
        adapted_layers as adapted_layers,
        is_adapted as is_adapted,
    )
    from lorgnette.lora.layers.convolution import (
        LoRAConv1d as LoRAConv1d,
        LoRAConv2d as LoRAConv2d,
        LoRAConv3d as LoRAConv3d,
        LoRAConvTranspose1d as LoRAConvTranspose1d,
        LoRAConvTranspose2d as LoRAConvTranspose2d,
        LoRAConvTranspose3d as LoRAConvTranspose3d,
    )
    from lorgnette.lora.layers.embedding import LoRAEmbedding as LoRAEmbedding
    from lorgnette.lora.layers.gate import GateWatch as GateWatch, RankUse as RankUse, watch_gates as watch_gates
    from lorgnette.lora.layers.linear import LoRALinear as LoRALinear
    from lorgnette.lora.layers.parameter import (
        LoRAParameter as LoRAParameter,
        effective_parameter as effective_parameter,
    )
    from lorgnette.lora.layers.part import AdapterPart as AdapterPart
    from lorgnette.lora.load_report import LoadReport as LoadReport
    from lorgnette.lora.merging import (
        DeltaSurvival as DeltaSurvival,
        delta_survival as delta_survival,
        merge_lora_weights as merge_lora_weights,
        merged as merged,
        unmerge_lora_weights as unmerge_lora_weights,
    )
    from lorgnette.lora.planning import Plan as Plan, PlanRow as PlanRow, plan as plan
    from lorgnette.lora.ranks.allocation import (
        Allocation as Allocation,
        AllocationRow as AllocationRow,
        allocate as allocate,
    )
    from lorgnette.lora.ranks.eva import initialise_eva as initialise_eva
    from lorgnette.lora.ranks.resizing import Resized as Resized, ResizedRow as ResizedRow, resize as resize
    from lorgnette.lora.several.combining import align_adapters as align_adapters, combine as combine
    from lorgnette.lora.several.mixing import per_sample as per_sample
    from lorgnette.lora.several.named import (
        NamedAdapter as NamedAdapter,
        adapters as adapters,
        add_adapter as add_adapter,
        remove_adapter as remove_adapter,
        save_adapters as save_adapters,
        set_adapter as set_adapter,
    )
    from lorgnette.lora.state import (
        get_lora_state_dict as get_lora_state_dict,
        load_lora_state_dict as load_lora_state_dict,
        trained_tensors as trained_tensors,
    )
    from lorgnette.lora.strength import at_strength as at_strength
    from lorgnette.lora.surgery import (
        ParameterCount as ParameterCount,
        count_parameters as count_parameters,
        disabled as disabled,
        freeze_base_params as freeze_base_params,
        get_lora_params as get_lora_params,
        inject_lora as inject_lora,
        unload_lora as unload_lora,
    )

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
