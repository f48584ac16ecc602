"""`CLIPLoRAWrapper`: adapters put into a `FederatedCLIPModel`, switched, merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.compat.federated_clip.lora_config import LoRAConfig
from lorgnette.compat.federated_clip.model import FederatedCLIPModel
from lorgnette.compat.federated_clip.parameters import Parameters


class CLIPLoRAWrapper(nn.Module):
    """A `FederatedCLIPModel` with adapters, under the model's own interface.

    Args:
        federated_clip_model: changed in place by `apply_lora_to_federated_model`, and whole until then. Of another
            wrapper, its model.
        lora_config: None: `LoRAConfig.for_clip_model()`.
        target_components: 'encoder' (or 'vision'), 'text', 'classifier'. Without the last one, the head is trained
            whole.
    """

    def __init__(
        self,
        federated_clip_model: FederatedCLIPModel | CLIPLoRAWrapper,
        lora_config: LoRAConfig | None = None,
        target_components: Sequence[str] = ("encoder",),
    ):
        super().__init__()
        given = federated_clip_model
        self.federated_model = given.federated_model if isinstance(given, CLIPLoRAWrapper) else given
        self.lora_config = lora_config or LoRAConfig.for_clip_model()
        self.target_components = tuple(target_components)
        self.lora_config.resolved(self.target_components)  # settings that do not work are named here

    @property
    def is_applied(self) -> bool:
        """Whether the model has adapters now."""
        return lora.is_adapted(self.federated_model.classifier)

    def apply_lora_to_federated_model(self) -> FederatedCLIPModel:
        """Put the adapters in and freeze the rest; the output stays the same bit for bit. Returns the model.

        Raises:
            ValueError: the model has adapters already, or a name in target_modules matches no layer.
        """
        if self.is_applied:
            raise ValueError("apply_lora_to_federated_model: the model has adapters already; merge_and_unload first")
        model = self.federated_model
        with torch.random.fork_rng(devices=[]):  # every party starts alike
            torch.manual_seed(model.seed)
            lora.inject_lora(model.classifier, self.lora_config.resolved(self.target_components))
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
        if self.is_applied:
            self._switch(True)
            lora.merge_lora_weights(self.federated_model.classifier)
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
