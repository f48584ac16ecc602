"""Making, keeping and describing models and settings by name, as the original's factory did."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from lorgnette import lora
from lorgnette.common.files import make_folder, write_text
from lorgnette.common.text import nearest
from lorgnette.compat.federated_clip.clip_wrapper import CLIPLoRAWrapper
from lorgnette.compat.federated_clip.lora_config import LoRAConfig
from lorgnette.compat.federated_clip.model import FederatedCLIPModel
from lorgnette.settings import read_yaml

FORMAT_VERSION = 1


def quick_clip_lora(
    model_name: str = "openai/clip-vit-base-patch32",
    num_classes: int = 10,
    lora_r: int = 16,
    lora_alpha: float | None = None,
    **settings: Any,
) -> CLIPLoRAWrapper:
    """A CLIP classifier with adapters on its vision tower, ready to be trained.

    Args:
        model_name: as of `FederatedCLIPModel`.
        num_classes: outputs of the head, which is trained whole.
        lora_r: rank.
        lora_alpha: strength; None: twice the rank.
        **settings: further ones of `FederatedCLIPModel`.
    """
    config = LoRAConfig.for_clip_model(r=lora_r, lora_alpha=2 * lora_r if lora_alpha is None else lora_alpha)
    wrapper = CLIPLoRAWrapper(FederatedCLIPModel(model_name, num_classes, **settings), config)
    wrapper.apply_lora_to_federated_model()
    wrapper.print_trainable_parameters()
    return wrapper


def create_model(config: Any) -> CLIPLoRAWrapper | FederatedCLIPModel:
    """The model of a configuration with the sections `model` and `lora`.

    Args:
        config: a YAML file, a table, or an object with attributes. `model.type` is 'clip_lora' or 'clip'.

    Raises:
        ValueError: another type, or a setting that is not known.
    """
    table = read_yaml(config) if isinstance(config, str | os.PathLike) else _table(config)
    sections = {name: dict(_table(table.get(name) or {})) for name in ("model", "lora")}
    model, adapter = sections["model"], sections["lora"]
    kind = model.pop("type", None)
    if kind not in ("clip", "clip_lora"):
        raise ValueError(f"model.type: {kind!r} is not known; 'clip_lora' and 'clip' are")
    known = ("model_name", "num_classes", "learning_rate", "architecture", "seed")
    for name in model:
        if name not in known:
            raise ValueError(f"model.{name}: is not known{nearest(name, known)}")
    federated = FederatedCLIPModel(**model)
    if kind == "clip" or not adapter.pop("enabled", True):
        return federated
    components = adapter.pop("target_components", ["encoder"])
    wrapper = CLIPLoRAWrapper(federated, LoRAConfig.from_dict(adapter), components)
    wrapper.apply_lora_to_federated_model()
    return wrapper


class LoRAConfigManager:
    """Settings kept by name, each in a YAML file.

    Args:
        config_dir: the folder; made when something is saved.
    """

    def __init__(self, config_dir: str | os.PathLike[str] = "lora_configs"):
        self.folder = Path(config_dir)

    def save_config(self, config: LoRAConfig, name: str) -> Path:
        """Write the settings; those of the same name are replaced."""
        text = yaml.safe_dump({"format_version": FORMAT_VERSION} | config.to_dict(), sort_keys=False)
        make_folder(self.folder)
        write_text(self._file(name), text)
        return self._file(name)

    def load_config(self, name: str) -> LoRAConfig:
        """The settings of that name.

        Raises:
            FileNotFoundError: there are none.
            ValueError: the file holds a setting that is not known, or another format.
        """
        if not self._file(name).is_file():
            raise FileNotFoundError(f"no settings {name!r} in {self.folder}{nearest(name, self.list_configs())}")
        values = read_yaml(self._file(name))
        if (version := values.pop("format_version", None)) != FORMAT_VERSION:
            raise ValueError(f"{self._file(name)}: format_version is {version!r}; {FORMAT_VERSION} is read")
        return LoRAConfig.from_dict(values)

    def list_configs(self) -> list[str]:
        return sorted(file.stem for file in self.folder.glob("*.yaml"))

    def delete_config(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)

    def compare_configs(self, name: str, other: str) -> dict[str, tuple[Any, Any]]:
        """The settings in which two differ."""
        a, b = self.load_config(name).to_dict(), self.load_config(other).to_dict()
        return {key: (a[key], b[key]) for key in a if a[key] != b[key]}

    def _file(self, name: str) -> Path:
        return self.folder / f"{_plain_name(name)}.yaml"


class LoRAModelManager:
    """Trained adapters kept by name: each a folder of safetensors with a manifest.

    Args:
        model_dir: the folder; made when something is saved.
    """

    def __init__(self, model_dir: str | os.PathLike[str] = "lora_models"):
        self.folder = Path(model_dir)

    def save_model(self, model: CLIPLoRAWrapper, name: str, metrics: Mapping[str, float] | None = None) -> Path:
        """Write the adapters and what is trained with them; a killed save leaves the old ones.

        Args:
            model: with adapters.
            name: of the folder.
            metrics: figures to keep beside it.
        """
        federated = model.federated_model
        extra = {
            "model_name": federated.model_name,
            "num_classes": federated.num_classes,
            "target_components": list(model.target_components),
            "lora_config": model.lora_config.to_dict(),
            "parameters": model.trainable_parameters(),
            "metrics": dict(metrics or {}),
        }
        config = model.lora_config.resolved(model.target_components)
        return lora.save_adapter(federated.classifier, self.folder / _plain_name(name), config, extra)

    def load_model(self, name: str, model: CLIPLoRAWrapper) -> CLIPLoRAWrapper:
        """Load strictly into a model of the same base: every tensor must have its place.

        Raises:
            FileNotFoundError: there is no such model.
            ValueError: it was made for another base, other layers, another rank or other classes; nothing was loaded.
        """
        lora.load_adapter(model.federated_model.classifier, self._existing(name))
        return model

    def get_model_info(self, name: str) -> dict[str, Any]:
        """What is known of a kept model, without loading it."""
        folder = self._existing(name)
        manifest = lora.adapter_info(folder)
        ranks = sorted({layer["r"] for layer in manifest["layers"].values()})
        size = sum(file.stat().st_size for file in folder.iterdir())
        return {"name": name, "ranks": ranks, "layers": len(manifest["layers"]), "bytes": size} | manifest["extra"]

    def list_models(self) -> list[str]:
        return sorted(file.parent.name for file in self.folder.glob("*/adapter_config.json"))

    def delete_model(self, name: str) -> None:
        shutil.rmtree(self._existing(name))

    def _existing(self, name: str) -> Path:
        folder = self.folder / _plain_name(name)
        if name not in self.list_models():
            raise FileNotFoundError(f"no model {name!r} in {self.folder}{nearest(name, self.list_models())}")
        return folder


def _plain_name(name: str) -> str:
    """A name that stays within its folder."""
    if not re.fullmatch(r"\w[\w.+-]{0,99}", name):
        raise ValueError(f"name: {name!r} does not work; letters, digits and . _ + - do")
    return name


def _table(value: Any) -> dict[str, Any]:
    """The content of a table, or of an object with attributes."""
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) or isinstance(value, SimpleNamespace) or hasattr(value, "__dict__"):
        return dict(vars(value))
    raise ValueError(f"config: {value!r} is neither a table nor a YAML file")
