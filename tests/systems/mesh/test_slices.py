"""From a few slices to the whole organ: baselines, wrong input, what the network sees, and what it reaches."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as hypothesis_given, settings, strategies as st
from tests.systems.mesh.shapes import EXAMPLE, ball, needs_data

from lorgnette import fit
from lorgnette.shipped import load_shipped
from lorgnette.systems import mesh
from lorgnette.systems.mesh.metrics import overlap_scores
from lorgnette.systems.mesh.slices import (
    Completer,
    Completing,
    Examples,
    Given,
    complete,
    cut,
    given_slices,
    load_completer,
    sample_from_slices,
    source_of,
)
from lorgnette.systems.mesh.slices.between import ends, interpolated
from lorgnette.systems.mesh.slices.inputs import CELLS, CHANNELS, box_around, inputs
from lorgnette.systems.mesh.slices.network import parts, whole
from lorgnette.systems.mesh.slices.predict import completed
from lorgnette.systems.mesh.slices.weights import SHIPPED
from lorgnette.systems.mesh.volumes import read_image, read_labels
from lorgnette.train.batches import Draw
from lorgnette.train.config import TrainConfig

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return overlap_scores(one, other)["dice"]


def cylinder() -> np.ndarray:
    """26 slices, from 6 on, of a disc."""
    grid = np.indices((30, 28, 40))
    return ((grid[0] - 14) ** 2 + (grid[1] - 13) ** 2 < 81) & (grid[2] >= 6) & (grid[2] < 32)


def ellipsoid(half: tuple[float, float, float], side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """(scan, mask): brighter than what is around it, with noise."""
    inside = (((np.indices((side,) * 3) - (side - 1) / 2) / np.reshape(half, (3, 1, 1, 1))) ** 2).sum(0) < 1
    return np.where(inside, 120.0, -60.0) + np.random.default_rng(0).normal(0, 15, inside.shape), inside


def test_a_cylinder_is_extruded_exactly():
    mask = cylinder()
    slices = {number: mask[:, :, number] for number in (12, 25)}
    assert np.array_equal(complete(mask * 1.0, slices, AFFINE, method="extrude"), mask)
    off = {number: mask[:, :, number] for number in (11, 25)}
    assert not np.array_equal(complete(mask * 1.0, off, AFFINE, method="extrude"), mask)


@pytest.mark.parametrize("method", ["extrude", "interpolate"])
def test_empty_slices_end_a_cylinder(method: Any):
    mask = cylinder()
    slices = {number: mask[:, :, number] for number in (5, 6, 20, 31, 32)}
    assert np.array_equal(complete(mask * 1.0, slices, AFFINE, method=method), mask)


def test_a_ball_is_interpolated():
    mask = ball(11, (14.5, 14.5, 20), 40)
    scan, affine = np.zeros(mask.shape), np.eye(4)
    found = {
        count: complete(scan, {n: mask[:, :, n] for n in numbers}, affine, method="interpolate")
        for count, numbers in {1: [20], 5: [11, 16, 20, 24, 29], 11: range(10, 31, 2)}.items()
    }
    assert [dice(found[count], mask) for count in found] == pytest.approx([0.97, 0.95, 0.98], abs=0.015)
    assert np.array_equal(found[1][:, :, 1:], found[1][:, :, :0:-1])


def test_between_two_discs_the_radius_is_between_theirs():
    grid = np.indices((40, 40)) - 19.5
    radius = np.hypot(*grid)
    slices = Given(
        np.zeros((40, 40, 20)), np.array([1.0, 1, 2]), np.stack([radius < 4, radius < 12]), np.array([3, 11])
    )
    found = interpolated(slices, np.array([6.0, 10, 14, 22])) < 0
    assert np.sqrt(found.sum((0, 1)) / np.pi) == pytest.approx([4, 6, 8, 12], abs=0.3)
    assert ends(slices) == (6.0 - 8, 22.0 + 8)


@settings(max_examples=10, deadline=None)
@hypothesis_given(
    half=st.tuples(*[st.floats(4, 9)] * 3),
    axis=st.sampled_from([0, 1, 2]),
    numbers=st.sets(st.integers(7, 16), min_size=1, max_size=4),
    method=st.sampled_from(["network", "interpolate", "extrude"]),
)
def test_given_slices_stay(half: tuple[float, float, float], axis: int, numbers: set[int], method: Any):
    scan, mask = ellipsoid(half, 24)
    volume = np.zeros_like(mask)
    some = [n for n in numbers if mask.take(n, axis).any()] or [11]
    index = (slice(None),) * axis + (some,)
    volume[index] = mask[index]
    affine = np.diag([*np.insert([1.0, 1.5], axis, 2.0), 1])
    torch.manual_seed(0)
    network = Completer()
    found = complete(scan, volume, affine, axis, method, network)
    assert found.shape == mask.shape
    assert np.array_equal(found[index], mask[index])


def test_mirrored_slices_give_the_mirror_image():
    rng = np.random.default_rng(0)
    sections = np.stack([np.pad(rng.random((6, 8)) < 0.7, 4) for _ in range(3)])
    slices = Given(np.zeros((14, 16, 20)), np.array([1.0, 1.5, 2]), sections, np.array([4, 7, 13]))
    mirrored = Given(slices.scan, slices.spacing, sections[::-1], np.array([6, 12, 15]))
    at = np.arange(20) * 2.0
    assert np.allclose(interpolated(mirrored, at), interpolated(slices, at)[:, :, ::-1])


def test_the_axis_of_a_volume_is_the_one_with_the_fewest_slices():
    mask = cylinder()
    for axis in range(3):
        volume = np.zeros_like(mask)
        index = (slice(None),) * axis + ([13, 15],)
        volume[index] = mask[index]
        given, found = given_slices(mask * 1.0, volume, AFFINE)
        assert found == axis
        assert given.numbers.tolist() == [13, 15]
        assert given.spacing.tolist() == [*np.delete([2, 2, 3], axis), (2, 2, 3)[axis]]


MASK = cylinder()
SECTION = MASK[:, :, 20]
WRONG = {
    "slices: the organ is marked on none; one slice or more are needed": {"slices": np.zeros(MASK.shape)},
    "slices: they hold the labels 1, 2; one organ is completed at a time": {"slices": {3: SECTION * 1, 9: SECTION * 2}},
    "slices: a volume of (30, 28, 39) voxels is on another grid than": {"slices": MASK[:, :, 1:]},
    "slices: 40 lies outside the scan, which has 0 to 39 along axis 2": {"slices": {40: SECTION}},
    "slices: -1 lies outside the scan": {"slices": {-1: SECTION}},
    "slices: the mask of slice 20 has shape (28, 30), the scan's slices (30, 28)": {"slices": {20: SECTION.T}},
    "axis: 3 is not known; 0, 1 and 2 are": {"axis": 3},
    "method: 'net' is not known": {"method": "net"},
    "scan: 4 dimensions of float64; three of numbers work": {"scan": np.zeros((3, 3, 3, 3))},
    "scan: some of its voxels are no numbers": {"scan": np.where(MASK, np.nan, 1.0)},
    "affine: singular or not finite": {"affine": np.diag([1.0, 1, np.nan, 1])},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_input_is_told_in_one_line(message: str):
    right: dict[str, Any] = {"scan": MASK * 1.0, "slices": {20: SECTION}, "affine": AFFINE, "method": "extrude"}
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        complete(**(right | WRONG[message]))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_parts_and_whole_are_each_other_s_inverse():
    x = torch.randn(2, 3, 4, 6, 8)
    assert torch.equal(whole(parts(x)), x)
    assert torch.equal(parts(x)[0, 8 + 1 * 4 + 0 * 2 + 1, 1, 2, 3], x[0, 1, 3, 4, 7])


def test_the_unit_of_the_scan_and_what_lies_far_away_do_not_matter():
    scan, mask = ellipsoid((9, 8, 12))
    given = cut(scan, mask, np.array([1.0, 1, 2]), 3)
    assert given is not None
    seen = inputs(given, box_around(given))
    assert seen.shape == (CHANNELS, CELLS, CELLS, CELLS)
    assert np.abs(seen).max() <= 1
    far = scan * 7 + 1000
    far[0], far[:, -1] = 9e9, -9e9
    again = cut(far, mask, np.array([1.0, 1, 2]), 3)
    assert again is not None
    assert np.allclose(inputs(again, box_around(again)), seen, atol=1e-4)


def test_the_scan_shows_how_far_an_organ_goes():
    scan, mask = ellipsoid((8, 8, 19))
    slices = {24: mask[:, :, 24]}
    found = {m: dice(complete(scan, slices, np.eye(4), method=m), mask) for m in ("network", "interpolate", "extrude")}  # type: ignore[arg-type]
    assert found["network"] > 0.85
    assert found["network"] > max(found["interpolate"], found["extrude"]) + 0.1


def test_examples_depend_on_their_draw_alone_and_are_learnt_from():
    scan, mask = ellipsoid((9, 7, 12), 40)
    data = Examples([source_of("organ", scan, mask, np.array([1.0, 1, 1]))])
    one, again, other = (data[Draw(0, step, 0, 0)] for step in (3, 3, 4))
    assert np.array_equal(one[0][0], again[0][0])
    assert not np.array_equal(one[0][0], other[0][0])
    assert all(0.02 < share.mean() < 0.6 for item in (one, other) for _, share in item)
    torch.manual_seed(0)
    task, batch = Completing(Completer()), Examples.collate([one, other])
    before = task(batch)["loss"].item()
    fit(task, [batch], TrainConfig(steps=8, lr=5e-3, warmup_steps=0, device="cpu"))
    assert task(batch)["loss"].item() < 0.8 * before


def test_the_decoder_reads_the_network_s_latents():
    scan, mask = ellipsoid((10, 9, 12), 36)
    given = cut(scan, mask, np.array([2.0, 2, 2]), 3)
    assert given is not None
    task = load_shipped("mesh")
    assert isinstance(task, mesh.MeshDecoding)
    sample = sample_from_slices(given, np.diag([2.0, 2, 2, 1]), load_completer(), task.data.resolution)
    assert np.abs(sample.feats).max() <= 1
    found = mesh.decode_sample(task, sample)
    assert found.watertight
    assert found.volume == pytest.approx(mask.sum() * 8, rel=0.15)
    learnt = sample_from_slices(given, np.diag([2.0, 2, 2, 1]), load_completer(), 16, np.roll(mask, 2, 0))
    assert np.array_equal(learnt.coords, sample.coords)
    assert not np.array_equal(learnt.distances, sample.distances)


def test_the_card_says_what_ships():
    size = (SHIPPED / "model.safetensors").stat().st_size
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert size < 1_000_000
    assert f"{size:,} bytes" in card
    assert f"{sum(p.numel() for p in Completer().parameters()):,} parameters" in card


@needs_data
@pytest.mark.parametrize(("organ", "least"), [("kidney_left", 0.86), ("kidney_right", 0.86), ("liver", 0.86)])
def test_three_slices_of_an_organ_that_was_not_learnt_from(organ: str, least: float):
    labels = read_labels(EXAMPLE / "example_seg_fast_force_split.nii.gz", only=[organ])
    scan, mask = read_image(EXAMPLE / "example_ct.nii.gz").values, labels.whole(labels.organs[0])
    given = cut(scan, mask, labels.spacing, 3)
    assert given is not None
    found = {m: dice(completed(given, m), mask) for m in ("network", "interpolate", "extrude")}  # type: ignore[arg-type]
    assert found["network"] >= least
    assert found["network"] > max(found["interpolate"], found["extrude"])


@needs_data
@pytest.mark.slow
def test_an_adapter_of_one_kidney_helps_the_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    monkeypatch.setenv("LORGNETTE_DATA", str(EXAMPLE.parents[2]))
    benchmark = importlib.import_module("slice_to_organ")
    organs = benchmark.organs()
    left, right = organs["kidney_left"], organs["kidney_right"]
    before = left.dice(completed(left.some(3)))
    made = benchmark.adapted(load_completer(), source_of("right", right.scan, right.mask, right.spacing), 60)
    assert made["share"] < 0.005
    assert left.dice(completed(left.some(3), "network", made["network"])) > before + 0.003
