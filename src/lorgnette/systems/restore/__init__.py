"""Restoration: noise, compression and blur taken off an image, or a fixed enlargement (MambaIR)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy
from lorgnette.systems.restore.recipe import ABOUT as ABOUT, Data as Data, Model as Model, Recipe as Recipe

if TYPE_CHECKING:
    from lorgnette.systems.restore.basicsr import (
        read_options as read_options,
        read_test_options as read_test_options,
        tested_on as tested_on,
    )
    from lorgnette.systems.restore.data import default_steps as default_steps, loaders as loaders
    from lorgnette.systems.restore.evaluate import evaluation as evaluation
    from lorgnette.systems.restore.exporting import program as program
    from lorgnette.systems.restore.miniature import tiny as tiny
    from lorgnette.systems.restore.model import MambaIR as MambaIR
    from lorgnette.systems.restore.predict import enhance as enhance, plain as plain
    from lorgnette.systems.restore.task import Restoration as Restoration, make_task as make_task
    from lorgnette.systems.restore.weights import from_upstream as from_upstream

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
