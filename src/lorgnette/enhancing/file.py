"""One picture file into another: read, enhanced as is asked for, written. Imports no torch."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lorgnette.common.files import atomic_write

if TYPE_CHECKING:
    from lorgnette.enhancing.enhancer import Enhancer
    from lorgnette.images.file import Image
    from lorgnette.images.framing import Shape


@dataclass(frozen=True)
class How:
    """What is asked for of an enhanced picture. Of `scale`, `size`, `width`, `height` and `long_side`, one at most."""

    scale: float | None = None
    """Factor. Unset, with the others: 2, or the model's own."""
    size: tuple[int, int] | None = None
    """(H, W) in pixels."""
    width: int | None = None
    """In pixels; the shape is kept."""
    height: int | None = None
    """In pixels; the shape is kept."""
    long_side: int | None = None
    """Longer side in pixels; the shape is kept."""
    shape: Shape | None = None
    """With `size`: what becomes of a picture of another shape. Unset: it is refused."""
    strength: float | None = None
    """Of the adapter (superres) or of the whole change (restore), 0 to 1.5. Unset: 1."""
    range: tuple[float, float] | None = None
    """The picture's own numbers for black and white. Unset: all of its depth, or 0 to the largest of counts."""
    tile: int | None = None
    """Side of the tiles in pixels. Unset: the network's."""
    halo: int | None = None
    """Pixels that a tile sees beyond its own. Unset: the network's."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What the network computes in."""
    levels: Any = None
    """What renders less by tables (`lorgnette.systems.protocol.RendersLess`). Unset: all is rendered."""
    quality: int | None = None
    """Of JPEG, WebP and the like, 1 to 100. Unset: 95."""

    def wanted(self, height: int, width: int) -> dict[str, Any]:
        """`scale` or `size` for an image of that size; what `frame` gives is cut or padded to afterwards."""
        if self.size:
            from lorgnette.images.framing import rendered_size

            return {"size": rendered_size((height, width), self.size, self.shape)}
        if self.width:
            return {"size": (max(1, round(height * self.width / width)), self.width)}
        if self.height:
            return {"size": (self.height, max(1, round(width * self.height / height)))}
        if self.long_side:
            ratio = self.long_side / max(height, width)
            return {"size": (max(1, round(height * ratio)), max(1, round(width * ratio)))}
        return {} if self.scale is None else {"scale": self.scale}

    @property
    def frame(self) -> tuple[int, int] | None:
        """(H, W) to which an enlarged picture is cut or padded; None for as it is."""
        return self.size if self.shape in ("crop", "pad") else None

    def settings(self, height: int, width: int) -> dict[str, Any]:
        """The arguments of a room's `enhance` for an image of that size."""
        given = {"tile": self.tile, "halo": self.halo, "precision": self.precision, **self.wanted(height, width)}
        given |= {} if self.levels is None else {"cmsr": self.levels}
        return given if self.strength is None else given | {"strength": self.strength}


@dataclass(frozen=True)
class Most:
    """What is refused before memory is taken for it. None: only what the machine has no memory for."""

    pixels: int | None = None
    """Of a picture as given."""
    result: int | None = None
    """Of all pages of the result together."""

    def check(self, size: Sequence[float], pages: int = 1) -> None:
        """Refuse a result of (H, W), in one line."""
        height, width = size
        if self.result is not None and height * width * pages > self.result:
            what = f"{width:.0f} x {height:.0f} pixels" + (f" on {pages} pages" if pages > 1 else "")
            raise ValueError(f"{what} is more than the {self.result:,} that are allowed here: a smaller scale works")


def enhance_file(
    source: Path,
    target: Path,
    enhancer: Enhancer,
    how: How,
    progress: Callable[[list[Any]], Iterable[Any]] = iter,
    most: Most | None = None,
) -> None:
    """One file: a picture, or all pages of a TIFF into another. The new file has the date of the old one.

    What is not changed at all, and stays in its format, is copied rather than packed anew; an `ImageWarning` says so.

    Args:
        source: the picture.
        target: its suffix chooses the format.
        enhancer: from `lorgnette.enhancing.enhancer.enhancer`.
        how: size, strength and the like.
        progress: wraps the list of tiles of each page.
        most: what is refused.

    Raises:
        ValueError: the picture, the settings or the format does not work, in one line.
    """
    from lorgnette.images.errors import ImageWarning
    from lorgnette.images.file import (
        MAX_PIXELS,
        check_output,
        count_images,
        format_of,
        read_image,
        read_images,
        write_images,
    )
    from lorgnette.images.framing import framed
    from lorgnette.images.ranges import in_own_range

    most = most or Most()
    readable = most.pixels or MAX_PIXELS
    changed: list[bool] = []

    def enlarged(image: Image) -> Image:
        settings = how.settings(*image.pixels.shape[:2])

        def begin(tiles: list[Any]) -> Iterable[Any]:
            """The last moment at which it is known how large the result is, and nothing is done."""
            size = how.frame or settings.get("size") or (tiles[0].y.n_out, tiles[0].x.n_out)
            if how.scale:  # by less than the network's own factor, which tiles do not tell
                height, width = image.pixels.shape[:2]
                size = (max(1, round(height * how.scale)), max(1, round(width * how.scale)))
            check_output(target, alpha=image.alpha is not None, size=size, bits=image.bits)
            most.check(size, count)
            return progress(tiles)

        check_output(target, alpha=image.alpha is not None)
        factor = how.scale or 1  # here, since what needs no network has no tiles
        for size in (settings.get("size"), how.frame, [side * factor for side in image.pixels.shape[:2]]):
            if size:
                most.check(size, count)
        work = partial(enhancer, source=source, progress=begin, **settings)
        done = framed(in_own_range(image, work, how.range, f"{source}: ", " (--range sets others)"), how.frame)
        changed.append(done.pixels is not image.pixels or done.alpha is not image.alpha)
        return done

    count = count_images(source, readable) if target.suffix.lower() in (".tif", ".tiff") else 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ImageWarning)
        if count > 1:
            pictures: Iterable[Image] = read_images(source, readable, any_range=True)
        else:
            pictures = [read_image(source, readable, any_range=True)]
        write_images(target, map(enlarged, pictures), how.quality or 95, count)
    copied = not any(changed) and not how.quality and format_of(source) == check_output(target)
    for one in caught:
        if not (copied and str(one.message).startswith(f"{target}: ")):  # of a copy nothing is left out
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if copied:
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
        warnings.warn(f"{target}: nothing is changed, so it is a copy", ImageWarning, stacklevel=2)
    times = source.stat()
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
