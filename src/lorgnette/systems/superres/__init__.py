"""Continuous super-resolution: an image enlarged by any factor (LM-LTE and its kin)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy
from lorgnette.systems.superres.recipe import ABOUT as ABOUT, Data as Data, Model as Model, Recipe as Recipe

if TYPE_CHECKING:
    from lorgnette.systems.superres.data import default_steps as default_steps, loaders as loaders
    from lorgnette.systems.superres.decoders import (
        LIIF as LIIF,
        LMLIIF as LMLIIF,
        LMLTE as LMLTE,
        LTE as LTE,
        LMCiaoSR as LMCiaoSR,
    )
    from lorgnette.systems.superres.decoders.cross_scale import CrossScaleAttention as CrossScaleAttention
    from lorgnette.systems.superres.encoded import Encoded as Encoded
    from lorgnette.systems.superres.evaluate import evaluation as evaluation
    from lorgnette.systems.superres.exporting import program as program
    from lorgnette.systems.superres.miniature import tiny as tiny
    from lorgnette.systems.superres.predict import enhance as enhance, plain as plain
    from lorgnette.systems.superres.tables import (
        cmsr as cmsr,
        read_tables as read_tables,
        write_tables as write_tables,
    )
    from lorgnette.systems.superres.task import (
        SuperResolution as SuperResolution,
        make_task as make_task,
    )
    from lorgnette.systems.superres.weights import from_upstream as from_upstream

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
