"""Small made-up files under the names that the pages use: photographs, pairs, clips, faces, organs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

Array = NDArray[Any]


def stage(page: str, folder: Path) -> None:
    """Everything that a page, such as `video`, takes for given, into a folder."""
    for name, make in (STAGED["all"] | STAGED.get(page, {})).items():
        make(folder / name)


def picture(seed: int, side: int = 96) -> Array:
    """Smooth colours with some edges: (side, side, 3) of bytes."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((side, side), PIL.Image.Resampling.BICUBIC)).copy()
    pixels[side // 3 : side // 2, :: 1 + seed % 3] //= 2
    return pixels


def write(path: Path, pixels: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def file(side: int, noise: int = 0) -> Callable[[Path], None]:
    """One picture, half as wide again as it is high."""

    def make(path: Path) -> None:
        pixels = picture(7, side * 3 // 2)[:side]
        noisy = pixels + np.random.default_rng(7).normal(0, noise, pixels.shape)
        write(path, np.clip(noisy, 0, 255).astype(np.uint8))

    return make


def pictures(count: int, side: int = 96, noise: int = 0, first: int = 0) -> Callable[[Path], None]:
    """A folder of them, 0001.png and so on."""

    def make(folder: Path) -> None:
        for i in range(count):
            pixels, rng = picture(first + i, side), np.random.default_rng(i)
            noisy = np.clip(pixels + rng.normal(0, noise, pixels.shape), 0, 255).astype(np.uint8)
            write(folder / f"{i + 1:04}.png", noisy)

    return make


def pairs(small: str, large: str, factor: int, count: int = 4) -> dict[str, Callable[[Path], None]]:
    """Two folders of the same pictures: one of them shrunk, and a little noisy."""

    def shrink(folder: Path) -> None:
        for i in range(count):
            whole = PIL.Image.fromarray(picture(i, 192))
            pixels = np.asarray(whole.resize((192 // factor, 192 // factor), PIL.Image.Resampling.BOX)).astype(int)
            noisy = pixels + np.random.default_rng(i).normal(0, 3, pixels.shape)
            write(folder / f"{i + 1:04}.png", np.clip(noisy, 0, 255).astype(np.uint8))

    return {small: shrink, large: pictures(count, 192)}


def classes(*names: str, count: int = 6) -> Callable[[Path], None]:
    """A subfolder for each class, told apart by its colour."""

    def make(folder: Path) -> None:
        for number, name in enumerate(names):
            for i in range(count):
                pixels = picture(100 * number + i)
                pixels[..., number] = 255 - pixels[..., number] // 4
                write(folder / name / f"{i:02}.png", pixels)

    return make


def clip(path: Path) -> None:
    """Nine frames, the first third of which stands still."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("libx264", rate=12)
        stream.width = stream.height = 64
        for i in range(9):
            frame = av.VideoFrame.from_ndarray(np.roll(picture(3, 64), max(0, i - 3), axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def clip_frames(folder: Path) -> None:
    """A folder for each of two clips, with its frames."""
    for number in range(2):
        for i in range(6):
            write(folder / str(number) / f"{i + 1:05}.png", np.roll(picture(number, 64), i, axis=1))


def clips(folder: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        clip(folder / name)


def faces(count: int, seed: int) -> Callable[[Path], None]:
    """Two files for each of some invented persons."""

    def make(folder: Path) -> None:
        for number, person in enumerate(invented(count, seed)):
            for kind, views in (("front", person.front), ("video", person.video)):
                views_to(folder / f"{kind}_{number}.npz", views)

    return make


def face(path: Path) -> None:
    views_to(path, invented(1, 5)[0].video)


def invented(count: int, seed: int) -> list[Any]:
    from lorgnette.systems import faceview

    return list(faceview.invented(count, 4, seed=seed).values())


def views_to(path: Path, views: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, embedding=views.embedding, pose=views.pose, kps3d=views.keypoints)


def organs(count: int) -> Callable[[Path], None]:
    """Cases as TotalSegmentator's data set has them: two ellipsoids in a noisy body."""

    def make(folder: Path) -> None:
        for number in range(count):
            rng = np.random.default_rng(number)
            grid = np.indices((32, 32, 32)) - 15.5
            scan = rng.normal(-80, 20, grid.shape[1:])
            for name, shift in (("kidney_left", -8), ("kidney_right", 8)):
                centre = np.array([shift, 0, 0]).reshape(3, 1, 1, 1)
                mask = (((grid - centre) / rng.uniform(5, 7, (3, 1, 1, 1))) ** 2).sum(0) < 1
                scan[mask] += 240
                nifti(folder / f"s{number:04}" / "segmentations" / f"{name}.nii.gz", mask.astype(np.uint8))
            nifti(folder / f"s{number:04}" / "ct.nii.gz", scan.round().astype(np.int16))

    return make


def labels(path: Path) -> None:
    """One file of all labels: a liver and a spleen."""
    grid = np.indices((32, 32, 32)) - 15.5
    values = np.zeros((32, 32, 32), np.uint8)
    for label, shift in ((1, -8), (2, 8)):
        values[((grid - np.array([shift, 0, 0]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 36] = label
    nifti(path, values)


def names(path: Path) -> None:
    path.write_text('{"liver": 1, "spleen": 2}\n', encoding="utf-8")


def nifti(path: Path, values: Array) -> None:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    image: Any = nibabel.Nifti1Image(values, np.diag([2.0, 2, 2, 1]))  # type: ignore[attr-defined]
    nibabel.save(image, path)  # type: ignore[attr-defined]


def every(make: Callable[[Path], None], words: Iterable[str]) -> dict[str, Callable[[Path], None]]:
    return dict.fromkeys(words, make)


STAGED: dict[str, dict[str, Callable[[Path], None]]] = {
    "all": {"photos": classes("cat", "dog"), "small.jpg": file(64)},
    "super-resolution": {
        **pairs("microscope-10x", "microscope-40x", 4),
        **pairs("test-10x", "test-40x", 4),
        "test-images": pictures(2, 128, first=50),
        "test-photos": pictures(2, 128, first=60),
        **every(pictures(1, 128, first=80), ("Set5", "Set14")),
        "scan.tif": file(40),
        "scans": pictures(2, 40),
    },
    "restoration": {
        "noisy.jpg": file(64, 20),
        "raw.png": file(64, 20),
        "noisy-scans": pictures(2, 48, 20),
        "short-exposure": pictures(6, 96, 20),
        "long-exposure": pictures(6, 96),
        "test-images": pictures(2, 64, first=50),
        **every(clip_frames, ("clips", "other-clips")),
        "noisy.mp4": clip,
    },
    "video": {
        **every(clip, ("noisy.mp4", "small.mp4", "talk.mp4")),
        "frames": pictures(4, 64),
        "clips": clips,
        "stills": pictures(6),
    },
    "classification": {
        "drawing.png": file(32),
        "test-photos": classes("cat", "dog", count=4),
        "new-photos": pictures(2, 32),
    },
    "face-views": {
        "faces": faces(24, 0),
        "other-camera": faces(24, 1),
        "held-out": faces(12, 2),
        "video_anna.npz": face,
    },
    "mesh": {"CASES": organs(2), "segmentation.nii.gz": labels, "names.json": names},
    "federation": every(classes("cat", "dog"), ("sites/north", "sites/south", "sites/west")),
}
"""By page, name -> what makes it."""
