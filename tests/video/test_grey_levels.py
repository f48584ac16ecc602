"""Grey frames of limited range: 16 is black and 235 white, at every depth."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lorgnette.video.clip import Clip, Colour
from lorgnette.video.pixels import FULL, LIMITED, _to_rgb, to_image


@pytest.mark.parametrize("bits", [8, 10])
def test_full_range_means_every_level_in_colour_too(bits: int):
    """ITU-T H.273: R is Y + 1.402 Cr of BT.601, both in steps of 2^bits - 1, Cr around 2^(bits - 1)."""
    most, middle = 2**bits - 1, 2 ** (bits - 1)
    to_rgb = _to_rgb(Colour(range=FULL, matrix=6), (240, 320), bits)
    assert to_rgb @ [most, middle, middle, 1] == pytest.approx([1, 1, 1], abs=1e-6)
    red = (100 + 1.402 * (most - middle)) / most
    assert (to_rgb @ [100, middle, most, 1])[0] == pytest.approx(red, abs=1e-6)


@pytest.mark.parametrize(("bits", "name", "dtype"), [(8, "gray8", np.uint8), (10, "gray10le", np.uint16)])
def test_black_and_white_of_limited_range(bits: int, name: str, dtype: type):
    step = 2 ** (bits - 8)
    levels = np.repeat(np.array([16, 125.5, 235]) * step, 16)[None].repeat(16, 0).astype(dtype)
    frame = av.VideoFrame(48, 16, name)
    plane = frame.planes[0]
    rows = np.zeros((16, plane.line_size // levels.itemsize), dtype)
    rows[:, :48] = levels
    plane.update(rows.tobytes())
    clip = Clip(Path(), (16, 48), 1, Fraction(1, 25), Fraction(25), bits=bits, grey=True)
    limited = to_image(frame, Colour(range=LIMITED), clip).pixels
    assert limited[0, 8] == pytest.approx([0, 0, 0], abs=2e-3)
    assert limited[0, 24] == pytest.approx([0.5] * 3, abs=4e-3)
    assert limited[0, 40] == pytest.approx([1, 1, 1], abs=2e-3)
    full = to_image(frame, Colour(range=FULL), clip).pixels
    assert full[0, 8] == pytest.approx([16 * step / (2**bits - 1)] * 3, abs=2e-3)
