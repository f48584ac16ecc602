"""From masks to closed surfaces: smooth, manifold, free of self-intersection, and of the volume of the voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy

if TYPE_CHECKING:
    from lorgnette.systems.mesh.surface.build import surfaces as surfaces
    from lorgnette.systems.mesh.surface.mesh import Mesh as Mesh
    from lorgnette.systems.mesh.surface.rasterize import voxels as voxels
    from lorgnette.systems.mesh.surface.settings import Surface as Surface

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
