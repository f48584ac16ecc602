"""Names of the original LoRA module for federated CLIP models, as thin fronts over the room `clip`."""

from lorgnette.compat.federated_clip.clip_wrapper import CLIPLoRAWrapper
from lorgnette.compat.federated_clip.factory import (
    LoRAConfigManager,
    LoRAModelManager,
    create_model,
    quick_clip_lora,
)
from lorgnette.compat.federated_clip.lora_config import LoRAConfig
from lorgnette.compat.federated_clip.model import FederatedCLIPModel
from lorgnette.compat.federated_clip.parameters import Parameters

__all__ = [
    "CLIPLoRAWrapper",
    "FederatedCLIPModel",
    "LoRAConfig",
    "LoRAConfigManager",
    "LoRAModelManager",
    "Parameters",
    "create_model",
    "quick_clip_lora",
]
