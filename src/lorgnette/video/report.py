"""A page on what was done to a clip: times, reuse, pictures."""

from __future__ import annotations

import os
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorgnette.images.file import Image
from lorgnette.images.pixels import to_uint8
from lorgnette.images.resize import imresize
from lorgnette.report.page import Captioned, write_report
from lorgnette.video.clip import Clip

if TYPE_CHECKING:
    from lorgnette.video.clip import Enhanced

# From computed anew to reused: viridis at 0, 1/4, ... 1 (by S. van der Walt and N. Smith, CC0).
_COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], np.float32)


def write_video_report(path: str | os.PathLike[str], done: Enhanced, clip: Clip, before: Image, after: Image) -> None:
    """Write a self-contained page; see `lorgnette.report.page.write_report`.

    Args:
        path: the HTML file.
        done: what came of the clip.
        clip: what it was made of.
        before: a frame of it.
        after: the same frame, done.
    """
    rows = figures(done, clip)
    enlarged = _enlarged(before.pixels, done.size)
    pictures: list[Captioned] = [("The first frame", to_uint8(enlarged), to_uint8(after.pixels))]
    if done.reuse:
        share = np.mean(np.stack(done.reuse), axis=0)
        caption = "Where tiles were reused, from in no frame (violet) to in all (yellow); "
        caption += f"here {share.min():.0%} to {share.max():.0%} of the frames"
        pictures.append((caption, heat_map(share, to_uint8(before.pixels))))
    write_report(
        path,
        title=f"Clip: {done.path.name}",
        recipe_text="",
        metrics=[
            {"event": "step", "step": number, "seconds per frame": seconds, **_reused(done, number)}
            for number, seconds in enumerate(done.seconds)
        ],
        table=[{"what": what, "value": value} for what, value in rows.items()],
        pictures=pictures,
        summary="\n\n".join((_sentence(done, rows), *done.notes)),
    )


def figures(done: Enhanced, clip: Clip) -> dict[str, Any]:
    """The figures of a clip by name."""
    rows: dict[str, Any] = {
        "frames": done.frames,
        "frames done by earlier runs": done.resumed,
        "size before": f"{clip.size[1]} x {clip.size[0]}",
        "size after": f"{done.size[1]} x {done.size[0]}",
        "frames per second of the clip": float(clip.rate),
        "seconds in all": sum(done.seconds),
        "seconds per frame, mean": mean(done.seconds),
        "seconds per frame, median": median(done.seconds),
        "seconds per frame, longest": max(done.seconds),
    }
    if done.reuse:
        rows["tiles"] = sum(reused.size for reused in done.reuse)
        rows["tiles reused"] = sum(int(reused.sum()) for reused in done.reuse)
        rows["share of tiles reused"] = rows["tiles reused"] / rows["tiles"]
    return rows


def heat_map(share: NDArray[np.float64], picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shares as colours over a grey picture.

    Args:
        share: (rows, columns) in [0, 1].
        picture: (H, W, 3).

    Returns:
        (H, W, 3).
    """
    rows = np.arange(picture.shape[0]) * share.shape[0] // picture.shape[0]
    columns = np.arange(picture.shape[1]) * share.shape[1] // picture.shape[1]
    place = np.clip(share, 0, 1)[rows][:, columns] * (len(_COLOURS) - 1)
    below = np.minimum(place.astype(int), len(_COLOURS) - 2)
    colours = _COLOURS[below] + (_COLOURS[below + 1] - _COLOURS[below]) * (place - below)[..., None]
    grey = picture.mean(axis=-1, keepdims=True) / 255
    return (colours * (0.35 + 0.65 * grey)).astype(np.uint8)


def _reused(done: Enhanced, number: int) -> dict[str, float]:
    return {"share of tiles reused": float(done.reuse[number].mean())} if done.reuse else {}


def _enlarged(pixels: NDArray, size: tuple[int, int]) -> NDArray:
    """By bicubic, so that it can be laid beside the result."""
    if pixels.shape[:2] == size:
        return pixels
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    return imresize(planes, size=size).clamp(0, 1).permute(1, 2, 0).numpy()


def _sentence(done: Enhanced, figures: dict[str, Any]) -> str:
    text = f"{done.frames} frames in {sum(done.seconds):.1f} seconds of computing."
    if done.reuse:
        text += f" {figures['share of tiles reused']:.1%} of all tiles came from the cache."
    return text
