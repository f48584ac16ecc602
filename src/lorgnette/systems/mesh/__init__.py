"""Medical meshes: the SAM 3D / TRELLIS mesh decoder on organs of CT and MR volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy
from lorgnette.systems.mesh.recipe import ABOUT as ABOUT, Data as Data, Model as Model, Recipe as Recipe

if TYPE_CHECKING:
    from lorgnette.systems.mesh.data import (
        TS_SAM3D_Dataset as TS_SAM3D_Dataset,
        data_collate as data_collate,
        default_steps as default_steps,
        loaders as loaders,
        prepare as prepare,
    )
    from lorgnette.systems.mesh.evaluate import evaluation as evaluation
    from lorgnette.systems.mesh.exporting import program as program
    from lorgnette.systems.mesh.flexicubes import Surface as Surface, extract as extract
    from lorgnette.systems.mesh.lattice import Lattice as Lattice
    from lorgnette.systems.mesh.miniature import tiny as tiny
    from lorgnette.systems.mesh.model import SLatMeshDecoder as SLatMeshDecoder
    from lorgnette.systems.mesh.predict import decode as decode, decode_sample as decode_sample
    from lorgnette.systems.mesh.slices.predict import complete as complete
    from lorgnette.systems.mesh.surface.mesh import Mesh as Mesh
    from lorgnette.systems.mesh.task import MeshDecoding as MeshDecoding, make_task as make_task
    from lorgnette.systems.mesh.trunk import Places as Places, Trunk as Trunk, places as places
    from lorgnette.systems.mesh.weights import from_upstream as from_upstream

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
