"""Finished frames on disk, in a folder that survives a kill at any moment. Imports neither av nor torch."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lorgnette.common.files import make_folder, read_json, take_lock, write_json

FORMAT_VERSION = 1
JOB_FILE, LOG_FILE, FRAMES = "job.json", "frames.log", "frames"  # the last: a folder for what is no record
REPLACING = "replacing"

# Of a record: lengths of its two parts, their checksums. Then the parts: JSON about the frame, and its bytes.
_HEAD = struct.Struct("<IQII")


class Journal:
    """A log of finished frames, to which records are only ever appended.

    A record that a kill cut short is dropped when the log is opened again, and the frame is done anew.

    Args:
        folder: is made where it does not exist.
        job: JSON that says what is done to what; a log of another job is refused.
        fresh: forget what is there.

    Raises:
        ValueError: the folder holds another job, is in use by another process, or cannot be written to.
    """

    def __init__(self, folder: Path, job: dict[str, Any], fresh: bool = False) -> None:
        self.folder = folder
        if folder.is_dir() and any(folder.iterdir()) and not (folder / LOG_FILE).exists():
            raise ValueError(
                f"{folder} is needed as working folder and holds something else: move it, or give another output"
            )
        make_folder(folder)
        job = {"format_version": FORMAT_VERSION, **job}
        try:
            self._file: IO[bytes] = (folder / LOG_FILE).open("a+b")
        except OSError as error:
            raise ValueError(f"cannot write {folder / LOG_FILE} ({error.strerror}): another folder may work") from None
        try:
            if not take_lock(self._file):
                raise ValueError(f"{folder} is in use by another run: wait for it, or give another output")
            if fresh:
                self._file.truncate(0)
                shutil.rmtree(folder / FRAMES, ignore_errors=True)
            elif (folder / JOB_FILE).exists():
                _require_same(folder, read_json(folder / JOB_FILE), job)
            write_json(folder / JOB_FILE, job)
            self._about = self._recover()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._about:
            self.remove()
        self._file.close()

    def __len__(self) -> int:
        """Frames that are done."""
        return len(self._about) - self.complete

    @property
    def complete(self) -> bool:
        """Whether the last frame of the clip is among them."""
        return bool(self._about) and "end" in self._about[-1]

    @property
    def about(self) -> list[dict[str, Any]]:
        """What was noted on each frame."""
        return self._about[: len(self)]

    def append(self, about: dict[str, Any], data: bytes = b"") -> None:
        """Keep a frame. It is on the disk when this returns."""
        note = json.dumps(about).encode()
        try:
            self._file.write(_HEAD.pack(len(note), len(data), zlib.crc32(note), zlib.crc32(data)) + note)
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ValueError(
                f"cannot write {self.folder / LOG_FILE} ({error.strerror}): what is done is kept; make room, and the "
                f"same command goes on"
            ) from None
        self._about.append(about)

    def finish(self) -> None:
        """Note that there are no more frames."""
        if not self.complete:
            self.append({"end": True})

    def allow_replacing(self) -> None:
        """Note that the output may be there: to be replaced, or because it has just been put there."""
        (self.folder / REPLACING).touch()

    def records(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """What was noted on each frame, and its bytes, one by one."""
        with (self.folder / LOG_FILE).open("rb") as file:
            for about in self.about:
                head = _HEAD.unpack(file.read(_HEAD.size))
                file.seek(head[0], os.SEEK_CUR)
                data = file.read(head[1])
                if zlib.crc32(data) != head[3]:
                    raise ValueError(f"{self.folder / LOG_FILE} is damaged: --overwrite does the clip anew")
                yield about, data

    def remove(self) -> None:
        """Delete the folder: the output is there, or nothing is done yet."""
        self._file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _recover(self) -> list[dict[str, Any]]:
        """Read the notes; cut off what a kill or a power cut left unfinished."""
        size = self._file.seek(0, os.SEEK_END)
        found: list[tuple[int, dict[str, Any], int, int]] = []  # start, note, length and checksum of bytes
        start = 0
        self._file.seek(0)
        with contextlib.suppress(struct.error, ValueError):  # a short head, or a note that is none
            while start < size:
                note_length, data_length, note_crc, data_crc = _HEAD.unpack(self._file.read(_HEAD.size))
                end = start + _HEAD.size + note_length + data_length
                if end > size:
                    break
                note = self._file.read(note_length)
                if zlib.crc32(note) != note_crc:
                    break
                found.append((start, json.loads(note), data_length, data_crc))
                start = self._file.seek(end)
        while found:  # the last may be whole in length only
            _, _, data_length, data_crc = found[-1]
            self._file.seek(start - data_length)
            if zlib.crc32(self._file.read(data_length)) == data_crc:
                break
            start = found.pop()[0]
        self._file.truncate(start)
        return [note for _, note, _, _ in found]


def may_replace(folder: Path) -> bool:
    """Whether a run that was interrupted, and left this working folder, was allowed to replace its output."""
    return (folder / REPLACING).exists()


def _require_same(folder: Path, kept: Any, job: dict[str, Any]) -> None:
    kept = kept if isinstance(kept, dict) else {}
    if differing := [name for name in {**job, **kept} if kept.get(name) != job.get(name)]:
        raise ValueError(
            f"{folder} holds frames done with another {', '.join(differing)}: --overwrite does the clip anew"
        )
