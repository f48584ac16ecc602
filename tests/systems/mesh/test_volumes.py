"""Volumes and masks as they are found on disks."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.systems.mesh.shapes import EXAMPLE, needs_data

from lorgnette.systems.mesh.volumes import read_image, read_labels, subjects
from lorgnette.systems.mesh.volumes.read import read_names


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, None)
    image.header.set_sform(np.diag([2.0, 2, 3, 1]) if affine is None else affine, code=1)
    image.header.set_qform(None, code=0)
    nibabel.save(image, path)
    return path


@pytest.fixture
def labels() -> np.ndarray:
    values = np.zeros((8, 7, 6), np.uint8)
    values[1:4, 1:4, 1:4], values[5:7, 2:5, 2:5] = 3, 7
    return values


@needs_data
def test_names_and_colours_are_read_from_the_header():
    labels = read_labels(EXAMPLE / "example_seg_fast_force_split.nii.gz")
    assert len(labels.organs) == 61
    assert [organ.name for organ in labels.organs[:3]] == ["spleen", "kidney_right", "kidney_left"]
    assert labels.organs[0].voxels == 9668
    assert labels.organs[0].color == (0, 255, 0)
    np.testing.assert_allclose(labels.spacing, 3)


@needs_data
def test_a_real_folder_of_masks():
    """117 files of which most are empty, with a preview among them."""
    labels = read_labels(EXAMPLE / "example_seg_fast")
    assert len(labels.organs) == 40
    assert labels.notes == ("77 of 117 masks are empty",)
    one = read_labels(EXAMPLE / "example_seg_fast", only=["liver"])
    assert [organ.name for organ in one.organs] == ["liver"]
    assert one.organs[0].voxels == next(organ.voxels for organ in labels.organs if organ.name == "liver")


@needs_data
def test_left_posterior_superior_is_turned():
    volume = read_image(EXAMPLE.parent / "aorta_report" / "ct_cropped.nii.gz")
    assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert volume.values.shape == (120, 126, 164)


@pytest.mark.parametrize("layout", ["v2", "v1", "mr", "flat"])
def test_data_sets_as_they_come(layout: str, labels: np.ndarray, tmp_path: Path):
    image = "mri.nii.gz" if layout == "mr" else "ct.nii.gz"
    for name in ("s0001", "s0002"):
        save(tmp_path / name / image, labels.astype(np.int16))
        folder = tmp_path / name / ("" if layout == "flat" else "segmentations")
        for organ, value in (("liver", 3), ("spleen", 7), ("brain", 9)):
            save(folder / f"{organ}.nii.gz", (labels == value).astype(np.uint8))
    (tmp_path / "no_subject").mkdir()
    columns = "image_id;age;gender;institute;study_type;split" + ("" if layout == "v1" else ";manufacturer;pathology")
    rows = "s0001;61;m;A;ct;train;x;y\r\ns0002;50;f;B;ct;test;x;y\r\ns0003;1;f;B;ct;val;x;y\r\n"
    (tmp_path / "meta.csv").write_bytes(b"\xef\xbb\xbf" + f"{columns}\r\n{rows}".encode())
    found, skipped = subjects(tmp_path)
    assert [(subject.name, subject.split, subject.about["age"]) for subject in found] == [
        ("s0001", "train", "61"),
        ("s0002", "test", "50"),
    ]
    assert set(found[0].masks) == {"liver", "spleen", "brain"}
    assert found[0].image.name == image
    assert skipped == [
        "no_subject: no ct.nii.gz or mri.nii.gz in it",
        "s0003: in meta.csv, but there is no such folder",
    ]
    masks = read_labels(tmp_path / "s0001")
    assert [organ.name for organ in masks.organs] == ["liver", "spleen"]
    assert masks.notes == ("1 of 3 masks are empty",)


@pytest.mark.parametrize(
    "text",
    [
        '{"3": "liver", "7": "spleen"}',
        '{"labels": {"background": 0, "liver": 3, "spleen": 7}}',
        "3 liver\n7 spleen\n",
        "3,liver\r\n7,spleen\r\n",
        '# ITK-SNAP\n  3  255 0 0  1 1 1 "liver"\n  7  0 255 0  1 1 1 "spleen"\n',
        "3 liver 255 0 0 255\n7 spleen 0 255 0 255\n",
    ],
)
def test_files_of_names(text: str, labels: np.ndarray, tmp_path: Path):
    names = tmp_path / ("names.json" if text.startswith("{") else "names.txt")
    names.write_text(text, encoding="utf-8")
    found = read_labels(save(tmp_path / "seg.nii.gz", labels), names)
    assert [(organ.name, organ.value) for organ in found.organs] == [("liver", 3), ("spleen", 7)]
    assert read_names(names)[7] == "spleen"


def test_two_labels_of_one_name_stay_two(labels: np.ndarray, tmp_path: Path):
    names = tmp_path / "names.json"
    names.write_text('{"3": "Rib", "7": "rib"}')
    found = read_labels(save(tmp_path / "seg.nii.gz", labels), names)
    assert [organ.name for organ in found.organs] == ["Rib_3", "rib_7"]


def test_a_number_added_to_a_name_makes_no_third_one(labels: np.ndarray, tmp_path: Path):
    labels[0, 0, 0] = 9
    names = tmp_path / "names.json"
    names.write_text('{"3": "rib", "7": "Rib", "9": "rib_7"}')
    found = read_labels(save(tmp_path / "seg.nii.gz", labels), names)
    assert len({organ.name.lower() for organ in found.organs}) == 3


@pytest.mark.parametrize("text", ['{"3": {"name": "liver"}, "7": "spleen"}', '{"3": null}', '{"liver": [3, 7]}'])
def test_names_that_are_no_words(text: str, tmp_path: Path):
    names = tmp_path / "names.json"
    names.write_text(text)
    with pytest.raises(ValueError, match=r"names.json: names such as .* are expected"):
        read_names(names)


def test_voxels_may_be_a_tenth_of_a_micrometre(labels: np.ndarray, tmp_path: Path):
    found = read_labels(save(tmp_path / "seg.nii.gz", labels, np.diag([1e-4, 1e-4, 1e-4, 1])))
    np.testing.assert_allclose(found.spacing, 1e-4)


def test_a_header_without_orientation_is_told(labels: np.ndarray, tmp_path: Path):
    image = nibabel.Nifti1Image(labels, None)
    image.header.set_sform(None, code=0)
    image.header.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "seg.nii")
    assert "does not say how the patient lies" in read_labels(tmp_path / "seg.nii").notes[0]


def test_a_fourth_dimension_of_one_is_none(labels: np.ndarray, tmp_path: Path):
    assert read_labels(save(tmp_path / "seg.nii.gz", labels[..., None])).shape == labels.shape


# ---------------------------------------------------------------------------------------------------- wrong input


def nan_affine(labels: np.ndarray) -> np.ndarray:
    return np.array([[2, 0, 0, np.nan], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "is empty: all of its voxels are 0"),
        ("four", "has 4 dimensions"),
        ("nan affine", "affine has values that are no numbers"),
        ("flat affine", "affine is singular"),
        ("probabilities", "holds 0.5, which is no label"),
        ("picture", "labels are 0 and above; is it the picture"),
        ("nan", "some of its voxels are no numbers"),
        ("colours", "whole numbers or floats are read"),
    ],
)
def test_what_is_no_mask(kind: str, message: str, labels: np.ndarray, tmp_path: Path):
    affine, values = None, labels
    if kind == "empty":
        values = labels * 0
    elif kind == "four":
        values = np.stack([labels, labels], axis=-1)
    elif kind == "nan affine":
        affine = nan_affine(labels)
    elif kind == "flat affine":
        affine = np.diag([2.0, 2, 0, 1])
    elif kind == "probabilities":
        values = np.where(labels, 0.5, 0).astype(np.float32)
    elif kind == "picture":
        values = labels.astype(np.int16) - 1000
    elif kind == "nan":
        values = np.where(labels, np.nan, 0).astype(np.float32)
    else:
        values = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    path = save(tmp_path / "seg.nii.gz", values, affine)
    with pytest.raises(ValueError, match=message) as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)
    assert "seg.nii.gz" in str(caught.value)


def test_files_cut_short(labels: np.ndarray, tmp_path: Path):
    rng = np.random.default_rng(0)
    for suffix in (".nii.gz", ".nii"):
        whole = save(tmp_path / f"seg{suffix}", rng.integers(0, 5, (30, 30, 30), np.uint8)).read_bytes()
        for size in (0, 3, 100, 347, 360, len(whole) // 2, len(whole) - 20):
            (tmp_path / f"cut{suffix}").write_bytes(whole[:size])
            with pytest.raises(ValueError, match=f"cut{suffix}") as caught:
                read_labels(tmp_path / f"cut{suffix}")
            assert "\n" not in str(caught.value)


def test_a_damaged_stream(labels: np.ndarray, tmp_path: Path):
    data = bytearray(
        save(tmp_path / "seg.nii.gz", np.random.default_rng(0).integers(0, 5, (30,) * 3, np.uint8)).read_bytes()
    )
    for place in range(500, len(data) - 100, 700):
        damaged = data.copy()
        damaged[place] ^= 0xFF
        (tmp_path / "bad.nii.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"bad\.nii\.gz"):  # the checksum tells where nothing else does
            read_labels(tmp_path / "bad.nii.gz")


@pytest.mark.parametrize("sides", [(30000, 30000, 30000), (1024, 1024, 1000), (32767, 32767, 1)])
def test_a_header_that_promises_too_much_takes_no_memory(sides: tuple[int, ...], labels: np.ndarray, tmp_path: Path):
    import tracemalloc

    header = bytearray(gzip.decompress(save(tmp_path / "seg.nii.gz", labels).read_bytes()))
    struct.pack_into("<8h", header, 40, 3, *sides, 1, 1, 1, 1)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(bytes(header)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"says it has|too small for"):
        read_labels(tmp_path / "bomb.nii.gz")
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


def test_gigabytes_of_zeros_take_no_memory(tmp_path: Path):
    """A file that has what it promises: such zeros are packed a thousand times smaller, too."""
    head = nibabel.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)).header
    head["dim"] = [3, 1024, 1024, 1000, 1, 1, 1, 1]
    with open(tmp_path / "seg.nii", "wb") as file:
        file.write(head.binaryblock + bytes(4))
        file.truncate(352 + 8 * 1024 * 1024 * 1000)
    with pytest.raises(ValueError, match=r"seg.nii says it has 8.4 GB of float64: up to 4.3 GB are read"):
        read_labels(tmp_path / "seg.nii")


def test_masks_of_other_grids(labels: np.ndarray, tmp_path: Path):
    save(tmp_path / "m" / "a.nii.gz", labels)
    save(tmp_path / "m" / "b.nii.gz", labels, np.diag([2.0, 2, 2.5, 1]))
    with pytest.raises(ValueError, match=r"b\.nii\.gz has another grid than a\.nii\.gz"):
        read_labels(tmp_path / "m")


def test_other_wrong_input(labels: np.ndarray, tmp_path: Path):
    path = save(tmp_path / "seg.nii.gz", labels)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_labels(tmp_path / "nothing.nii.gz")
    with pytest.raises(ValueError, match=r"there is no 'label_5'.*there is label_3, label_7"):
        read_labels(path, only=["label_5"])
    (tmp_path / "names.json").write_text('{"3": "liver"}')
    with pytest.raises(ValueError, match=r"holds the labels \[7\], of which"):
        read_labels(path, tmp_path / "names.json")
    (tmp_path / "names.txt").write_text("liver\n")
    with pytest.raises(ValueError, match="no line of a number and a name"):
        read_names(tmp_path / "names.txt")
    (tmp_path / "text.nii.gz").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.nii\.gz is"):
        read_labels(tmp_path / "text.nii.gz")
    with pytest.raises(ValueError, match="holds no subject"):
        subjects(tmp_path)
