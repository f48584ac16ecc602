"""`FederatedCLIPModel`: the room's classifier behind the original's interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.compat.federated_clip.lora_config import LoRAConfig
from lorgnette.compat.federated_clip.parameters import Parameters, copy_in, from_tensors
from lorgnette.recipe import build
from lorgnette.systems import clip
from lorgnette.systems.clip.scores import scores
from lorgnette.train.config import TrainConfig

LEARNING_RATES = {True: 1e-3, False: 1e-5}  # of adapters; of all weights


class FederatedCLIPModel(nn.Module):
    """A CLIP with a linear classification head that starts at random.

    Args:
        model_name: a folder, a model in the Hugging Face cache, 'shipped' or 'none'; see `clip.Model.base`.
        num_classes: outputs of the head.
        learning_rate: of `train_step`; None: 1e-3 for adapters, 1e-5 for the whole model.
        architecture: of model_name 'none'; see `clip.Model.architecture`.
        seed: of the head, of fresh adapters and of untrained weights.

    Raises:
        FileNotFoundError: there is no such model; one line says how to get it.
        ValueError: a setting that does not work.
    """

    def __init__(
        self,
        model_name: str = "openai/clip-vit-base-patch32",
        num_classes: int = 10,
        learning_rate: float | None = None,
        architecture: Any = "vit-b-32",
        seed: int = 0,
    ):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes: {num_classes} is too small; 2 or more works")
        self.model_name, self.num_classes, self.seed = model_name, num_classes, seed
        self.learning_rate = learning_rate
        recipe = clip.Recipe(
            model=clip.Model(base=model_name, architecture=architecture, head_start="random"),
            data=clip.Data(classes=tuple(f"class {number}" for number in range(num_classes))),
            lora=None,
            train=TrainConfig(seed=seed),
        )
        model: Any = build(recipe).model
        self.classifier: clip.CLIPClassifier = model
        self.save_only_trainable = True
        self.lora_enabled = True
        self.adapted_by: tuple[LoRAConfig, tuple[str, ...]] | None = None
        """Settings and components of the adapters that it has."""
        self._optimizer: tuple[tuple[int, ...], torch.optim.Optimizer] | None = None

    def forward(self, data: Tensor) -> Tensor:
        """(B, 3, S, S), normalised as CLIP's images are -> logits (B, num_classes)."""
        return self.classifier(data)

    def get_parameters(self) -> Parameters:
        """What a federation sends: the adapters and what is trained with them; all weights where LoRA is off."""
        return from_tensors(self._sent())

    def set_parameters(self, parameters: Parameters | Mapping[str, Any] | Iterable[NDArray[Any]]) -> None:
        """Take over what `get_parameters` gave, by name or as a plain list in its order.

        Raises:
            ValueError: a missing, unknown, misshapen or non-finite array. Nothing was copied.
        """
        copy_in(parameters, self._sent())

    def train_step(self, data: Tensor, labels: Tensor) -> float:
        """One step of AdamW on one batch; the loss before it.

        Args:
            data: (B, 3, S, S), normalised as CLIP's images are.
            labels: (B,) numbers of classes.
        """
        self.train()
        device = next(self.parameters()).device
        optimizer = self._current_optimizer()
        optimizer.zero_grad()
        loss = F.cross_entropy(self(data.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        return loss.item()

    @torch.no_grad()
    def evaluate(self, data: Tensor, labels: Tensor) -> dict[str, float]:
        """Loss, accuracy and calibration on one batch; arguments as of `train_step`."""
        self.eval()
        device = next(self.parameters()).device
        found = scores(self(data.to(device)), labels)
        return {"loss": found["nll"]} | found

    def _sent(self) -> dict[str, Tensor]:
        model = self.classifier
        if lora.is_adapted(model) and self.lora_enabled and self.save_only_trainable:
            return lora.get_lora_state_dict(model)
        adapters = {f"{layer}.{factor}" for layer in lora.adapted_layers(model) for factor in ("lora_A", "lora_B")}
        hidden = set() if self.lora_enabled else adapters
        return {name: tensor for name, tensor in model.state_dict().items() if name not in hidden}

    def _current_optimizer(self) -> torch.optim.Optimizer:
        """Made again when other weights are trained than before."""
        trained = [p for p in self.parameters() if p.requires_grad]
        identity = tuple(map(id, trained))
        if self._optimizer is None or self._optimizer[0] != identity:
            rate = self.learning_rate or LEARNING_RATES[lora.is_adapted(self.classifier)]
            self._optimizer = identity, torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
        return self._optimizer[1]
