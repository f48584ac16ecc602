"""What people use instead: which programs there are, and what they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorgnette.images.resize import imresize
from lorgnette.peers import enlarging, restoring
from lorgnette.peers.enlarging import enlarging_methods, stepped
from lorgnette.peers.installed import chosen, installed
from lorgnette.peers.ncnn_nets import padded
from lorgnette.peers.restoring import noise_level, non_local_means, restoring_methods
from lorgnette.peers.tensors import to_pixels, to_tensor

WAVES = np.float32(np.sin(np.indices((24, 20, 3)).sum(0) / 4) / 2 + 0.5)


def test_only_installed_programs_are_offered(monkeypatch: pytest.MonkeyPatch):
    assert installed("numpy", "torch")
    assert not installed("numpy", "no_such_package")
    for module in (enlarging, restoring):
        monkeypatch.setattr(module, "installed", lambda *packages: False)
    assert list(enlarging_methods()) == ["Lanczos"]
    assert list(restoring_methods()) == ["non-local means"]


def test_a_program_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ValueError, match=r"peers: 'lanczos' is not known.*did you mean 'Lanczos'.*Lanczos can be had"):
        chosen({"Lanczos": 1}, ["lanczos"])
    assert chosen({"a": 1, "b": 2}, ["b"]) == {"b": 2}
    assert chosen({"a": 1, "b": 2}, []) == {"a": 1, "b": 2}


@pytest.mark.parametrize(("scale", "factor"), [(2, 2), (2.5, 3), (3, 3), (3.3, 4), (4, 4), (6, 4), (8, 4)])
def test_a_network_of_fixed_factors_takes_the_next_larger_one_and_then_bicubic(scale: float, factor: int):
    asked = []

    def network(picture, by):
        asked.append(by)
        return picture.repeat(by, 0).repeat(by, 1)

    large = stepped(network, (2, 3, 4), WAVES, scale)
    assert asked == [factor]
    assert large.shape == (round(24 * scale), round(20 * scale), 3)
    repeated = WAVES.repeat(factor, 0).repeat(factor, 1)
    resized = to_pixels(imresize(to_tensor(repeated), size=large.shape[:2]).clamp(0, 1))
    expected = repeated if scale == factor else resized
    np.testing.assert_array_equal(large, expected)


def test_pictures_of_one_and_three_channels_come_back_as_they_went():
    colour = to_tensor(WAVES)
    assert colour.shape == (1, 3, 24, 20)
    np.testing.assert_array_equal(to_pixels(colour), WAVES)
    grey = colour[:, 1:2]
    assert torch.equal(to_tensor(to_pixels(grey), channels=1), grey)


def test_a_method_enlarges_a_batch_of_grey_to_the_size_of_the_truth():
    truth = to_tensor(WAVES)[:, :1]
    batch = {"lq": imresize(truth, size=(12, 10)), "gt": truth}
    made = enlarging_methods(["Lanczos"])["Lanczos"](batch)
    assert made.shape == truth.shape
    assert (made - truth).abs().mean() < 0.02


@pytest.mark.parametrize(("pad", "multiple", "factor", "lost"), [(7, 1, 2, 0), (10, 1, 3, 10), (28, 4, 1, 0)])
def test_the_frame_that_a_network_loses_is_put_around_and_taken_off(pad: int, multiple: int, factor: int, lost: int):
    """A network that cuts `pad - lost` pixels off, enlarges, and leaves all else alone, gives the picture back."""

    def network(framed):
        assert not any(n % multiple for n in framed.shape[:2])
        cut = pad - lost
        inner = framed[cut : framed.shape[0] - cut, cut : framed.shape[1] - cut]
        return inner.repeat(factor, 0).repeat(factor, 1)

    expected = WAVES.repeat(factor, 0).repeat(factor, 1)
    np.testing.assert_array_equal(padded(network, WAVES, pad, multiple, factor, lost), expected)


def test_noise_is_measured_and_taken_off():
    rng = np.random.default_rng(0)
    plain = np.full((64, 64, 3), 0.5, np.float32)
    noisy = (plain + rng.normal(0, 0.06, plain.shape)).astype(np.float32)
    assert noise_level(plain) < 1e-3
    assert 0.054 < noise_level(noisy) < 0.066
    assert np.abs(non_local_means(noisy) - plain).mean() < 0.4 * np.abs(noisy - plain).mean()
    batch = {"lq": to_tensor(noisy), "gt": to_tensor(plain)}
    made = restoring_methods(["non-local means"])["non-local means"](batch)
    np.testing.assert_array_equal(to_pixels(made), non_local_means(to_pixels(batch["lq"])))
