"""What the tests of the commands share."""

from __future__ import annotations

import numpy as np
import PIL.Image

# A network that trains in seconds. Its last layer starts at zero: it has to be trained with the adapter.
TINY = [
    *(
        "--model.encoder",
        "edsr-tiny",
        "--model.base",
        "none",
        "--train.device",
        "cpu",
        "--train.batch_size",
        "2",
    ),
    *("--data.patch", "12", "--data.points", "64", "--data.test_crop", "48", "--data.test_scales", "2"),
    *("--lora.modules_to_save", "imnet"),
]


def picture(side: int, seed: int) -> PIL.Image.Image:
    """Smooth colours with some edges."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((side, side), PIL.Image.Resampling.BICUBIC)).copy()
    pixels[side // 3 : side // 2] //= 2
    return PIL.Image.fromarray(pixels)
