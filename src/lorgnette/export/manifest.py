"""What an exported file says of itself, and how it is read: without running or even parsing the program in it.

The manifest is JSON: in an ONNX file its metadata under `lorgnette`, in what torch writes (which are zip archives) the
file `extra/lorgnette.json`, and behind the end of an ExecuTorch program, which says itself where that is. Imports
neither torch nor numpy.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from lorgnette.systems.protocol import OnPictures

FORMAT_VERSION = 1
KEY = "lorgnette"
ARCHIVED = f"{KEY}.json"
MAX_BYTES = 16 * 2**20
SIDES = (32, 1024)
"""The least and the largest square that a file may be written for."""
ZIPPED = (".pt2", ".pt", ".ts")
SUFFIXES = (".onnx", *ZIPPED, ".pte")
MAGIC = b"lorgnette.json\n\n"
"""The last bytes of a file with the manifest at its end; before them stand its length, 8 bytes, and itself."""


@dataclass(frozen=True)
class Manifest:
    """What has to be known of an exported program."""

    room: str
    """The room it is of."""
    recipe: Mapping[str, Any]
    """Of the model: its settings as plain containers, without folders of the trainer's disk."""
    weights: str
    """A hash of the merged model: equal models have equal ones."""
    inputs: Mapping[str, Mapping[str, str]]
    """By name, the axes that are free: number -> name."""
    output: str
    """Its name."""
    version: str
    """Of this package, that wrote it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What else the room says."""
    pictures: OnPictures | None = None
    """How it is run on pictures of any size; None: it is not for them."""
    int8: Mapping[str, Any] | None = None
    """What was quantised; None: nothing."""

    def to_json(self) -> str:
        return json.dumps({"format_version": FORMAT_VERSION} | asdict(self))

    @staticmethod
    def from_json(text: str | bytes, source: str) -> Manifest:
        """The manifest of `to_json`.

        Raises:
            ValueError: it is of another version, or damaged, in one line.
        """
        try:
            given = json.loads(text)
            found = given.pop("format_version")
            if found != FORMAT_VERSION:
                raise ValueError(f"format_version is {found!r}; this program reads {FORMAT_VERSION}")
            names = {entry.name for entry in fields(Manifest)}
            known = {name: value for name, value in given.items() if name in names}
            known["pictures"] = None if known.get("pictures") is None else _pictures(known["pictures"])
            return Manifest(**known)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{source}: its manifest is damaged ({reason[:200]})") from None


def _pictures(given: Mapping[str, Any]) -> OnPictures:
    """Checked: the numbers decide how much memory is taken."""
    found = OnPictures(**given)
    bounds = {"tile": (16, 4096), "halo": (0, 1024), "blend": (0, 1024), "channels": (1, 3), "factor": (1, 32)}
    bounds |= {"align": (1, 64), "side": SIDES, "out_side": (1, SIDES[1] * 32)}
    for name, (low, high) in bounds.items():
        value = getattr(found, name)
        optional = name in ("factor", "side", "out_side")
        if not (optional and value is None) and not (type(value) is int and low <= value <= high):
            raise ValueError(f"pictures.{name} is {value!r}; {low} to {high} works")
    for name in ("usual_scale", "least_scale", "most_scale", "trained_scale"):
        value = getattr(found, name)
        if not (isinstance(value, int | float) and 0.001 <= value <= 64):
            raise ValueError(f"pictures.{name} is {value!r}; 0.001 to 64 works")
    if found.channels == 2:
        raise ValueError("pictures.channels is 2; 1 and 3 work")
    if found.side and (found.out_side is None) != (found.factor is not None):
        raise ValueError("pictures.out_side belongs to a side where there is no factor, and only there")
    return found


def read_manifest(file: str | os.PathLike[str]) -> Manifest | None:
    """The manifest of an exported file; None where it has none. Nothing of the program is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or no file of a kind that is exported, in one line.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    try:
        if file.suffix == ".onnx":
            text = dict(_onnx_metadata(file)).get(KEY)
        elif file.suffix in ZIPPED:
            text = _archived(file)
        elif file.suffix == ".pte":
            text = _at_the_end(file)
        else:
            raise ValueError(f"{', '.join(SUFFIXES)} files are read")
    except (ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{file} is no intact exported file ({str(error)[:200]})") from None
    return None if text is None else Manifest.from_json(text, str(file))


def _archived(file: Path) -> bytes | None:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(f"extra/{ARCHIVED}"):
                if entry.file_size > MAX_BYTES:
                    raise ValueError(f"its manifest has {entry.file_size} bytes; {MAX_BYTES} are the most")
                with archive.open(entry) as opened:
                    return opened.read(MAX_BYTES)
    return None


def with_tail(content: bytes, manifest: Manifest) -> bytes:
    """A file's content with a manifest behind it."""
    text = manifest.to_json().encode()
    return content + text + len(text).to_bytes(8, "little") + MAGIC


def _at_the_end(file: Path) -> bytes | None:
    size, tail = file.stat().st_size, 8 + len(MAGIC)
    with file.open("rb") as opened:
        opened.seek(max(0, size - tail))
        length, magic = opened.read(8), opened.read()
        if magic != MAGIC:
            return None
        count = int.from_bytes(length, "little")
        if count > min(MAX_BYTES, size - tail):
            raise ValueError(f"its manifest has {count} bytes; {min(MAX_BYTES, size - tail)} are the most")
        opened.seek(size - tail - count)
        return opened.read(count)


# ------------------------------------------------------------- protocol buffers, as far as ONNX's ModelProto needs them

_METADATA = 14  # metadata_props of ModelProto: entries of a key (1) and a value (2)


def _onnx_metadata(file: Path) -> Iterator[tuple[str, bytes]]:
    """(key, value) of each entry of a model's metadata; all else is passed over."""
    end = file.stat().st_size
    with file.open("rb") as opened:
        for number, length in _entries(opened, end):
            if number == _METADATA:
                if length > MAX_BYTES:
                    raise ValueError(f"an entry of its metadata has {length} bytes; {MAX_BYTES} are the most")
                stop = opened.tell() + length
                parts = {number: opened.read(size) for number, size in _entries(opened, stop)}
                yield parts.get(1, b"").decode(), parts.get(2, b"")
            else:
                opened.seek(length, os.SEEK_CUR)


def _entries(opened: IO[bytes], end: int) -> Iterator[tuple[int, int]]:
    """Number and length of each field that has a length, up to `end`; the file stands at its content."""
    while opened.tell() < end:
        tag = _varint(opened)
        kind = tag & 7
        if kind == 0:
            _varint(opened)
        elif kind in (1, 5):
            opened.seek(8 if kind == 1 else 4, os.SEEK_CUR)
        elif kind == 2:
            length = _varint(opened)
            if opened.tell() + length > end:
                raise ValueError("a part of it is longer than the file")
            yield tag >> 3, length
        else:
            raise ValueError("it is no protocol buffer")


def _varint(opened: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = opened.read(1)
        if not byte:
            raise ValueError("it ends too early")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("it is no protocol buffer")
