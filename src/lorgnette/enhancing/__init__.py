"""Pictures through the models that suit them, and one file into another: what command line and server share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy

if TYPE_CHECKING:
    from lorgnette.enhancing.enhancer import Enhancer as Enhancer, enhancer as enhancer
    from lorgnette.enhancing.file import How as How, Most as Most, enhance_file as enhance_file

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
