"""Decode an organ: from a scan and a mask to a closed mesh in millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorgnette.systems.mesh.flexicubes import extract
from lorgnette.systems.mesh.samples import collate, make_sample, world
from lorgnette.systems.mesh.task import MeshDecoding


@dataclass(frozen=True)
class OrganMesh:
    """A closed surface of triangles.

    Attributes:
        vertices: (V, 3) float64, in millimetres of the scan's space.
        faces: (F, 3) int64, counter-clockwise seen from outside.
        volume_ml: what it encloses.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]

    @property
    def volume_ml(self) -> float:
        """By the divergence theorem."""
        a, b, c = np.moveaxis(self.vertices[self.faces], 1, 0)
        return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6000)


@torch.no_grad()
def decode(task: MeshDecoding, mask: NDArray[Any], affine: NDArray[Any], scan: NDArray[Any] | None = None) -> OrganMesh:
    """The mesh that the decoder makes of an organ.

    Args:
        task: from `lorgnette.load` or `lorgnette.build`, on any device.
        mask: (X, Y, Z), not 0 inside. It says where the surface is looked for: within a voxel of the task's grid.
        affine: (4, 4) from voxels to millimetres.
        scan: (X, Y, Z) values on the same grid; needed where the task's `data.features` is 'scan'.

    Raises:
        ValueError: an empty mask, a scan that is missing or has another shape, an affine that is no place in space, or
            nothing found inside.
    """
    settings = task.data
    inside = np.asarray(mask) > 0.5
    if inside.ndim != 3:
        raise ValueError(f"mask: {inside.ndim} dimensions; 3 work")
    sample = make_sample(
        inside, np.asarray(affine, float), scan, settings.resolution, settings.features, settings.window
    )
    batch, device = collate([sample]), next(task.parameters()).device
    was_training = task.training
    task.eval()
    try:
        coords = batch["coords"].to(device)
        values = task.predict({"coords": coords, "feats": batch["feats"].to(device)}).float()
        (lattice,) = task.decoder.structure(coords).children.children.lattices
        surface = extract(lattice, values, task.side)
    finally:
        task.train(was_training)
    if not len(surface.faces):
        raise ValueError("the decoder found no surface here: it may not have been trained")
    return OrganMesh(
        world(surface.vertices, batch["to_world"][0].to(device)).cpu().numpy(), surface.faces.cpu().numpy()
    )
