"""DICOM in: series of slices, and segmentations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

for package in ("pydicom", "highdicom"):
    pytest.importorskip(package, reason="needs the extra 'dicom'")

import highdicom  # noqa: E402
from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.sr.codedict import codes  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402
from tests.systems.mesh.shapes import ball, labels_of  # noqa: E402

from lorgnette.systems.mesh.surface import surfaces  # noqa: E402
from lorgnette.systems.mesh.volumes import read_image, read_labels  # noqa: E402

TURN = np.linalg.qr(np.eye(3) + 0.2 * np.random.default_rng(1).normal(size=(3, 3)))[0]
TURN = TURN * np.sign(np.diag(TURN))


def series(folder: Path, values: np.ndarray, uid: str | None = None, gap: int | None = None) -> list[Any]:
    """CT slices of (slices, rows, columns), oblique, 0.8 x 0.7 mm and 2.5 mm apart, as a scanner stores them."""
    folder.mkdir(parents=True, exist_ok=True)
    uid, study, frame = uid or generate_uid(), generate_uid(), generate_uid()
    slices = []
    for number, pixels in enumerate(values):
        if number == gap:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        item.SOPClassUID, item.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        item.SeriesInstanceUID, item.StudyInstanceUID, item.FrameOfReferenceUID = uid, study, frame
        item.Modality, item.PatientID, item.PatientName = "CT", "1", "A^B"
        item.PatientBirthDate = item.PatientSex = item.StudyDate = item.StudyTime = item.AccessionNumber = ""
        item.StudyID, item.SeriesNumber, item.InstanceNumber = "1", 1, number + 1
        item.Rows, item.Columns = pixels.shape
        item.PixelSpacing, item.SliceThickness = [0.7, 0.8], 2.5
        item.ImageOrientationPatient = [round(float(v), 12) for v in [*TURN[:, 0], *TURN[:, 1]]]
        item.ImagePositionPatient = [round(float(v), 9) for v in np.array([10, -20, 30]) + 2.5 * number * TURN[:, 2]]
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 1
        item.RescaleIntercept, item.RescaleSlope, item.RescaleType = -1000, 1, "HU"
        item.PixelData = (pixels + 1000).astype(np.int16).tobytes()
        item.save_as(folder / f"{number:03d}", enforce_file_format=True)
        slices.append(item)
    return slices


def segmentation(path: Path, slices: list[Any], masks: dict[str, np.ndarray], kind: str = "BINARY") -> None:
    """A DICOM-SEG of masks (slices, rows, columns)."""
    described = [
        highdicom.seg.SegmentDescription(
            number, name, codes.SCT.Tissue, codes.SCT.Liver, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, name in enumerate(masks, start=1)
    ]
    pixels = np.stack(list(masks.values()), axis=-1).astype(np.uint8)
    if kind == "LABELMAP":
        pixels = (pixels * np.arange(1, len(masks) + 1, dtype=np.uint8)).max(-1)
    highdicom.seg.Segmentation(
        slices, pixels, kind, described, generate_uid(), 2, generate_uid(), 1, "maker", "model", "1", "0"
    ).save_as(path)


def affine() -> np.ndarray:
    """Of the array turned to (columns, rows, slices), in RAS."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = TURN * (0.8, 0.7, 2.5), (10, -20, 30)
    return np.diag([-1.0, -1, 1, 1]) @ matrix


def test_a_series_is_read_in_hounsfield_units(tmp_path: Path):
    rng = np.random.default_rng(0)
    values = rng.integers(-900, 900, (6, 9, 8))
    series(tmp_path / "ct", values)
    (tmp_path / "ct" / "notes.txt").write_text("not a slice")
    volume = read_image(tmp_path / "ct")
    assert volume.notes == ("1 files are no slices of it",)
    turned = values.transpose(2, 1, 0)
    for place in ((0, 0, 0), (3, 5, 2), (7, 8, 5)):
        world = affine() @ [*place, 1]
        index = np.rint(np.linalg.solve(volume.affine, world)).astype(int)[:3]
        np.testing.assert_allclose(volume.affine @ [*index, 1], world, atol=1e-6)
        assert volume.values[tuple(index)] == turned[place]


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_segmentation_gives_the_mesh_of_its_mask(kind: str, tmp_path: Path):
    """Stored as LPS slices or as NIfTI has it: the same mesh in millimetres."""
    masks = {"liver": ball(5, (9, 8, 7), 18), "spleen": ball(3, (3, 12, 13), 18), "nothing": np.zeros((18,) * 3, bool)}
    slices = series(tmp_path / "ct", np.zeros((18, 18, 18)))
    segmentation(tmp_path / "seg.dcm", slices, masks, kind)
    found = read_labels(tmp_path / "seg.dcm")
    assert [organ.name for organ in found.organs] == ["liver", "spleen"]
    assert found.notes == ("1 of 3 segments are empty",)
    from lorgnette.systems.mesh.volumes.labels import canonical

    for mesh, mask in zip(surfaces(found), masks.values(), strict=False):
        volume = canonical(mask.transpose(2, 1, 0), affine(), "mask")
        same = next(surfaces(labels_of(volume.values, volume.affine)))
        np.testing.assert_allclose(mesh.vertices, same.vertices, atol=1e-5)
        np.testing.assert_array_equal(mesh.triangles, same.triangles)


def test_wrong_folders(tmp_path: Path):
    series(tmp_path / "two", np.zeros((3, 4, 4)))
    series(tmp_path / "two" / "more", np.zeros((3, 4, 4)))
    with pytest.raises(ValueError, match=r"holds 2 series: .*give a folder with one of them"):
        read_image(tmp_path / "two")
    series(tmp_path / "gap", np.zeros((6, 4, 4)), gap=3)
    with pytest.raises(ValueError, match="gap") as caught:
        read_image(tmp_path / "gap")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="holds no DICOM segmentations of 5 DICOM files"):
        read_labels(tmp_path / "gap")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"neither NIfTI nor DICOM \(1 other files\)"):
        read_image(tmp_path / "text")
    slices = series(tmp_path / "ct", np.zeros((4, 4, 4)))
    segmentation(tmp_path / "empty.dcm", slices, {"a": np.zeros((4, 4, 4), bool)})
    with pytest.raises(ValueError, match=r"empty\.dcm"):
        read_labels(tmp_path / "empty.dcm")


def test_files_cut_short(tmp_path: Path):
    slices = series(tmp_path / "ct", np.zeros((4, 8, 8)))
    segmentation(tmp_path / "seg.dcm", slices, {"a": ball(2, (2, 4, 4), 8)[:4]})
    data = (tmp_path / "seg.dcm").read_bytes()
    for size in (0, 100, 140, 500, len(data) // 2, len(data) - 40):
        (tmp_path / "cut.dcm").write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"cut\.dcm") as caught:
            read_labels(tmp_path / "cut.dcm")
        assert "\n" not in str(caught.value)
