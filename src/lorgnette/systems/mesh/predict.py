"""Decode an organ: from a scan and a mask to a closed mesh in millimetres."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorgnette.common.modules import evaluating
from lorgnette.systems.mesh.flexicubes import extract
from lorgnette.systems.mesh.samples import Sample, collate, make_sample, world
from lorgnette.systems.mesh.surface import Mesh
from lorgnette.systems.mesh.task import MeshDecoding


@torch.no_grad()
def decode(
    task: MeshDecoding,
    mask: NDArray[Any],
    affine: NDArray[Any],
    scan: NDArray[Any] | None = None,
    name: str = "organ",
) -> Mesh:
    """The mesh that the decoder makes of an organ.

    Args:
        task: from `lorgnette.load` or `lorgnette.build`, on any device.
        mask: (X, Y, Z), not 0 inside. It says where the surface is looked for: within a voxel of the task's grid.
        affine: (4, 4) from voxels to millimetres.
        scan: (X, Y, Z) values on the same grid; needed where the task's `data.features` is 'scan'.
        name: what the mesh is called.

    Returns:
        A closed surface in the scan's millimetres; `lorgnette.systems.mesh.files.write_meshes` writes it.

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
    return decode_sample(task, sample, name)


@torch.no_grad()
def decode_sample(task: MeshDecoding, sample: Sample, name: str = "organ") -> Mesh:
    """The mesh that the decoder makes of what it sees of an organ, in millimetres; `decode` tells the rest.

    Raises:
        ValueError: nothing was found inside.
    """
    batch, device = collate([sample]), next(task.parameters()).device
    with evaluating(task):
        coords = batch["coords"].to(device)
        values = task.predict({"coords": coords, "feats": batch["feats"].to(device)}).float()
        (lattice,) = task.decoder.structure(coords).children.children.lattices
        surface = extract(lattice, values, task.side)
    if not len(surface.faces):
        raise ValueError("the decoder found no surface here: it may not have been trained")
    vertices = world(surface.vertices, batch["to_world"][0].to(device))
    return Mesh(name, vertices.cpu().numpy(), surface.faces.cpu().numpy())
