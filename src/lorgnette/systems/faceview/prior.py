"""Keeping what a base knew: the distance to a frozen teacher as a part of the loss.

DreamBooth (Ruiz et al., arXiv 2208.12242) and ViewDiff repeat the base's own samples; here the answers of the base are
distilled (Hinton et al., arXiv 1503.02531), on samples of its own domain where there are some.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette import lora

Conditions = Mapping[str, Tensor | None]


class PriorPreservationLoss(nn.Module):
    """How far the answers of a model are from those of its base.

    `w_kl KL + w_feat (1 - cos) + w_l2 D mean((a - b)^2)`, on unit vectors of D numbers. Embeddings are no
    distributions: the divergence is between the softmaxes of each answer's similarities to all base answers of the
    batch, over `temperature` (relational distillation, Park et al., arXiv 1904.05068). Of a single sample it is that of
    its numbers times sqrt(D). All are 0 where both answer alike.

    Args:
        base_model: the teacher, which is frozen; None: the model itself with its adapters switched off.
        lambda_prior: weight of all three in the total.
        w_kl: of the divergence.
        w_feat: of the cosine.
        w_l2: of the squares.
        temperature: see above.
    """

    def __init__(
        self,
        base_model: nn.Module | None = None,
        lambda_prior: float = 0.1,
        w_kl: float = 1.0,
        w_feat: float = 1.0,
        w_l2: float = 1.0,
        temperature: float = 0.07,
    ):
        super().__init__()
        # In a list, so that the teacher's weights are not this module's to train, move and keep.
        self._base = [] if base_model is None else [base_model.requires_grad_(False).eval()]
        self.lambda_prior, self.weights, self.temperature = lambda_prior, (w_kl, w_feat, w_l2), temperature
        self.cached: list[tuple[Tensor, dict[str, Tensor | None]]] = []

    def distances(self, answer: Tensor, taught: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """KL, 1 - cos and squares between answers (B, D) and the teacher's."""
        a, b = F.normalize(answer.float(), dim=-1), F.normalize(taught.float(), dim=-1)
        width = b.shape[-1] ** 0.5
        ours, theirs = (x @ b.T / self.temperature if len(b) > 1 else x * width for x in (a, b))
        ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
        kl = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        return kl, (1 - (a * b).sum(-1)).mean(), (a - b).square().sum(-1).mean()

    def prior(self, answer: Tensor, taught: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and its parts."""
        parts = self.distances(answer, taught)
        total = torch.stack([w * p for w, p in zip(self.weights, parts, strict=True)]).sum()
        return total, dict(zip(("kl_loss", "feature_loss", "l2_loss"), parts, strict=True))

    @torch.no_grad()
    def taught(self, model: nn.Module, inputs: Tensor, conditions: Conditions) -> Tensor:
        """The teacher's answers (B, D), in eval mode."""
        with _teaching(self._base[0] if self._base else model, own=not self._base) as teacher:
            return teacher(inputs, **conditions, return_residual=False)

    def forward(
        self, current_model: nn.Module, inputs: Tensor, conditions: Conditions, original_loss: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """The total of a loss and the prior on these inputs, or on cached ones (`cache_prior_samples`)."""
        if self.cached:
            inputs, conditions = self._drawn(inputs)
        answer = current_model(inputs, **conditions, return_residual=False)
        return self.total(original_loss, answer, self.taught(current_model, inputs, conditions))

    def total(self, original_loss: Tensor, answer: Tensor, taught: Tensor) -> tuple[Tensor, dict[str, float]]:
        """`original_loss + lambda_prior prior`, and all figures."""
        prior, parts = self.prior(answer, taught)
        total = original_loss + self.lambda_prior * prior
        figures = {"original_loss": original_loss, "prior_loss": prior, **parts, "total_loss": total}
        return total, {name: float(value.detach()) for name, value in figures.items()}

    def cache_prior_samples(
        self, dataloader: Iterable[Mapping[str, Tensor]], num_samples: int = 100, device: str = "cpu"
    ) -> int:
        """Keep samples of the base's domain, on which the prior is then asked instead of the training batch.

        Args:
            dataloader: of dictionaries with `src`, `angles` and, where there are some, `keypoints_3d` and `pose`.
            num_samples: how many.
            device: where they are kept.

        Returns:
            How many there were.
        """
        self.cached, kept = [], 0
        for batch in dataloader:
            rest = num_samples - kept
            if rest <= 0:
                break
            given = {name: batch[name][:rest].to(device) for name in ("src", "angles", "keypoints_3d", "pose")
                     if batch.get(name) is not None}  # fmt: skip
            self.cached.append((given.pop("src"), dict(given)))
            kept += len(self.cached[-1][0])
        return kept

    def _drawn(self, like: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        """A cached batch, by torch's own random numbers."""
        inputs, conditions = self.cached[int(torch.randint(len(self.cached), ()))]
        return inputs.to(like.device), {n: None if v is None else v.to(like.device) for n, v in conditions.items()}


class EnhancedTransformerWithPrior(nn.Module):
    """A model, its teacher, and the loss of both.

    Args:
        model: that is trained.
        base_model: the teacher; None: the model itself with its adapters switched off, and where it has none, no prior.
        lambda_prior: weight of the prior.
        settings: further ones of `PriorPreservationLoss`.
    """

    def __init__(
        self, model: nn.Module, base_model: nn.Module | None = None, lambda_prior: float = 0.1, **settings: float
    ):
        super().__init__()
        self.model = model
        has_teacher = base_model is not None or lora.is_adapted(model)
        self.prior_loss = PriorPreservationLoss(base_model, lambda_prior, **settings) if has_teacher else None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the model."""
        return self.model(*args, **kwargs)

    def compute_loss(
        self,
        inputs: Tensor,
        conditions: Conditions,
        targets: Tensor,
        original_loss_fn: Callable[[Tensor, Tensor], Tensor],
        prior_inputs: Tensor | None = None,
        prior_conditions: Conditions | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of the mapped embeddings, and of the distance to the teacher.

        Args:
            inputs: (B, D).
            conditions: `angles`, and `keypoints_3d` and `pose` where they are used.
            targets: (B, D): what the sum of input and residual should be.
            original_loss_fn: of the mapped embeddings and the targets.
            prior_inputs: (B', D) samples of the base's domain. None: the same inputs; no second forward pass, but there
                the base is what is to be improved on.
            prior_conditions: theirs.

        Returns:
            The total, to be minimised, and its parts.
        """
        answer = self.model(inputs, **conditions, return_residual=False)
        loss = original_loss_fn(answer, targets)
        if self.prior_loss is None:
            return loss, {"original_loss": float(loss.detach()), "prior_loss": 0.0, "total_loss": float(loss.detach())}
        if prior_inputs is not None:
            inputs, conditions = prior_inputs, prior_conditions or {}
            answer = self.model(inputs, **conditions, return_residual=False)
        return self.prior_loss.total(loss, answer, self.prior_loss.taught(self.model, inputs, conditions))


def frozen_copy(model: nn.Module) -> nn.Module:
    """A teacher for a model that is trained whole."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@contextlib.contextmanager
def _teaching(model: nn.Module, own: bool) -> Iterator[nn.Module]:
    """The model as a teacher: in eval mode and, if it teaches itself, without its adapters."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with lora.disabled(model) if own else contextlib.nullcontext():
            yield model
    finally:
        for module, mode in modes.items():
            module.training = mode
