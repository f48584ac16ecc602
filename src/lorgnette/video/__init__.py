"""Clips: read, enhanced frame by frame, written; a run that was killed goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy

if TYPE_CHECKING:
    from lorgnette.video.clip import Enhanced as Enhanced
    from lorgnette.video.enhance import (
        enhance_video as enhance_video,
        open_clip as open_clip,
        working_folder as working_folder,
    )

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
