"""Video files as PyAV (FFmpeg) opens them: a path is a path, whatever its name looks like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lorgnette.video.pixels import FFmpegError, av

if TYPE_CHECKING:
    from av.container import InputContainer


def url(path: Path) -> str:
    """What FFmpeg is told: else it takes `talk: 1.mp4` for a protocol."""
    return f"file:{path}"


def open_container(path: Path) -> InputContainer:
    """A file to read from.

    Raises:
        ValueError: it is empty, damaged, or none that FFmpeg knows.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes): use an intact copy")
    try:
        return av.open(url(path))
    except FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{path} is no video, or is damaged or incomplete: use an intact copy") from None
