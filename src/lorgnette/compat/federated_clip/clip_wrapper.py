"""`CLIPLoRAWrapper`: adapters put into a `FederatedCLIPModel`, switched, merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.compat.federated_clip.lora_config import PLACES, LoRAConfig, components_of
from lorgnette.compat.federated_clip.model import FederatedCLIPModel
from lorgnette.compat.federated_clip.parameters import Parameters


class CLIPLoRAWrapper(nn.Module):
    """A `FederatedCLIPModel` with adapters, under the model's own interface.

    Args:
        federated_clip_model: changed in place by `apply_lora_to_federated_model`, and whole until then. Of another
            wrapper, its model.
        lora_config: None: that of the adapters which the model has; where it has none, `LoRAConfig.for_clip_model()`.
        target_components: 'encoder' (or 'vision'), 'text', 'classifier'; None: those that the model's adapters are in,
            or 'encoder'. Without 'classifier', the head is trained whole.

    Raises:
        ValueError: settings that do not work, or that are not those of the adapters which the model has.
    """

    def __init__(
        self,
        federated_clip_model: FederatedCLIPModel | CLIPLoRAWrapper,
        lora_config: LoRAConfig | None = None,
        target_components: Sequence[str] | None = None,
    ):
        super().__init__()
        given = federated_clip_model
        self.federated_model = given.federated_model if isinstance(given, CLIPLoRAWrapper) else given
        there, present = self._present()
        self.lora_config = lora_config or (copy(there) if there else LoRAConfig.for_clip_model())
        self.target_components = tuple(target_components or present or ("encoder",))
        wanted = self.lora_config.resolved(self.target_components)  # settings that do not work are named here
        if there and wanted != there.resolved(self.target_components):
            raise ValueError(
                f"lora_config: the model has adapters already, of r {there.r}, lora_alpha {there.lora_alpha:g},"
                f" lora_dropout {there.lora_dropout:g}, target_modules {there.target_modules}, bias {there.bias}; leave"
                " it out, or merge_and_unload first"
            )

    def _present(self) -> tuple[LoRAConfig | None, tuple[str, ...]]:
        """Settings and components of the adapters that the model has now."""
        if not lora.is_adapted(self.federated_model.classifier):
            return None, ()
        if self.federated_model.adapted_by is None:
            raise ValueError(
                "federated_clip_model: it has adapters that no CLIPLoRAWrapper put in; lora.merge_lora_weights or"
                " lora.unload_lora on its classifier comes first"
            )
        return self.federated_model.adapted_by

    @property
    def is_applied(self) -> bool:
        """Whether the model has adapters in all the components now."""
        return self._missing() == []

    def _missing(self) -> list[str]:
        present = {PLACES[name] for name in self._present()[1]}
        return [name for name in self.target_components if PLACES[name] not in present]

    def apply_lora_to_federated_model(self) -> FederatedCLIPModel:
        """Put the adapters in and freeze the rest; the output stays the same bit for bit. Returns the model.

        A model that has adapters in some of the components gets those of the others.

        Raises:
            ValueError: the model has all of these adapters already, or a name in target_modules matches no layer.
        """
        missing = self._missing()
        if not missing:
            raise ValueError("apply_lora_to_federated_model: the model has adapters already; merge_and_unload first")
        model, present = self.federated_model, self._present()[1]
        config = self.lora_config.resolved(missing)
        if "classifier" in present:  # the head has its adapter already
            config = replace(config, modules_to_save=None)
        with torch.random.fork_rng(devices=[]):  # every party starts alike
            torch.manual_seed(model.seed)
            lora.inject_lora(model.classifier, config)
        model.adapted_by = copy(self.lora_config), components_of(lora.adapted_layers(model.classifier))
        model.lora_enabled = True
        model.save_only_trainable = self.lora_config.save_only_trainable
        return model

    def enable_lora_layers(self) -> None:
        """Let the adapters count; where there are none, put them in."""
        if not self.is_applied:
            self.apply_lora_to_federated_model()
        self._switch(True)

    def disable_lora_layers(self) -> None:
        """Let the frozen weights count alone, until `enable_lora_layers`."""
        self._switch(False)

    def enable_gradient_checkpointing(self) -> None:
        """Compute layers again in the backward pass instead of keeping what is inside them."""
        self.federated_model.classifier.gradient_checkpointing(True)

    def disable_gradient_checkpointing(self) -> None:
        self.federated_model.classifier.gradient_checkpointing(False)

    def merge_and_unload(self) -> FederatedCLIPModel:
        """Fold the adapters into the weights, in place; the model itself comes back, without adapters."""
        if lora.is_adapted(self.federated_model.classifier):
            self._switch(True)
            lora.merge_lora_weights(self.federated_model.classifier)
            self.federated_model.adapted_by = None
        return self.federated_model

    def trainable_parameters(self) -> dict[str, int]:
        """How many weights there are: of adapters, of the head, and of all."""
        model = self.federated_model.classifier
        count = lora.count_parameters(model)
        head = sum(p.numel() for p in model.head.parameters() if p.requires_grad)
        on_head = sum(p.numel() for p in lora.get_lora_params(model.head))
        return {"lora": count.lora, "head": head - on_head, "total": count.total - count.lora}

    def print_trainable_parameters(self) -> None:
        count = self.trainable_parameters()
        share = 100 * count["lora"] / count["total"]
        print(f"lora {count['lora']:,} ({share:.2f} % of {count['total']:,}); head {count['head']:,}")

    def forward(self, data: Tensor) -> Tensor:
        return self.federated_model(data)

    def get_parameters(self) -> Parameters:
        """As `FederatedCLIPModel.get_parameters`."""
        self.federated_model.save_only_trainable = self.lora_config.save_only_trainable
        return self.federated_model.get_parameters()

    def set_parameters(self, parameters: Parameters | Mapping[str, Any] | Iterable[NDArray[Any]]) -> None:
        """As `FederatedCLIPModel.set_parameters`."""
        self.federated_model.save_only_trainable = self.lora_config.save_only_trainable
        self.federated_model.set_parameters(parameters)

    def train_step(self, data: Tensor, labels: Tensor) -> float:
        """As `FederatedCLIPModel.train_step`."""
        return self.federated_model.train_step(data, labels)

    def evaluate(self, data: Tensor, labels: Tensor) -> dict[str, float]:
        """As `FederatedCLIPModel.evaluate`."""
        return self.federated_model.evaluate(data, labels)

    def _switch(self, enabled: bool) -> None:
        self.federated_model.lora_enabled = enabled
        for layer in lora.adapted_layers(self.federated_model.classifier).values():
            layer.lora_enabled = enabled
