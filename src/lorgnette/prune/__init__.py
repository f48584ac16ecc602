"""Networks with fewer channels: taken out where they matter least, made up for, and learnt again from the whole one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy

if TYPE_CHECKING:
    from lorgnette.prune.model import Cut as Cut, prune_channels as prune_channels, prune_model as prune_model
    from lorgnette.prune.recovery import distilled as distilled
    from lorgnette.prune.task import Costs as Costs, costs as costs, prune_task as prune_task

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
