"""Pictures of the server's page for the documentation, made in headless Chromium.

    python tools/page_pictures.py          # into docs/images

Needs `lorgnette[browser,demo,mesh]`, and chromium and chromedriver on the machine. The photograph is scikit-image's,
the organs are drawn.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

ROOT = Path(__file__).parents[1]
QUALITY = 82
"""Of the JPEG files."""


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.web.browser import chromium
    from tests.web.test_page import Page
    from tests.web.test_tabs import drop, tab

    images = ROOT / "docs" / "images"
    words = [sys.executable, "-m", "lorgnette", "serve", "--port", "0"]
    with tempfile.TemporaryDirectory() as name, subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        folder = Path(name)
        try:
            assert server.stdout is not None
            match = re.search(r"answers at (http://\S+),", server.stdout.readline())
            assert match
            (folder / "downloads").mkdir()
            with chromium(folder / "downloads") as browser:
                page = Page(browser, match[1], folder / "downloads")
                page.drop(photograph(folder / "astronaut.png"))
                page.put("#scale", "3.3")
                page.one("#go").click()
                page.until(lambda: "Done" in page.status())
                keep(page, images / "serve-pictures.jpg")
                tab(page, "Meshes")
                drop(page, "#mask", organs(folder / "organs.nii.gz"))
                page.one("#mesh-go").click()
                page.until(lambda: page.all("#mesh-view iframe"))
                keep(page, images / "serve-meshes.jpg")
        finally:
            server.terminate()


def photograph(path: Path) -> Path:
    """A small face, as a web page would have it."""
    from skimage import data

    face = PIL.Image.fromarray(data.astronaut()[0:260, 90:350])
    face.resize((130, 130), PIL.Image.Resampling.BICUBIC).save(path)
    return path


def organs(path: Path) -> Path:
    """A mask of three ellipsoids."""
    import nibabel

    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (70, 60, 50)), indexing="ij"), -1).astype(float)
    values = np.zeros(grid.shape[:3], np.uint8)
    for label, (centre, radii) in enumerate(
        (((24, 30, 26), (17, 20, 15)), ((50, 24, 30), (9, 9, 14)), ((49, 44, 20), (8, 7, 9))), 1
    ):
        values[(((grid - centre) / radii) ** 2).sum(-1) < 1] = label
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 2.5, 1.0])), path)  # type: ignore[attr-defined]
    return path


def keep(page: Any, path: Path) -> None:
    """What the window shows."""
    time.sleep(2)  # pictures that are still on their way
    shot = PIL.Image.open(io.BytesIO(page.browser.get_screenshot_as_png()))
    shot.convert("RGB").save(path, quality=QUALITY, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
