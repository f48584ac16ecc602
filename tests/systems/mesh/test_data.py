"""Organs of volumes: found, computed once, held out by case; and what is wrong with them is said."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.systems.mesh.volumes import AFFINE, ellipsoid, write, write_case, write_cases
from torch.utils.data import DataLoader

from lorgnette.cli import main
from lorgnette.common.parts import LeftOut
from lorgnette.federate.run import federate
from lorgnette.federate.settings import FederateConfig
from lorgnette.images.folders import PassedOver
from lorgnette.systems import mesh
from lorgnette.systems.mesh.cases import find_cases, organs_of
from lorgnette.systems.mesh.samples import MARGIN, make_sample, world
from lorgnette.train.config import TrainConfig

SMALL = {"resolution": 4, "min_voxels": 100}
pytestmark = pytest.mark.filterwarnings("ignore::lorgnette.images.folders.PassedOver")


def test_a_folder_of_totalsegmentator_needs_no_settings(tmp_path: Path):
    root = write_cases(tmp_path, 3)
    cases = find_cases(root)
    assert [(case.name, case.split) for case in cases] == [("s0000", "test"), ("s0001", "train"), ("s0002", "train")]
    with pytest.warns(PassedOver, match=r"s0000: 1 of 3 masks are empty"):
        organs = organs_of(root, mesh.Data(**SMALL))
    assert [(o.case, o.organ) for o in organs] == [(f"s000{n}", name) for n in range(3) for name in ("liver", "spleen")]


def test_what_was_computed_is_kept_until_its_source_changes(tmp_path: Path):
    root, settings = write_cases(tmp_path / "root", 2), mesh.Data(**SMALL, cache=str(tmp_path / "kept"))
    first = organs_of(root, settings)
    times = {o.file: Path(o.file).stat().st_mtime_ns for o in first}
    assert all(Path(file).is_relative_to(tmp_path / "kept") for file in times)
    again = organs_of(root, settings)
    assert {o.file: Path(o.file).stat().st_mtime_ns for o in again} == times
    other = organs_of(root, replace(settings, resolution=5))
    assert not times.keys() & {o.file for o in other}
    write(root / "s0001" / "segmentations" / "spleen.nii.gz", ellipsoid(9)[1])
    changed = organs_of(root, settings)
    assert [o.file in times for o in changed] == [True, True, False, False]


def test_one_file_of_labels_will_do(tmp_path: Path):
    scan, mask = ellipsoid(1)
    write(tmp_path / "ct.nii.gz", scan)
    labels = mask.astype(np.int16) * 5
    labels[:, :, :12] *= 2
    write(tmp_path / "labels.nii.gz", labels)
    assert [o.organ for o in organs_of(tmp_path, mesh.Data(**SMALL))] == ["label_5", "label_10"]


def test_cases_are_held_out_whole_and_stay_so_when_one_is_added(tmp_path: Path):
    root = write_cases(tmp_path, 5)
    settings = mesh.Data(root=str(root), holdout=0.4, **SMALL)
    batches, test = mesh.loaders(settings, TrainConfig(batch_size=3))
    learnt, held = ({o.case for o in organs} for organs in (batches.dataset.organs, test.organs))
    assert len(held) == 2
    assert not learnt & held
    batch = next(batches.starting_at(0))
    assert batch["coords"][:, 0].unique().tolist() == [0, 1, 2]
    assert batch["feats"].shape == (len(batch["coords"]), 8)
    assert batch["distances"].shape == (3, 17, 17, 17)
    assert test[0]["name"][0].split()[0] in held
    write_case(root / "s0099", 99)
    later = {o.case for o in mesh.loaders(settings)[1].organs}
    assert len(later) == 2
    assert later <= held | {"s0099"}


def test_organs_can_be_held_out_and_named(tmp_path: Path):
    root = str(write_cases(tmp_path, 2))
    batches, test = mesh.loaders(mesh.Data(root=root, test_organs=("spleen",), **SMALL))
    assert {o.organ for o in batches.dataset.organs} == {"liver"}
    assert {o.organ for o in test.organs} == {"spleen"}
    with pytest.raises(ValueError, match="there is no livr; there is liver, spleen"):
        mesh.loaders(mesh.Data(root=root, organs=("livr",), **SMALL))
    one = write_case(tmp_path / "alone" / "s1", 1)
    batches, test = mesh.loaders(mesh.Data(root=str(one), **SMALL))
    assert (len(batches), len(test)) == (1, 1)


def test_the_dataset_works_in_a_loop_of_ones_own(tmp_path: Path):
    root = write_cases(tmp_path, 3)
    dataset = mesh.TS_SAM3D_Dataset(root, split="train", **SMALL)
    assert len(dataset) == 4
    (batch,) = DataLoader(dataset, batch_size=4, collate_fn=mesh.data_collate)
    assert batch["name"] == ["s0001 liver", "s0001 spleen", "s0002 liver", "s0002 spleen"]
    assert bool((batch["coords"][1:, 0] >= batch["coords"][:-1, 0]).all())
    assert len(mesh.TS_SAM3D_Dataset(root, split="test", organs=("spleen",), **SMALL)) == 1
    with pytest.raises(ValueError, match=r"'val' has no organ in .*; test, train are its splits"):
        mesh.TS_SAM3D_Dataset(root, split="val", **SMALL)


def test_an_organ_that_the_volume_cuts_off_is_closed_there():
    scan, mask = ellipsoid(1)
    half = make_sample(mask[12:], AFFINE, scan[12:], 8)
    edge = world(torch.from_numpy(half.points), torch.from_numpy(half.to_world))[:, 0].min()
    assert edge == pytest.approx(-1, abs=1)  # where the first voxel of 2 mm begins
    inside = (half.distances < 0).mean() * half.side_mm**3
    assert inside == pytest.approx(mask[12:].sum() * 8, rel=0.03)
    assert not (half.distances[0] < 0).any()


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flipped", [(), (0,), (1, 2)])
def test_a_volume_gives_the_same_organ_however_it_is_stored(axes: tuple[int, ...], flipped: tuple[int, ...]):
    scan, mask = ellipsoid(3, 20)
    mask[:10, :10] &= np.arange(20) < 12  # nothing symmetrical
    affine = np.array([[1.5, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])
    stored, scanned = np.transpose(mask, axes), np.transpose(scan, axes)
    turned = np.eye(4)
    turned[:3, :3] = affine[:3, :3][:, axes]
    turned[:3, 3] = affine[:3, 3]
    for axis in flipped:
        stored, scanned = np.flip(stored, axis), np.flip(scanned, axis)
        turned[:3, 3] += turned[:3, axis] * (stored.shape[axis] - 1)
        turned[:3, axis] *= -1
    one, other = make_sample(mask, affine, scan, 8), make_sample(stored, turned, scanned, 8)
    np.testing.assert_allclose(one.to_world, other.to_world, atol=1e-9)
    np.testing.assert_array_equal(one.coords, other.coords)
    np.testing.assert_allclose(one.feats, other.feats, atol=1e-4)
    np.testing.assert_allclose(one.distances, other.distances, atol=2e-3)


def test_the_grid_is_a_cube_around_the_organ_with_room_at_each_side():
    """Of an organ that is neither a cube nor in the middle, in a volume that is turned."""
    mask = np.zeros((20, 24, 16), bool)
    mask[2:14, 15:19, 3:9] = True
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([1.5, 2, 3]), (10, -20, 5)
    corners = np.stack(np.meshgrid([1.5, 13.5], [14.5, 18.5], [2.5, 8.5]), -1).reshape(-1, 3)
    places = corners @ affine[:3, :3].T + affine[:3, 3]
    sample = make_sample(mask, affine, None, 8, features="mask")
    own = (places - sample.to_world[:3, 3]) / sample.side_mm
    np.testing.assert_allclose(own.max(0), -own.min(0), atol=1e-9)
    assert own.max() == pytest.approx(0.5 - MARGIN)


def test_parts_of_voxels_are_inside_or_not():
    _, mask = ellipsoid(5)
    sample = make_sample(mask, AFFINE, None, 8, features="mask")
    assert set(np.unique(sample.feats)) == {-1.0, 1.0}
    middle = (sample.coords + 0.5) / 8 - 0.5
    towards = np.indices((2, 2, 2)).reshape(3, 8).T - 0.5
    outward = (middle @ towards.T) > 0.15  # parts on the far side of the voxel, seen from the organ's middle
    assert sample.feats[outward].mean() < sample.feats[~outward].mean() - 0.5


def test_wrong_volumes_are_named_in_one_line(tmp_path: Path):
    scan, mask = ellipsoid(1)
    for wrong, said in [
        (lambda: make_sample(np.zeros_like(mask), AFFINE, scan, 4), "mask is empty"),
        (lambda: make_sample(mask, AFFINE, scan[1:], 4), r"scan has shape \(23, 24, 24\), the mask \(24, 24, 24\)"),
        (lambda: make_sample(mask, AFFINE, None, 4), "scan has shape None"),
        (lambda: make_sample(mask, np.full((4, 4), np.nan), scan, 4), "singular or not finite"),
        (lambda: make_sample(mask, np.zeros((4, 4)), scan, 4), "singular or not finite"),
        (lambda: mesh.loaders(mesh.Data(root=str(tmp_path / "none"))), "no such folder"),
        (lambda: mesh.loaders(mesh.Data(root=str(tmp_path))), "holds no subject"),
        (lambda: mesh.loaders(mesh.Data()), "data.root: not set"),
        (lambda: mesh.Data(resolution=2), "data.resolution: 2 is outside"),
        (lambda: mesh.Data(window=(3.0, 3.0)), "data.window"),
        (lambda: mesh.Model(loss_dice=-1), "model.loss_dice: -1 is not"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
            wrong()
        assert "\n" not in str(error.value)


def test_a_case_on_two_grids_is_left_out_and_named(tmp_path: Path):
    write_case(tmp_path / "s1", 1)
    case = write_case(tmp_path / "s2", 2)
    write(case / "ct.nii.gz", ellipsoid(2)[0], 2 * AFFINE)
    with pytest.warns(LeftOut, match=r"is on another grid than .*ct.nii.gz") as told:
        organs = organs_of(tmp_path, mesh.Data(**SMALL))
    assert {o.case for o in organs} == {"s1"}
    assert [warning.message.names for warning in told if warning.category is LeftOut] == [["s2"]]


def test_a_mesh_lies_in_the_scans_millimetres():
    sample = make_sample(ellipsoid(1)[1], AFFINE, None, 4, features="mask")
    corner = world(torch.tensor([[0.0, 0, 0]]), torch.from_numpy(sample.to_world))
    np.testing.assert_allclose(corner[0], [23, 23, 23], atol=1)


def test_three_holders_learn_together(tmp_path: Path):
    roots = [str(write_cases(tmp_path / name, 2, first)) for name, first in (("north", 0), ("south", 10), ("east", 20))]
    recipe = mesh.Recipe(
        model=mesh.Model(size="tiny", base="none"),
        data=mesh.Data(root=roots, test=str(write_cases(tmp_path / "test", 1, 30)), **SMALL),
        train=TrainConfig(batch_size=1, device="cpu"),
    )
    config = FederateConfig(clients=3, rounds=2, local_steps=2)
    batches, test = mesh.loaders(recipe.data, recipe.train)
    assert {name: len(items) for name, items in (batches.folders or {}).items()} == {"north": 4, "south": 4, "east": 4}
    outcome, server = federate(recipe, config, tmp_path / "here", (batches, test))
    assert outcome.reason == "done"
    assert (server.folder.adapter / "recipe.yaml").exists()


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = str(write_cases(tmp_path / "cases", 2))
    words = ["--data.root", root, "--data.resolution", "4", "--data.min_voxels", "100", "--data.organs", "liver"]
    with pytest.warns(PassedOver, match="s0000: 1 of 3 masks are empty"):
        assert main(["prepare", "mesh", root, *words[2:]]) == 0
    assert "4 organs of 2 cases" in capsys.readouterr().out
    run = tmp_path / "run"
    size = ["--model.size", "tiny", "--model.base", "none", "--train.steps", "2", "--train.device", "cpu"]
    assert main(["train", "mesh", *words, *size, "--out", str(run)]) == 0
    assert main(["eval", str(run / "adapter"), "--data", root, "--organs", "spleen"]) == 0
    said = capsys.readouterr().out
    assert "dice spleen" in said
    assert "hd95" in said
    case = tmp_path / "cases" / "s0000"
    words = [str(case / "segmentations"), str(tmp_path / "out.ply"), "--adapter", str(run), "--overwrite"]
    assert main(["decode", *words, "--scan", str(case / "ct.nii.gz"), "--only", "liver"]) == 0
    assert "liver" in capsys.readouterr().out
    assert (tmp_path / "out.ply").read_bytes().startswith(b"ply")
    assert main(["decode", *words, "--only", "liver"]) == 2
    assert "--scan: not set" in capsys.readouterr().err
    write(tmp_path / "other.nii.gz", ellipsoid(1, 20)[0])
    assert main(["decode", *words, "--scan", str(tmp_path / "other.nii.gz")]) == 2
    assert "on another grid" in capsys.readouterr().err


def test_decoded_meshes_are_closed_and_in_place():
    trimesh = pytest.importorskip("trimesh")
    recipe, batches, _ = mesh.tiny()
    from lorgnette import build, fit

    task = build(replace(recipe, lora=None))
    fit(task, batches, recipe.train)
    scan, mask = ellipsoid(77)
    found = mesh.decode(task, mask, AFFINE, scan)
    body = trimesh.Trimesh(found.vertices, found.triangles, process=False)
    assert body.is_watertight
    assert found.volume == pytest.approx(body.volume)
    assert found.volume == pytest.approx(mask.sum() * 8, rel=0.3)
    np.testing.assert_allclose(body.centroid, [23, 23, 23], atol=4)
    with pytest.raises(ValueError, match="scan has shape None"):
        mesh.decode(task, mask, AFFINE)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="4 dimensions; 3 work"):
        mesh.decode(task, mask[None], AFFINE, scan)
