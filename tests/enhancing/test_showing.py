"""Pictures of many kinds, before and after."""

from __future__ import annotations

import numpy as np
import pytest

from lorgnette.enhancing.showing import KINDS, SIDE, made_worse, shown
from lorgnette.shipped import load_shipped

pytest.importorskip("skimage")


@pytest.mark.parametrize("name", ["scan", "camera noise", "screenshot"])
def test_what_is_given_is_a_worse_form_of_the_truth(name: str):
    scale = 2 if KINDS[name].room == "superres" else 1
    given, truth = made_worse(KINDS[name], 0, scale)
    assert given.shape == (SIDE // scale, SIDE // scale, 3)
    assert truth.shape == (SIDE, SIDE, 3)
    enlarged = given.repeat(scale, 0).repeat(scale, 1)
    assert 0.003 < np.abs(enlarged - truth).mean() < 0.2
    again, _ = made_worse(KINDS[name], 0, scale)
    assert np.array_equal(again, given)
    other, _ = made_worse(KINDS[name], 1, scale)
    assert not np.array_equal(other, given)


def test_pictures_and_scores_belong_together():
    from lorgnette.images.metrics import psnr
    from lorgnette.images.patches import channels_first

    (one,) = shown(["pixel art"])
    assert list(one.pictures) == ["given", "base", "chosen by looking", "truth"]
    assert one.choice == "art"
    assert one.chosen > one.scores["given"] + 10
    for name, score in one.scores.items():
        a, b = (channels_first(one.pictures[key].astype(np.float32) / 255) for key in (name, "truth"))
        assert psnr(a, b, luma=False, quantise=True) == pytest.approx(score, abs=0.02)
    assert load_shipped("superres", one.choice)
