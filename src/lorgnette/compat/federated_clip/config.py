"""`lora/config.py` of the original's list of files; its examples import the same from `lora_config` and `factory`."""

from lorgnette.compat.federated_clip.factory import LoRAConfigManager as LoRAConfigManager
from lorgnette.compat.federated_clip.lora_config import LoRAConfig as LoRAConfig
