"""Folders of frames: one picture file each, in the order of their numbers."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from lorgnette.images.file import Image, read_image, write_image
from lorgnette.images.folders import OWN, SUFFIXES, in_order, told, written_as
from lorgnette.images.formats.kept import said
from lorgnette.images.notes import Notes
from lorgnette.video import lost
from lorgnette.video.clip import RGB, Clip, Colour, Frame, Progress
from lorgnette.video.journal import FRAMES, Journal

# What a picture says of itself, beside a resolution, which means nothing in a clip.
SAID = {"icc": "colour profile", "exif": "EXIF data", "xmp": "XMP data", "iptc": "IPTC data", "comment": "comment"}
SAID |= {"texts": "texts", "colour": "what a PNG says of its colours"}


class FolderSource:
    """The pictures of a folder as the frames of a clip; its subfolders are left out.

    Args:
        folder: Where they are. Numbers in names count as numbers: 2.png comes before 10.png.
        rate: Frames per second.

    Attributes:
        passed_over: What of the folder is no frame, in words; empty for nothing.

    Raises:
        FileNotFoundError: there is no picture.
        ValueError: a picture cannot be read.
    """

    def __init__(self, folder: Path, rate: Fraction) -> None:
        there = sorted(folder.iterdir(), key=in_order)
        hidden = [path for path in there if path.name.startswith(".") and not path.name.startswith(OWN)]
        shown = [path for path in there if not path.name.startswith(".")]
        self.files = [path for path in shown if path.suffix.lower() in SUFFIXES and path.is_file()]
        subfolders = [path for path in shown if path.is_dir()]
        others = [path for path in shown if path not in {*self.files, *subfolders}]
        self.passed_over = told({"of other kinds": others, "subfolders": subfolders, "hidden": hidden}, folder)
        if not self.files:
            raise FileNotFoundError(f"no frames in {folder} (looked for {', '.join(SUFFIXES)})")
        first = read_image(self.files[0])
        self.clip = Clip(
            path=folder,
            size=(first.pixels.shape[0], first.pixels.shape[1]),
            frames=len(self.files),
            time_base=1 / rate,
            rate=rate,
            bits=first.bits,
            grey=first.grey,
            alpha=first.alpha is not None,
            colour=Colour(matrix=RGB),
        )

    def identity(self) -> dict[str, Any]:
        """Names, sizes in bytes and times of change of the files, and the rate."""
        hasher = hashlib.blake2b(digest_size=16)
        for file in self.files:
            about = file.stat()
            hasher.update(f"{file.name} {about.st_size} {about.st_mtime_ns}\n".encode())
        return {"files": len(self.files), "hash": hasher.hexdigest(), "rate": str(self.clip.rate)}

    def names(self, format: str | None) -> list[str]:
        """What the enhanced frames are called: as they were, but for a suffix that is asked for or cannot be written.

        Raises:
            ValueError: two would bear one name.
        """
        names = [(file.with_suffix(f".{format}") if format else written_as(file)).name for file in self.files]
        counts = Counter(names)
        for name, file in zip(names, self.files, strict=True):
            if counts[name] > 1:
                raise ValueError(f"{file} and another frame would both become {name}: rename one of them")
        return names

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """The frames from `start` on.

        Raises:
            ValueError: one cannot be read, or has another size than the first.
        """
        for index, file in enumerate(self.files[start:], start):
            image = read_image(file)
            height, width = image.pixels.shape[:2]
            if (height, width) != self.clip.size:
                raise ValueError(
                    f"{file} is {width}x{height} and {self.files[0].name} {self.clip.size[1]}x{self.clip.size[0]}: "
                    f"frames of a clip have one size; without --frames each is a picture by itself"
                )
            yield Frame(index, image, index, 1, _beside(image))


class FolderTarget:
    """A folder to which frames go, one picture file each.

    Args:
        folder: appears when all frames are done.
        names: of the frames; None for 000001, 000002, ... with the suffix `format`
        quality: of JPEG and WebP, 1 to 100.
        clip: what the frames are made of.
        format: a suffix without its dot, where there are no names.

    Raises:
        ValueError: the folder holds something and `overwrite` is not set.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str] | None,
        quality: int,
        overwrite: bool,
        clip: Clip,
        format: str = "png",
    ) -> None:
        if folder.is_dir() and any(folder.iterdir()) and not overwrite:
            raise ValueError(f"{folder} holds something already: give another folder, or --overwrite")
        if folder.is_file():
            raise ValueError(f"{folder} is a file: frames go into a folder")
        self.folder, self.names, self.quality, self.clip = folder, names, quality, clip
        self.format = format
        self.notes: list[str] = []
        self._said = Notes(lambda path: self.folder / path.name)

    def keep(self, frame: Frame, image: Image, journal: Journal) -> bytes:
        """Write a frame to the working folder."""
        path = self._path(journal, frame.index)
        with self._said.of(path):
            write_image(path, image, quality=self.quality)
        return b""

    def picture(self, journal: Journal, index: int) -> Image:
        """A frame that is done."""
        path = self._path(journal, index)
        return read_image(path if path.exists() else self.folder / path.name)  # a kill came while they were moved

    def finish(self, journal: Journal, tell: Progress) -> None:
        """Put all frames in their place."""
        where = "a folder of pictures"
        self.notes = lost.of_file(self.clip.beside, (), where)
        self.notes += [f"{what} {value} is not kept in {where}" for what, value in self.clip.said().items()]
        self.notes += lost.of_frames(journal.about, where, kept=tuple(SAID.values()))
        self.notes += self._said.lines()
        done = journal.folder / FRAMES
        journal.allow_replacing()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
        if not self.folder.exists():
            done.rename(self.folder)
            return
        names = {self._path(journal, index).name for index in range(len(journal))}
        if others := [file for file in self.folder.iterdir() if file.name not in names]:
            self.notes.append(f"{len(others)} other files in {self.folder} were left as they are")
        for file in done.iterdir():
            shutil.move(file, self.folder / file.name)

    def _path(self, journal: Journal, index: int) -> Path:
        return journal.folder / FRAMES / (self.names[index] if self.names else f"{index + 1:06d}.{self.format}")


def _beside(image: Image) -> tuple[str, ...]:
    return tuple(SAID[kind] for kind, _ in said(image.icc, image.exif, image.about) if kind in SAID)
