"""The network as the mesh decoder's encoder: latents on the active set that it predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lorgnette.systems.mesh.lattice import ndimage
from lorgnette.systems.mesh.samples import Affine, Sample, make_sample, octants
from lorgnette.systems.mesh.slices.given import Given, Mask
from lorgnette.systems.mesh.slices.inputs import box_around
from lorgnette.systems.mesh.slices.network import Completer
from lorgnette.systems.mesh.slices.predict import completed, log_odds


def sample_from_slices(
    given: Given, affine: Affine, network: Completer, resolution: int, truth: Mask | None = None, name: str = ""
) -> Sample:
    """What the decoder sees of an organ that only a few slices of are known.

    Active voxels are those on the surface of the mask that the network finds; the latents of each, how likely each of
    its eight parts is to lie inside, as -1 to 1.

    Args:
        given: the slices.
        affine: (4, 4) from the given scan's voxels to millimetres.
        network: the completer.
        resolution: of the decoder's grid.
        truth: (X, Y, Z), the whole organ, to learn from. Unset: what the network found.
        name: of the sample.

    Raises:
        ValueError: see `make_sample`.
    """
    found = completed(given, "network", network)
    sample = make_sample(found if truth is None else truth, affine, None, resolution, "mask", name=name, found=found)
    to_voxel, box = np.linalg.inv(affine) @ sample.to_world, box_around(given)
    voxels = octants(sample.coords, resolution) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    cells = np.moveaxis((voxels - box.start) / box.step, -1, 0)
    odds = ndimage().map_coordinates(log_odds(given, network), cells, order=1, mode="nearest")
    return replace(sample, feats=np.tanh(odds / 2).astype(np.float32))
