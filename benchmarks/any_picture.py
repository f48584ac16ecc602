"""Pictures of many kinds beside what `lorgnette enhance` makes of them without being told anything: a grid, and PSNR.

    python benchmarks/any_picture.py --out docs/images/any-picture.jpg

Photographs are those of scikit-image, screens and drawings are drawn; nothing was learnt from any of them. Needs
`lorgnette[demo,drawn]`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lorgnette.common.text import table
from lorgnette.enhancing.showing import shown
from lorgnette.images import write_image
from lorgnette.images.file import Image
from lorgnette.report.grid import labelled_grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the grid goes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = list(shown(seed=options.seed))
    lines = [[one.kind, *(f"{value:.2f}" for value in one.scores.values()), one.choice] for one in found]
    print(table(["PSNR in RGB", *found[0].scores, "which"], lines))
    if options.out:
        write_image(options.out, Image(labelled_grid([one.pictures for one in found])), quality=90)


if __name__ == "__main__":
    main()
