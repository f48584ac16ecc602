"""Mapping face embeddings as a Task: cosine, persons told apart, and what the base knew kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.systems.faceview.curves import similarity_picture
from lorgnette.systems.faceview.model import EnhancedTransformerDecoderOnly3D
from lorgnette.systems.faceview.prior import PriorPreservationLoss
from lorgnette.systems.faceview.recipe import Recipe
from lorgnette.systems.faceview.scores import Trials, scores, trials
from lorgnette.systems.faceview.weights import load_base
from lorgnette.train.task import Task

CHUNK = 512  # embeddings mapped at a time
OVERALL = ("nll", "cosine", "rank-1", "eer", "tar@1e-3")


class FaceMapping(Task):
    """The task around the mapping; for batches see `data.py`.

    Args:
        model: the network.
        recipe: the settings of the loss.
        teacher: whose answers the prior keeps; None: those of the model without adapters, or of its base's file.
    """

    def __init__(
        self,
        model: EnhancedTransformerDecoderOnly3D,
        recipe: Recipe | None = None,
        teacher: EnhancedTransformerDecoderOnly3D | None = None,
    ):
        super().__init__()
        self.model, self.recipe = model, recipe or Recipe()
        # In a tuple, as no part of what is trained and kept.
        self._teacher: tuple[nn.Module, ...] = () if teacher is None else (teacher,)

    def map(self, src: Tensor, angles: Tensor, keypoints: Tensor | None, pose: Tensor | None = None) -> Tensor:
        """(B, D) -> (B, D), of length 1."""
        given = keypoints if self.recipe.model.keypoints else None
        return F.normalize(self.model(src, angles, given, pose, return_residual=False).float(), dim=-1)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        settings = self.recipe.model
        mapped = self.map(batch["src"], batch["angles"], batch.get("keypoints"), batch.get("pose"))
        target = F.normalize(batch["target"].float(), dim=-1)
        losses = {"cosine": (1 - (mapped * target).sum(-1)).mean()}
        total = losses["cosine"]
        if settings.contrastive:
            losses["contrastive"] = told_apart(mapped, target, batch["person"], settings.temperature)
            total = total + settings.contrastive * losses["contrastive"]
        if settings.prior:
            losses["prior"] = self._prior(batch, mapped)
            total = total + settings.prior * losses["prior"]
        return {"loss": total, **losses}

    def _prior(self, batch: Mapping[str, Tensor], mapped: Tensor) -> Tensor:
        replayed = "replay_src" in batch
        given = {n: batch.get(f"replay_{n}" if replayed else n) for n in ("src", "angles", "keypoints")}
        src = given.pop("src")
        assert src is not None
        keypoints = given["keypoints"] if self.recipe.model.keypoints else None
        conditions = {"angles": given["angles"], "keypoints_3d": keypoints}
        if replayed:
            mapped = self.model(src, **conditions, return_residual=False)
        elif "pose" in batch:
            conditions["pose"] = batch["pose"]
        loss = PriorPreservationLoss(self._taught_by(), temperature=self.recipe.model.temperature)
        return loss.prior(mapped, loss.taught(self.model, src, conditions))[0]

    def _taught_by(self) -> nn.Module | None:
        """None: the model's own base, adapters off. Else the teacher, by default the base as its file has it."""
        if not self._teacher:
            if lora.is_adapted(self.model):
                return None
            if self.recipe.model.base == "none":
                raise ValueError("model.prior: there is no base to keep; name one in model.base, or leave it at 0")
            self._teacher = (load_base(self.recipe.model),)
        return self._teacher[0].to(next(self.model.parameters()).device)

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Tensor]) -> Tensor:
        """All probes (N, D) as they would be from the front."""
        parts = []
        for start in range(0, len(batch["src"]), CHUNK):
            keypoints = batch.get("keypoints")
            rows = slice(start, start + CHUNK)
            parts.append(
                self.map(batch["src"][rows], batch["angles"][rows], None if keypoints is None else keypoints[rows])
            )
        return torch.cat(parts)

    def score(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """The short table; `evaluation` gives all of it."""
        found = scores(compared(prediction, batch))
        return {name: value for name, value in found.items() if name in OVERALL or name.startswith("tar@1e-3 ")}

    def objective(self, metrics: Mapping[str, float]) -> float:
        return -metrics["nll"]

    def without_network(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"as they are": batch["src"]}

    def pictures(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Cosines with the right person against the yaw, before and after."""
        before, after = (compared(found, batch) for found in (batch["src"], prediction))
        return {"similarity": similarity_picture({"as they are": before, "mapped": after})}


def told_apart(mapped: Tensor, target: Tensor, person: Tensor, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al., arXiv 1807.03748) among the persons of a batch: (B, D), (B, D), (B,) -> a scalar.

    Other views of the same person are neither right nor wrong.
    """
    logits = mapped @ target.T / temperature
    same = person[:, None] == person
    own = torch.eye(len(person), dtype=torch.bool, device=person.device)
    return F.cross_entropy(logits.masked_fill(same & ~own, -torch.inf), own.float().argmax(1))


def compared(probe: Tensor, batch: Mapping[str, Tensor]) -> Trials:
    """Probes (N, D) of a batch of held-out persons with its gallery."""
    yaw = np.rad2deg(batch["angles"][:, 1].double().cpu().numpy())
    mapped, gallery = (x.detach().double().cpu().numpy() for x in (probe, batch["gallery"]))
    return trials(mapped, gallery, batch["person"].cpu().numpy(), yaw)


def make_task(recipe: Recipe) -> FaceMapping:
    """The unadapted task of a recipe (see `lorgnette.recipe.build`).

    Raises:
        ValueError: an adapter is asked for on a base that nobody has trained.
    """
    if recipe.lora is not None and recipe.model.base == "none" and not recipe.model.allow_untrained:
        raise ValueError(
            "model.base: 'none' is untrained, and a frozen random network is nothing to adapt; train a base with"
            " --lora null, then name its folder in --model.base"
        )
    return FaceMapping(load_base(recipe.model), recipe)
