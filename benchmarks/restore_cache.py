"""Frames through the tile cache, beside the same tiling without it and beside whole frames.

    NUMBA_NUM_THREADS=1 python benchmarks/restore_cache.py                     # exact mode, generated clips
    LORGNETTE_DATA=... python benchmarks/restore_cache.py --only camera        # near mode, camera clips
    python benchmarks/restore_cache.py --only overhead

Generated clips: 512 x 512, each pixel the same as in the frame before in 90 % of all cases and more, 8-bit. Camera
clips: `static_bikes` and `moving_temple` in the folder `images/video` of LORGNETTE_DATA.

The denoiser and the super-resolution network are those that ship. All ways take turns frame by frame in one process
on one thread; a time is that of the processor, and a ratio that of the sums over a clip, with the least and the
largest of its rounds. The first frame of a clip, which nothing can be reused for, counts as any other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorgnette.images.file import Image, read_image
from lorgnette.images.resize import imresize
from lorgnette.recipe import build
from lorgnette.systems import restore, superres
from lorgnette.tiles.cache import TILINGS, TileCache

Pixels = NDArray[np.float32]
ROOMS = {"restore": restore, "superres": superres}
WHOLE = 4096
SIDE = 512

# ---------------------------------------------------------------------------------------------- generated clips


def page(seed: int) -> NDArray[np.uint8]:
    """A window with lines of words on a plain ground."""
    rng = np.random.default_rng(seed)
    image = np.full((SIDE, SIDE, 3), 244, np.uint8)
    image[:28] = (52, 74, 110)
    for top in range(48, SIDE - 20, 16):
        left = 24
        while left < SIDE - 90:
            width = int(rng.integers(12, 70))
            image[top : top + 8, left : left + width] = rng.integers(20, 90)
            image[top : top + 8, left : left + width : 3] = 200
            left += width + 8
    return image


def scene(seed: int) -> NDArray[np.uint8]:
    """Something like a photograph: coarse and fine waves, and edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    image = np.zeros((SIDE, SIDE, 3))
    for _ in range(24):
        fy, fx, phase = rng.normal(0, 12), rng.normal(0, 12), rng.uniform(0, 6.3)
        image += rng.uniform(0, 12, 3) * np.sin(6.3 * (fy * y + fx * x) + phase)[..., None]
    for _ in range(12):
        top, left, side = *rng.integers(0, SIDE - 80, 2), int(rng.integers(20, 120))
        image[top : top + side, left : left + side] += rng.uniform(-60, 60, 3)
    return np.clip(image + 120 + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def screen_recording(frames: int) -> Iterator[NDArray[np.uint8]]:
    """A page; a video plays in a part of it, a line is typed, a cursor moves."""
    image, film = page(0), scene(1)
    for number in range(frames):
        image[300:440, 320:480] = film[9 * number : 9 * number + 140, 100:260]
        image[480:488, 24 : 24 + 20 * number] = 60
        shown = image.copy()
        shown[100 + 12 * number : 116 + 12 * number, 60:70] = 0
        yield shown


def slides(frames: int) -> Iterator[NDArray[np.uint8]]:
    """Every fifth frame another page; between them a pointer moves."""
    for number in range(frames):
        image = page(number // 5)
        image[200:212, 40 + 14 * number : 52 + 14 * number] = (220, 30, 30)
        yield image


def time_lapse(frames: int) -> Iterator[NDArray[np.uint8]]:
    """A noisy scene, the noise frozen, in which two things move."""
    image, things = scene(2), scene(3)
    for number in range(frames):
        shown = image.copy()
        top, left = 60 + 6 * number, 80 + 5 * number
        shown[top : top + 110, left : left + 110] = things[:110, :110]
        shown[400:480, 300 - 4 * number : 380 - 4 * number] = things[200:280, 200:280]
        yield shown


CLIPS: dict[str, Callable[[int], Iterator[NDArray[np.uint8]]]] = {
    "screen recording": screen_recording,
    "slides": slides,
    "time-lapse": time_lapse,
}


def frames_of(name: str, count: int) -> list[Pixels]:
    return [frame.astype(np.float32) / 255 for frame in CLIPS[name](count)]


def still_share(clip: list[Pixels]) -> float:
    """Pixels that are as in the frame before."""
    return float(np.mean([np.all(a == b, axis=-1).mean() for a, b in itertools.pairwise(clip)]))


# ------------------------------------------------------------------------------------------------------ timing


class Way:
    """One way to enhance the frames of a clip: its results, the processor time of each, and of the network alone."""

    def __init__(self, room: str, task: Any, cache: TileCache | None = None, **how: Any) -> None:
        self.run, self.task, self.cache, self.how = ROOMS[room].enhance, task, cache, how
        self.seconds: list[float] = []

    def __call__(self, pixels: Pixels) -> Pixels:
        frame = Image(pixels, grey=False, bits=8)
        start = time.process_time()
        result = self.run(self.task, frame, cache=self.cache, **self.how)
        self.seconds.append(time.process_time() - start)
        return result.pixels


def decibels(a: Pixels, b: Pixels) -> float:
    """PSNR on [0, 1]; 200 for equal images."""
    error = float(np.square(a.astype(np.float64) - b).mean())
    return -10 * float(np.log10(max(error, 1e-20)))


def task_of(room: str) -> Any:
    task = build(ROOMS[room].Recipe(lora=None)).eval()
    warm = Image(np.zeros((96, 96, 3), np.float32), grey=False, bits=8)
    ROOMS[room].enhance(task, warm)  # compiles the scan
    return task


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "largest": max(values)}


def generated(room: str, name: str, count: int, rounds: int) -> dict[str, Any]:
    """The cache in exact mode against the same tiling and against whole frames.

    Frames without a cache take as long whatever is on them: every fourth is enhanced by the same tiling as well, and
    compared bit by bit, and the one after it as a whole.
    """
    task, clip = task_of(room), frames_of(name, count)
    tiling = TILINGS["exact"]
    ratios: dict[str, list[float]] = {"same tiling": [], "whole": [], "same tiling, all": [], "whole, all": []}
    equal, likeness, cache = True, [], TileCache()
    for _ in range(rounds):
        cache = TileCache()
        cached, whole = Way(room, task, cache), Way(room, task, tile=WHOLE)
        tiled = Way(room, task, tile=tiling.tile, halo=tiling.halo)
        for number, frame in enumerate(clip):
            result = cached(frame)
            if number % 4 == 1:
                equal &= bool(np.array_equal(result, tiled(frame)))
            if number % 4 == 2:
                likeness.append(decibels(result, whole(frame)))
        for label, way in (("same tiling", tiled), ("whole", whole)):
            each = statistics.median(way.seconds)
            ratios[label].append(each * (count - 1) / sum(cached.seconds[1:]))
            ratios[f"{label}, all"].append(each * count / sum(cached.seconds))
    return {
        "room": room,
        "clip": name,
        "frames": count,
        "still": still_share(clip),
        "hit_rate": cache.statistics()["hit_rate"],
        "megabytes": cache.statistics()["bytes"] / 1e6,
        "bit_identical": equal,
        "whole_frame_seconds": statistics.median(whole.seconds),
        "quicker_than": {label: spread(values) for label, values in ratios.items()},
        "db_to_whole_frames": min(likeness),
    }


def camera(room: str, name: str, count: int, tolerance: float | None, levels: float) -> dict[str, Any]:
    """The cache in near mode against whole frames.

    The denoiser gets the frames with noise of so many levels, the super-resolution network gets them half as large;
    both results are compared with the frames themselves.
    """
    task, truths = task_of(room), camera_clip(name, count)
    noise = np.random.default_rng(0)
    inputs = [halved(frame) if room == "superres" else noisy(frame, levels, noise) for frame in truths]
    cache = TileCache(mode="near", tolerance=tolerance)
    near, whole = Way(room, task, cache), Way(room, task, tile=WHOLE)
    figures = []
    for number, (frame, truth) in enumerate(zip(inputs, truths, strict=True)):
        a, b = (near(frame), whole(frame)) if number % 2 else (whole(frame), near(frame))[::-1]
        figures.append((decibels(a, b), decibels(a, truth), decibels(b, truth)))
    to_whole, near_score, whole_score = (_mean_decibels(column) for column in zip(*figures, strict=True))
    each = [b / a for a, b in zip(near.seconds, whole.seconds, strict=True)]
    return {
        "room": room,
        "clip": name,
        "size": "x".join(map(str, inputs[0].shape[1::-1])),
        "frames": count,
        "noise": levels if room == "restore" else 0,
        "tolerance": tolerance,
        "hit_rate": cache.statistics()["hit_rate"],
        "whole_frames": cache.statistics()["whole_frames"],
        "quicker_than_whole": sum(whole.seconds) / sum(near.seconds),
        "each_frame": spread(each),
        "db_to_whole_frames": to_whole,
        "psnr_whole": whole_score,
        "psnr_near": near_score,
        "loss_db": whole_score - near_score,
    }


def overhead(room: str, mode: str, side: int, rounds: int) -> dict[str, Any]:
    """Frames that have nothing in common: what a cache costs where it is of no use.

    Beside the ratio, which carries the noise of the machine, the share of a frame's time that is spent outside the
    network more than without a cache.
    """
    task = task_of(room)
    network: list[float] = []
    whole = task.model.forward if room == "restore" else task.model.render_window

    def timed(*inputs: Any, **named: Any) -> Any:
        start = time.process_time()
        result = whole(*inputs, **named)
        network[-1] += time.process_time() - start
        return result

    vars(task.model)["forward" if room == "restore" else "render_window"] = timed
    tiling = TILINGS["exact"]
    plain = {"tile": tiling.tile, "halo": tiling.halo} if mode == "exact" else {"tile": WHOLE}
    ways = {True: Way(room, task, TileCache(mode=mode)), False: Way(room, task, **plain)}  # type: ignore[arg-type]
    outside: dict[bool, list[float]] = {True: [], False: []}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        frame = rng.random((side, side, 3), dtype=np.float32)
        for cached, way in ways.items():
            network.append(0.0)
            way(frame)
            outside[cached].append(way.seconds[-1] - network[-1])
    each = statistics.median(ways[False].seconds)
    ratios = [a / b for a, b in zip(ways[True].seconds, ways[False].seconds, strict=True)]
    assert ways[True].cache is not None
    assert ways[True].cache.statistics()["hits"] == 0
    return {
        "room": room,
        "mode": mode,
        "size": f"{side}x{side}",
        "ratio": spread(ratios),
        "outside_percent": 100 * (statistics.median(outside[True]) - statistics.median(outside[False])) / each,
    }


def camera_clip(name: str, count: int) -> list[Pixels]:
    folder = Path(os.environ.get("LORGNETTE_DATA", "")) / "images" / "video" / name
    if not folder.is_dir():
        raise SystemExit(f"no clip in {folder}: LORGNETTE_DATA names the folder that has images/video")
    frames = [read_image(file).pixels for file in sorted(folder.glob("*.png"))[:count]]
    return [np.ascontiguousarray(frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2]) for frame in frames]


