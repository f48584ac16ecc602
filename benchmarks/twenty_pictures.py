"""Pictures of many kinds through `lorgnette enhance` as a user calls it: what it says, what it gains, what it takes.

    python benchmarks/twenty_pictures.py                         # both rooms, a quarter of an hour
    python benchmarks/twenty_pictures.py --only fax icon --keep pictures
    python benchmarks/twenty_pictures.py --sound BSDS500/test    # how often restore acts on photographs made small
    python benchmarks/twenty_pictures.py --large                 # and 12 megapixels and a panorama

Gains are in dB of PSNR in RGB of the files as written: over bicubic (x2), over the picture as it was (restore).
Needs `lorgnette[demo]`; Matplotlib for its plot.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from parts import own_pictures as own
from parts.own_kinds import KINDS, LARGE
from parts.own_pictures import Maker, Pixels

from lorgnette.common.lazy import needed
from lorgnette.common.text import table
from lorgnette.images import read_image
from lorgnette.images.file import Image
from lorgnette.images.folders import find_images
from lorgnette.images.formats.table import WRITABLE
from lorgnette.images.resize import imresize
from lorgnette.shipped import Chooser

ROOMS = ("superres", "restore")


class Run(NamedTuple):
    """What one command did."""

    status: int
    said: list[str]
    seconds: float
    megabytes: float


def enhance(source: Path, target: Path, room: str) -> Run:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "lorgnette", "enhance", str(source), str(target), "--room", room, "--overwrite"]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    words = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    said = [line.replace(f"{source}: ", "").replace(f"{target}: ", "") for line in words.splitlines()]
    said = [line.removeprefix("lorgnette: ") for line in said if line != str(target)]
    return Run(os.waitstatus_to_exitcode(status), said, time.monotonic() - start, used.ru_maxrss / 1024)


def gain(source: Path, target: Path, truth: Pixels | None) -> float | None:
    """dB of the result over bicubic, or over the picture itself."""
    if truth is None or not target.exists():
        return None
    before, after = opened(source), opened(target)
    if after.pixels.shape != truth.shape:
        raise ValueError(f"{target}: {after.pixels.shape} is not the size of the truth, {truth.shape}")
    plain = imresize(np.ascontiguousarray(before.pixels.transpose(2, 0, 1)), size=truth.shape[:2]).transpose(1, 2, 0)
    peak = float(truth.max()) if before.bits > 8 else 1
    return decibels(after.pixels, truth, peak) - decibels(plain, truth, peak)


def opened(file: Path) -> Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_image(file, any_range=True)


def decibels(pixels: Pixels, truth: Pixels, peak: float) -> float:
    error = float(((pixels.clip(0, 1) - truth).astype(np.float64) ** 2).mean()) / peak**2
    return -10 * float(np.log10(max(error, 1e-6)))  # a picture of 8 bits has an error of its own of about 1e-6


def acted_on_sound(folder: Path) -> None:
    """How many sound photographs, made small, restore does something to: every second one of a folder."""
    chooser, rows = Chooser("restore", "cpu"), []
    photos = [own.picture(read_image(file).pixels) for file in find_images(folder)[::2]]
    for side in (90, 160, 240):
        found = []
        for quality in (None, 92):
            acted = 0
            for photo in photos:
                share = side / max(photo.size)
                size = (round(photo.width * share), round(photo.height * share))
                small = own.floats(photo.resize(size, PIL.Image.Resampling.BICUBIC))
                acted += chooser.choose(small if quality is None else own.jpeg(small, quality)).network is not None
            found.append(f"{acted} of {len(photos)}")
        rows.append([str(side), *found])
    print(table(["longer side", "as PNG", "as JPEG 92"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="KIND", help="words of their names")
    parser.add_argument("--sound", type=Path, metavar="FOLDER")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--photos", type=Path, help="a folder with NAME.png in place of scikit-image's photographs")
    parser.add_argument("--rooms", nargs="*", choices=ROOMS, default=ROOMS)
    parser.add_argument("--keep", type=Path, help="where the pictures stay")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.sound:
        return acted_on_sound(options.sound)
    kinds = KINDS | (LARGE if options.large else {})
    if options.only:
        kinds = {name: make for name, make in kinds.items() if any(word in name for word in options.only)}

    def photo(name: str) -> Pixels:
        if options.photos:
            return read_image(options.photos / f"{name}.png").pixels
        data = needed("skimage.data", "'lorgnette[demo]'", "photographs")
        found = data.stereo_motorcycle()[0] if name == "motorcycle_left" else getattr(data, name)()
        return np.asarray(found, np.float32)[..., :3] / 255

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, make in kinds.items():
            folder = (options.keep or Path(scratch)) / name.replace(" ", "-").replace(",", "")
            folder.mkdir(parents=True, exist_ok=True)
            try:
                given = make(Maker(folder, photo))
            except ValueError as error:
                print(f"{name}: left out: {error}")
                continue
            suffix = given.file.suffix if given.file.suffix in WRITABLE else ".png"
            for room in options.rooms:
                target = folder / f"{room}{suffix}"
                run = enhance(given.file, target, room)
                truth = given.large if room == "superres" else given.same
                better = gain(given.file, target, truth)
                rows.append({"kind": name, "room": room, "gain": better, **run._asdict()})
                print(*shown(rows[-1]), sep=" | ", flush=True)
    print(table(["kind", "room", "said", "gain", "s", "MB"], [shown(row) for row in rows]))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def shown(row: dict[str, Any]) -> list[str]:
    better = "-" if row["gain"] is None else f"{row['gain']:+.2f}"
    said = "; ".join(row["said"]) + (f" (status {row['status']})" if row["status"] else "")
    return [row["kind"], row["room"], said, better, f"{row['seconds']:.1f}", f"{row['megabytes']:.0f}"]


if __name__ == "__main__":
    main()
