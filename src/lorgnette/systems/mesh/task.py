"""Meshes of organs as a Task: losses on signed distances and surfaces, Dice and distances in mm as scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorgnette.systems.mesh.flexicubes import Surface, extract, inside
from lorgnette.systems.mesh.losses import losses_of
from lorgnette.systems.mesh.model import SLatMeshDecoder
from lorgnette.systems.mesh.recipe import Data, Model, Recipe
from lorgnette.systems.mesh.samples import FINE
from lorgnette.systems.mesh.structure import Structure
from lorgnette.systems.mesh.weights import load_base
from lorgnette.train.task import Task


class MeshDecoding(Task):
    """The task around a decoder; for batches see `samples.collate`.

    Args:
        model: the decoder.
        settings: the weights of the losses.
        data: how samples are made.
    """

    min_delta = 0.0005

    def __init__(self, model: SLatMeshDecoder, settings: Model, data: Data):
        super().__init__()
        self.model, self.data = model, data
        self.weights = {
            name.removeprefix("loss_"): getattr(settings, name)
            for name in settings.__dataclass_fields__
            if name.startswith("loss_")
        }

    @property
    def side(self) -> int:
        """Fine cubes along an axis."""
        return FINE * self.decoder.resolution

    @property
    def decoder(self) -> SLatMeshDecoder:
        """The model, by its own type."""
        assert isinstance(self.model, SLatMeshDecoder)
        return self.model

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        values = self.model(batch["coords"], batch["feats"])[1].float()
        fine, surfaces = self._surfaces(batch, values, training=True)
        parts = [
            losses_of(surface, lattice, batch["distances"][item], batch["points"][item])
            for item, (surface, lattice) in enumerate(zip(surfaces, fine.lattices, strict=True))
        ]
        mean = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        total = torch.stack([self.weights[name] * value for name, value in mean.items()]).sum()
        return {"loss": total} | {name: value.detach() for name, value in mean.items()}

    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """(64 N, 53 or 101) values of the fine cubes."""
        return self.model(batch["coords"], batch["feats"])[1]

    @torch.no_grad()
    def score(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, float]:
        """Dice and IoU of the corners inside, the mean distance between the surfaces in mm, and the volume's error."""
        _, surfaces = self._surfaces(batch, prediction.float(), training=False)
        scores = []
        for item, (found, truth, cube_mm) in enumerate(self.masks(prediction, batch)):
            both, one, other = (float(mask.sum()) for mask in (found & truth, found, truth))
            dice = 2 * both / max(one + other, 1)
            apart = _apart(surfaces[item].vertices, batch["points"][item]) * self.side * cube_mm
            error = abs(one / max(other, 1) - 1)
            scores.append({"dice": dice, "iou": dice / (2 - dice), "surface_mm": apart, "volume_error": error})
        return {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}

    @torch.no_grad()
    def masks(self, prediction: Tensor, batch: Mapping[str, Any]) -> list[tuple[Tensor, Tensor, float]]:
        """Of each item the corners inside, as predicted and true, both (S, S, S), and the millimetres between them."""
        fine, surfaces = self._surfaces(batch, prediction.float(), training=False)
        pairs = zip(surfaces, fine.lattices, strict=True)
        found = [inside(lattice, surface.distances, self.side + 1) for surface, lattice in pairs]
        mm = batch["to_world"][:, :3, 0].norm(dim=1) / self.side
        return list(zip(found, batch["distances"] < 0, mm.tolist(), strict=True))

    def objective(self, metrics: Mapping[str, float]) -> float:
        return metrics["dice"]

    def without_network(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """All active voxels filled: what the places alone tell."""
        return {"filled": torch.full((64 * len(batch["coords"]), 53), -1.0, device=batch["coords"].device)}

    @property
    def panels(self) -> tuple[str, ...]:
        return ("network", "truth")

    def pictures(self, prediction: Tensor, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The middle of each axis, inside white: prediction beside truth, the three axes below each other."""
        found, truth, _ = self.masks(prediction, batch)[0]
        middle = self.side // 2
        rows = [torch.cat([volume.select(axis, middle) for volume in (found, truth)], 1) for axis in range(3)]
        grey = torch.cat(rows).byte().cpu().numpy() * 255
        return {batch["name"][0] or "organ": np.repeat(grey[..., None], 3, 2)}

    def _surfaces(self, batch: Mapping[str, Any], values: Tensor, training: bool) -> tuple[Structure, list[Surface]]:
        fine = self.decoder.structure(batch["coords"]).children.children
        pairs = zip(fine.items, fine.lattices, strict=True)
        return fine, [extract(lattice, values[rows], self.side, training) for rows, lattice in pairs]


def make_task(recipe: Recipe) -> MeshDecoding:
    """The unadapted task of a recipe (see `lorgnette.recipe.build`)."""
    return MeshDecoding(load_base(recipe.model, recipe.data.resolution), recipe.model, recipe.data)


def _apart(vertices: Tensor, points: Tensor) -> float:
    """Mean distance from each surface to the other, as a share of the grid's side."""
    if not len(vertices):
        return 1.0
    apart = torch.cdist(vertices[:: max(1, len(vertices) // 4096)], points)
    return float((apart.amin(1).mean() + apart.amin(0).mean()) / 2)
