"""Lorgnette: adapt vision models with low-rank updates, and put them to use.

The names below are imported when they are first used, so that `import lorgnette` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy
from lorgnette.version import __version__ as __version__

if TYPE_CHECKING:
    from lorgnette import lora as lora, systems as systems
    from lorgnette.checkpoint import load as load, load_recipe as load_recipe, save as save
    from lorgnette.lora import (
        LoRAConfig as LoRAConfig,
        LoRAConv2d as LoRAConv2d,
        LoRALinear as LoRALinear,
        count_parameters as count_parameters,
        freeze_base_params as freeze_base_params,
        get_lora_params as get_lora_params,
        get_lora_state_dict as get_lora_state_dict,
        inject_lora as inject_lora,
        load_adapter as load_adapter,
        load_lora_state_dict as load_lora_state_dict,
        merge_lora_weights as merge_lora_weights,
        save_adapter as save_adapter,
    )
    from lorgnette.recipe import build as build
    from lorgnette.train.config import TrainConfig as TrainConfig
    from lorgnette.train.loop import evaluate as evaluate, fit as fit
    from lorgnette.train.task import Task as Task

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
