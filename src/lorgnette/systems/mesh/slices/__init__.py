"""From a scan and masks on a few of its slices to the whole organ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy

if TYPE_CHECKING:
    from lorgnette.systems.mesh.slices.between import extruded as extruded, interpolated as interpolated
    from lorgnette.systems.mesh.slices.given import Given as Given, given_slices as given_slices
    from lorgnette.systems.mesh.slices.latents import sample_from_slices as sample_from_slices
    from lorgnette.systems.mesh.slices.network import Completer as Completer
    from lorgnette.systems.mesh.slices.predict import complete as complete, complete_labels as complete_labels
    from lorgnette.systems.mesh.slices.training import Completing as Completing, Examples as Examples
    from lorgnette.systems.mesh.slices.variants import Source as Source, cut as cut, source_of as source_of
    from lorgnette.systems.mesh.slices.weights import load_completer as load_completer

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
