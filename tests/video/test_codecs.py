"""What encoders are told."""

from __future__ import annotations

import pytest

from lorgnette.video.clip import Colour
from lorgnette.video.codecs import ENCODERS, Encoding

WORST = {"libx264": 51, "libx265": 51, "libsvtav1": 63, "libaom-av1": 63, "libvpx-vp9": 63}
"""The largest crf that FFmpeg takes of each; 0 is the least."""


@pytest.mark.parametrize("encoder", sorted({name for names in ENCODERS.values() for name in names}))
def test_each_quality_is_one_that_the_encoder_takes(encoder: str):
    told = [Encoding("", encoder, "yuv420p", quality, (8, 8), Colour()).options for quality in range(1, 101)]
    numbers = [int(options["crf"]) for options in told if "crf" in options]
    assert bool(numbers) == (encoder in WORST)
    if numbers:
        assert numbers == sorted(numbers, reverse=True), "a higher quality is never worse"
        assert numbers[0] <= WORST[encoder]
        assert numbers[0] > numbers[-1] + 30
        assert numbers[-1] >= 0
