"""A picture encoded once: at every scale, and in parts, it is what `enhance` makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.systems.superres.test_predict import picture, task as task  # a fixture

from lorgnette.systems.superres import Encoded, SuperResolution, enhance
from lorgnette.systems.superres.decoders import LIIF, LMLIIF, LTE
from lorgnette.systems.superres.encoders import EDSR


@pytest.mark.parametrize("wanted", [{}, {"scale": 3.3}, {"scale": (1.0, 4.7)}, {"size": (57, 300)}])
def test_at_every_scale_it_is_what_enhance_gives(wanted: dict[str, Any], task: SuperResolution):
    image = picture(57, 83, alpha=np.linspace(0, 1, 57 * 83, dtype=np.float32).reshape(57, 83))
    found, whole = Encoded(task, image, tile=20).at(**wanted), enhance(task, image, **wanted)
    assert np.abs(found.pixels - whole.pixels).max() < 1e-4
    assert np.array_equal(found.alpha, whole.alpha)
    assert found.about == whole.about


@pytest.mark.parametrize("decoder", [LIIF, LMLIIF, LTE])
def test_of_every_decoder(decoder: Any):
    torch.manual_seed(0)
    task = SuperResolution(decoder(EDSR(1, 8)).eval())
    image = picture(30, 41)
    found, whole = Encoded(task, image, tile=13).at(scale=2.5), enhance(task, image, scale=2.5)
    assert np.abs(found.pixels - whole.pixels).max() < 1e-4


@pytest.mark.parametrize("region", [(0, 0, 57, 83), (10, 31, 7, 22), (56, 82, 1, 1), (0, 60, 57, 23)])
def test_a_part_is_the_part_of_the_whole(region: tuple[int, int, int, int], task: SuperResolution):
    encoded = Encoded(task, picture(57, 83), tile=24)
    top, left, height, width = region
    whole, part = encoded.at(scale=3.3).pixels, encoded.at(scale=3.3, region=region).pixels
    h, w = whole.shape[:2]
    rows = slice(round(top * h / 57), round((top + height) * h / 57))
    columns = slice(round(left * w / 83), round((left + width) * w / 83))
    assert part.shape == whole[rows, columns].shape
    assert np.abs(part - whole[rows, columns]).max() < 1e-5


def test_it_encodes_once(task: SuperResolution):
    seen: list[int] = []
    handle = task.model.encoder.register_forward_hook(lambda *_: seen.append(1))
    try:
        encoded = Encoded(task, picture(20, 20))
        for scale in (2, 3.3, 8):
            encoded.at(scale=scale)
    finally:
        handle.remove()
    assert seen == [1]


def test_what_does_not_work_is_said(task: SuperResolution):
    image = picture(20, 30)
    with pytest.raises(ValueError, match=r"^max_bytes: the features of 30x20 pixels take 19.2 kB"):
        Encoded(task, image, max_bytes=10_000)
    encoded = Encoded(task, image)
    with pytest.raises(ValueError, match=r"^scale: 15x10 is smaller than the picture"):
        encoded.at(scale=0.5)
    for region in [(0, 0, 21, 30), (-1, 0, 5, 5), (5, 5, 0, 3)]:
        with pytest.raises(ValueError, match=r"^region: .* is not within the 20 rows and 30 columns"):
            encoded.at(region=region)
    with torch.no_grad():
        task.model.coef.bias.add_(1)
    try:
        with pytest.raises(ValueError, match="the network has changed"):
            encoded.at(scale=2)
    finally:
        with torch.no_grad():
            task.model.coef.bias.sub_(1)
