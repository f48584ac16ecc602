"""Classification: pictures told apart by CLIP, with few examples, and by several parties together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy
from lorgnette.systems.clip.recipe import (
    ABOUT as ABOUT,
    Data as Data,
    Model as Model,
    Recipe as Recipe,
    adapter_preset as adapter_preset,
)

if TYPE_CHECKING:
    from lorgnette.systems.clip.data import default_steps as default_steps, loaders as loaders
    from lorgnette.systems.clip.evaluate import evaluation as evaluation
    from lorgnette.systems.clip.exporting import program as program
    from lorgnette.systems.clip.miniature import tiny as tiny
    from lorgnette.systems.clip.model import CLIPClassifier as CLIPClassifier
    from lorgnette.systems.clip.predict import Label as Label, classify as classify
    from lorgnette.systems.clip.task import (
        Classification as Classification,
        make_task as make_task,
    )
    from lorgnette.systems.clip.weights import from_upstream as from_upstream

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
