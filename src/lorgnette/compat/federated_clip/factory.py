"""Making, keeping and describing models and settings by name, as the original's factory did."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import yaml
from torch import Tensor

from lorgnette import lora
from lorgnette.common.files import make_folder, write_text
from lorgnette.common.tensors import check_state, read_tensors
from lorgnette.common.text import nearest
from lorgnette.compat.federated_clip.clip_wrapper import CLIPLoRAWrapper
from lorgnette.compat.federated_clip.lora_config import LoRAConfig, components_of
from lorgnette.compat.federated_clip.model import FederatedCLIPModel
from lorgnette.lora.state import base_tensors
from lorgnette.settings import read_yaml
from lorgnette.train.optim import copies, copy_into

FORMAT_VERSION = 1
WHOLE = "model.safetensors"
"""All weights of the base, beside an adapter that was kept with them."""


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

        With `save_only_trainable` False in the wrapper's settings all weights are written, and `load_model` brings the
        model back onto any base of the same shape.

        Args:
            model: with adapters.
            name: of the folder.
            metrics: figures to keep beside it.
        """
        federated, base = model.federated_model, model.federated_model.classifier
        config, components = federated.adapted_by or (model.lora_config, model.target_components)
        whole = not model.lora_config.save_only_trainable
        extra = {
            "model_name": federated.model_name,
            "num_classes": federated.num_classes,
            "target_components": list(components),
            "lora_config": config.to_dict() | {"save_only_trainable": not whole},
            "parameters": model.trainable_parameters(),
            "metrics": dict(metrics or {}),
        }
        files: dict[str, str | bytes] = {}
        if whole:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in base_tensors(base).items()}
            files[WHOLE] = safetensors.torch.save(tensors)
        folder = self.folder / _plain_name(name)
        lora.save_adapter(base, folder, config.resolved(components), extra, files=files)
        if not whole:
            (folder / WHOLE).unlink(missing_ok=True)  # of an earlier save
        return folder

    def load_model(self, name: str, model: CLIPLoRAWrapper) -> CLIPLoRAWrapper:
        """Load strictly into a model of the same base: every tensor must have its place.

        The wrapper's settings become those that the model was kept with.

        Raises:
            FileNotFoundError: there is no such model.
            ValueError: it was made for another base, other layers, another rank or other classes; nothing was loaded.
        """
        folder, base = self._existing(name), model.federated_model.classifier
        before: dict[str, Tensor] = {}
        if (file := lora.current_file(folder, WHOLE)).is_file():
            own, state = base_tensors(base), read_tensors(file)
            check_state(state, own, str(file))
            before = copies(own)
            copy_into(own, state)
        try:
            lora.load_adapter(base, folder)
        except ValueError:
            copy_into(base_tensors(base), before)
            raise
        config, components = _settings(lora.adapter_info(folder))
        model.lora_config, model.target_components = config, components
        model.federated_model.adapted_by = copy(config), components
        model.federated_model.lora_enabled = True
        return model

    def get_model_info(self, name: str) -> dict[str, Any]:
        """What is known of a kept model, without loading it."""
        folder = self._existing(name)
        manifest = lora.adapter_info(folder)
        ranks = sorted({layer["r"] for layer in manifest["layers"].values()})
        size = sum(file.stat().st_size for file in folder.iterdir())
        config, components = _settings(manifest)
        settings = {"target_components": list(components), "lora_config": config.to_dict()}
        facts = {"name": name, "ranks": ranks, "layers": len(manifest["layers"]), "bytes": size}
        return facts | manifest["extra"] | settings

    def list_models(self) -> list[str]:
        return sorted(file.parent.name for file in self.folder.glob("*/adapter_config.json"))

    def delete_model(self, name: str) -> None:
        shutil.rmtree(self._existing(name))

    def _existing(self, name: str) -> Path:
        folder = self.folder / _plain_name(name)
        if name not in self.list_models():
            raise FileNotFoundError(f"no model {name!r} in {self.folder}{nearest(name, self.list_models())}")
        return folder


def _settings(manifest: Mapping[str, Any]) -> tuple[LoRAConfig, tuple[str, ...]]:
    """Settings and components of a kept model: what its layers tell, over what was asked for."""
    layers = manifest["layers"]
    most = max(layers.values(), key=lambda layer: layer["r"])
    told = {setting: most[setting] for setting in ("r", "lora_alpha", "lora_dropout")}
    return LoRAConfig.from_dict(manifest["extra"].get("lora_config", {}) | told), components_of(layers)


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
