"""Lines through points: the smallest room there can be, to show what a new one takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.systems.sixth.recipe import ABOUT as ABOUT, Data as Data, Model as Model, Recipe as Recipe

from lorgnette.common.lazy import lazy

if TYPE_CHECKING:
    from tests.systems.sixth.room import (
        default_steps as default_steps,
        evaluation as evaluation,
        from_upstream as from_upstream,
        loaders as loaders,
        make_task as make_task,
        program as program,
        tiny as tiny,
    )

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
