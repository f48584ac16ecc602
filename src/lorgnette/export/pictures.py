"""Pictures through an exported file: the same tiles and the same care as `enhance`, without PyTorch.

Needs ONNX Runtime, NumPy and Pillow, and of this package only what imports no torch; of `.pte` files ExecuTorch, which
does import it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from lorgnette.export.manifest import read_manifest
from lorgnette.export.session import open_session
from lorgnette.export.tiles import Planes, Run, in_tiles, names
from lorgnette.images.file import Image
from lorgnette.images.limits import check_memory
from lorgnette.images.pixels import seen_colours
from lorgnette.systems.protocol import OnPictures
from lorgnette.tiles.pictures import alpha_at, between, check_strength, of_size, resized
from lorgnette.tiles.plan import Tile, check_tile


class Exported:
    """An exported model that enhances pictures.

    Args:
        file: an `.onnx` or `.pte` file that `lorgnette export` wrote.
        threads: cores that it uses; 0: all. ExecuTorch decides itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be run, or is not for pictures, in one line.
    """

    def __init__(self, file: str | os.PathLike[str], threads: int = 0):
        manifest = read_manifest(file)
        if manifest is None:
            raise ValueError(f"{file} was not written by `lorgnette export`: it does not say what it takes")
        if manifest.pictures is None:
            raise ValueError(f"{file} is of the room {manifest.room}, which does not enhance images")
        self.file, self.manifest, self.how = str(file), manifest, manifest.pictures
        self._run = _mobile(file, self.how) if self.file.endswith(".pte") else _onnx(file, self.how, threads)

    def enhance(
        self,
        image: Image,
        scale: float | tuple[float, float] | None = None,
        size: tuple[int, int] | None = None,
        tile: int | None = None,
        precision: str = "fp32",
        progress: Callable[[list[Tile]], Iterable[Tile]] = iter,
        halo: int | None = None,
        strength: float = 1.0,
    ) -> Image:
        """A picture enhanced, as the room's `enhance` does it; see there.

        Args:
            image: from `lorgnette.images.file.read_image`.
            scale: factor, or (y, x), within what the manifest says. With neither it nor `size`: the usual one.
            size: (H, W) instead of `scale`.
            tile: side of the tiles in input pixels. Unset: as the manifest says.
            precision: 'fp32': a file computes as it was written.
            progress: wraps the list of tiles.
            halo: input pixels that a tile sees beyond its own. Unset: as the manifest says.
            strength: of a model of one factor, how much of its change is made, from 0 to 1.5. Of others 1.

        Raises:
            ValueError: a setting does not work, or the file does not give what its manifest says; in one line.
        """
        if precision != "fp32":
            raise ValueError(f"precision: {precision!r} does not work; an exported file computes as it was written")
        if strength != 1 and self.how.factor is None:
            raise ValueError("strength: the adapter is folded into an exported file, at strength 1")
        check_strength(strength)
        if not np.isfinite(image.pixels).all():
            raise ValueError("image: holds values that are not finite (NaN or infinity)")
        tile, halo = check_tile(self.how.tile if tile is None else tile, self.how.halo if halo is None else halo)
        in_size = (image.pixels.shape[0], image.pixels.shape[1])
        rendered, wanted = self._sizes(in_size, scale, size)
        if rendered == in_size != wanted and self.how.factor is None:
            return resized(image, wanted)
        check_memory(rendered)
        planes = _planes(image, self.how.channels)
        planes = in_tiles(self._run, self.how, self.file, planes, rendered, tile, halo, progress)
        enhanced = of_size(image, _pixels(planes), alpha_at(image.alpha, rendered))
        if strength != 1:
            enhanced = between(resized(image, rendered), enhanced, strength)
        return resized(enhanced, wanted)

    def _sizes(
        self, size: tuple[int, int], scale: float | tuple[float, float] | None, wanted: tuple[int, int] | None
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) that is rendered, and that is wanted."""
        how, most = self.how, self.how.factor or self.how.most_scale
        if wanted is None:
            given = how.usual_scale if scale is None else scale
            factors = given if isinstance(given, tuple) else (given, given)
            if not all(math.isfinite(factor) and how.least_scale <= factor <= most for factor in factors):
                raise ValueError(f"scale: {given} does not work; {how.least_scale:g} to {most:g} does with this file")
            wanted = max(1, round(size[0] * factors[0])), max(1, round(size[1] * factors[1]))
        elif scale is not None:
            raise ValueError("give either scale or size")
        if not all(1 <= out <= n * most for out, n in zip(wanted, size, strict=True)):
            raise ValueError(
                f"size: {wanted[1]}x{wanted[0]} is more than {most:g} times the image's {size[1]}x{size[0]}, or nothing"
                " (width x height)"
            )
        if how.factor is not None:
            return (size[0] * how.factor, size[1] * how.factor), wanted
        return (max(size[0], wanted[0]), max(size[1], wanted[1])), wanted


def _onnx(file: str | os.PathLike[str], how: OnPictures, threads: int) -> Run:
    session = open_session(file, threads)
    takes = [entry.name for entry in session.get_inputs()]
    if takes != (wanted := names(how)):
        raise ValueError(f"{file}: takes {', '.join(takes)} where {', '.join(wanted)} belong to its manifest")
    return lambda given: session.run(None, given)[0]


def _mobile(file: str | os.PathLike[str], how: OnPictures) -> Run:
    import torch

    from lorgnette.export.executorch import check_installed, runner

    check_installed()
    run, order = runner(Path(file)), names(how)
    return lambda given: run(*(torch.from_numpy(given[name]) for name in order)).numpy()


def _planes(image: Image, channels: int) -> Planes:
    """(1, 3, H, W); for a network of one channel each colour by itself, (3, 1, H, W), of grey pictures one."""
    planes = seen_colours(image.pixels, image.alpha).transpose(2, 0, 1).astype(np.float32)
    if channels == 3:
        return planes[None]
    return planes[:1, None] if image.grey else planes[:, None]


def _pixels(planes: Planes) -> Planes:
    """The way back: (H, W, 3)."""
    flat = planes.reshape(-1, *planes.shape[2:])
    return (flat if len(flat) == 3 else np.repeat(flat, 3, 0)).transpose(1, 2, 0)
