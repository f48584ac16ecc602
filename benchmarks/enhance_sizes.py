"""What `lorgnette enhance` takes for pictures of growing size: processor time and peak memory, and a plot.

    python benchmarks/enhance_sizes.py PICTURE --megapixels 0.1 0.4 1 3 12 --json sizes.jsonl --plot sizes.png
    python benchmarks/enhance_sizes.py PICTURE --megapixels 6.25 --scales 4 --json sizes.jsonl        # 100 megapixels

PICTURE is repeated, mirrored, to the size of the input. Each run is a process of its own on one thread, start-up
included, with the network named by --adapter. Peak is that of its resident memory (Linux, macOS).
--plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lorgnette.common.text import table
from lorgnette.images.file import Image, read_image, write_image

THREADS = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "NUMBA")}


def picture_of(pixels: Any, megapixels: float) -> Any:
    """The picture mirrored to so many million pixels, a square."""
    height = width = round((megapixels * 1e6) ** 0.5)
    missing = [max(0, n - have) for n, have in zip((height, width), pixels.shape[:2], strict=True)]
    pixels = np.pad(pixels, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
    return np.ascontiguousarray(pixels[:height, :width])


def measured(pixels: Any, scale: float, adapter: str) -> dict[str, Any]:
    """One run of the command: processor seconds, and peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "in.png", Path(folder) / "out.png"
        write_image(given, Image(pixels))
        words = [sys.executable, "-m", "lorgnette", "enhance", str(given), str(out), "--scale", f"{scale:g}"]
        pid = os.posix_spawn(words[0], [*words, "--adapter", adapter], os.environ | THREADS)
        _, status, used = os.wait4(pid, 0)
        if status:
            raise SystemExit(f"enhance failed for {pixels.shape[1]} x {pixels.shape[0]} pixels to x{scale:g}")
        kilo = 1024 if sys.platform != "darwin" else 1
        size = read_image(out).pixels.shape[:2]
    return {
        "megapixels": pixels.shape[0] * pixels.shape[1] / 1e6,
        "scale": scale,
        "out_megapixels": size[0] * size[1] / 1e6,
        "seconds": used.ru_utime + used.ru_stime,
        "peak_MB": used.ru_maxrss * kilo / 2**20,
    }


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Seconds and memory by size, both axes logarithmic, beside a straight line through the origin."""
    import matplotlib  # pyright: ignore[reportMissingImports]

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # pyright: ignore[reportMissingImports]

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for scale in dict.fromkeys(line["scale"] for line in lines):
        of = sorted((x for x in lines if x["scale"] == scale), key=lambda x: x["megapixels"])
        sizes = [x["megapixels"] for x in of]
        (drawn,) = left.loglog(sizes, [x["seconds"] for x in of], "o-", label=f"x{scale:g}")
        slope = of[-1]["seconds"] / sizes[-1]
        left.loglog(sizes, [slope * size for size in sizes], ":", color=drawn.get_color())
        right.loglog(sizes, [x["peak_MB"] for x in of], "o-", label=f"x{scale:g}")
    for axis, name in ((left, "processor seconds (dotted: in proportion)"), (right, "peak memory, MB")):
        axis.set(xlabel="megapixels of the input", ylabel=name)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.1, 0.4, 1.0, 3.0, 12.0])
    parser.add_argument("--scales", type=float, nargs="+", default=[2.0, 4.0])
    parser.add_argument("--adapter", default="none")
    parser.add_argument("--json", type=Path, help="a line for each run; those there are not done again")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    options = parser.parse_args()
    kept = options.json
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []
    done = {(round(line["megapixels"], 2), line["scale"]) for line in lines}
    pixels = read_image(options.picture).pixels
    for megapixels, scale in tqdm([(m, s) for m in sorted(options.megapixels) for s in options.scales], unit="run"):
        given = picture_of(pixels, megapixels)
        if (round(given.shape[0] * given.shape[1] / 1e6, 2), scale) in done:
            continue
        lines.append(measured(given, scale, options.adapter))
        if kept:
            with kept.open("a") as file:
                print(json.dumps(lines[-1]), file=file)
    if options.plot:
        plot(lines, options.plot)
    lines.sort(key=lambda line: (line["scale"], line["megapixels"]))
    rows = [
        [
            f"x{line['scale']:g}",
            f"{line['megapixels']:.2f}",
            f"{line['out_megapixels']:.1f}",
            f"{line['seconds']:.1f}",
            f"{line['seconds'] / line['megapixels']:.1f}",
            f"{line['peak_MB']:.0f}",
        ]
        for line in lines
    ]
    print(table(["scale", "megapixels", "made", "processor s", "s a megapixel", "peak MB"], rows, left=1))


if __name__ == "__main__":
    main()