def halved(frame: Pixels) -> Pixels:
    small = imresize(torch.from_numpy(frame).permute(2, 0, 1), size=(frame.shape[0] // 2, frame.shape[1] // 2))
    return np.ascontiguousarray((small.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy() / np.float32(255))


def noisy(frame: Pixels, levels: float, rng: np.random.Generator) -> Pixels:
    return frame + rng.normal(0, levels / 255, frame.shape).astype(np.float32)


def _mean_decibels(values: Any) -> float:
    """Of the mean squared error."""
    return -10 * float(np.log10(np.mean([10 ** (-value / 10) for value in values])))


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--only", choices=("generated", "camera", "overhead"), help="unset: generated, overhead")
    arguments.add_argument("--room", choices=list(ROOMS))
    arguments.add_argument("--clip")
    arguments.add_argument("--frames", type=int, default=12)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--tolerance", type=float)
    arguments.add_argument("--noise", type=float, default=5.0, help="of camera clips for the denoiser, in levels")
    arguments.add_argument("--json", type=Path)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    rooms = [options.room] if options.room else list(ROOMS)
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)

    for room in rooms:
        for name in CLIPS if options.only in (None, "generated") else ():
            if options.clip in (None, name):
                add(generated(room, name, options.frames, options.rounds))
        for name in ("static_bikes", "moving_temple") if options.only == "camera" else ():
            if options.clip in (None, name):
                add(camera(room, name, options.frames, options.tolerance, options.noise))
        for mode in ("exact", "near") if options.only in (None, "overhead") else ():
            add(overhead(room, mode, 256, options.rounds))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
