"""What Pillow reads and writes in full: all formats of 8 bits, some of them by packages that teach it."""

from __future__ import annotations

import contextlib
import io
import struct
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import PIL.Image
from numpy.typing import NDArray

from lorgnette.images import exif as exif_data
from lorgnette.images.about import CENTIMETRES, About, Described
from lorgnette.images.errors import ImageError
from lorgnette.images.formats import png
from lorgnette.images.formats.table import BY_NAME, FORMATS, Format

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_IPTC = 0x0404  # among the resources of Photoshop
_LONGEST = 65533  # bytes of a segment of a JPEG
_MOST_DPI = {"JPEG": 65535, "BMP": 2**31 * 0.0254, "PNG": 2**31 * 0.0254}  # per metre in the last two
_XMP_HEAD, _APP13_HEAD = b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
# Segments of a JPEG that are read, or that say how it is stored.
_SEGMENTS = (b"JFIF\0", b"JFXX\0", b"Exif\0", b"ICC_PROFILE\0", b"MPF\0", b"Adobe", _XMP_HEAD, _APP13_HEAD)
_PLAIN_TRANSFERS = (1, 2, 6, 13, 14, 15)  # of an AVIF or HEIC: those that look as sRGB does
_limit = threading.Lock()

CheckSize = Callable[[tuple[int, int]], None]


def teach(path: Path, head: bytes) -> str | None:
    """Make Pillow read a format that it does not read by itself; the name of the format, or None for all others.

    Raises:
        ImageError: the package for it is not installed.
    """
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS and b"avif" not in head[:64]:
        format = BY_NAME["HEIF"]
    elif head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        format = BY_NAME["JXL"]
    else:
        return None
    learn(path, format, "read")
    return format.name


def learn(path: Path, format: Format, what: str) -> None:
    """Make Pillow know a format of a package of its own.

    Raises:
        ImageError: the package is not installed.
    """
    try:
        module = import_module(format.module)
        if format.name == "JXL":
            import_module("pillow_jxl.JpegXLImagePlugin")
    except ImportError:
        raise ImageError(
            f"cannot {what} {path}: {format} needs a package more: pip install 'lorgnette[formats]'"
        ) from None
    if format.name == "HEIF":
        module.register_heif_opener()


def open_file(path: Path, stream: IO[bytes], check_size: CheckSize, number: int | None = None) -> PIL.Image.Image:
    """Read the header of a picture. Pillow's own limit of pixels is a global; ours takes its place meanwhile."""
    taught = teach(path, stream.read(64))
    stream.seek(0)
    names = [taught] if taught else sorted(format.name for format in FORMATS if not format.module)
    with _limit:
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            file = PIL.Image.open(stream, formats=names)
            check_size(file.size)
            if number is not None:
                file.seek(number)
                check_size(file.size)
            if file.format == "TIFF":
                file.load()  # asks for the limit once more
            return file
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def simple(path: Path, file: PIL.Image.Image) -> PIL.Image.Image:
    """The same picture as L, LA, RGB or RGBA."""
    if file.mode in ("1", "L", "LA", "La"):
        level = file.info.get("transparency")
        bits = path_bits(path) if file.format == "PNG" else 8
        if isinstance(level, int) and bits in (2, 4):  # which Pillow (13.0) compares with levels of 8 bits
            file.info["transparency"] = level * 255 // (2**bits - 1)
        return file.convert("LA" if file.has_transparency_data else "L")
    if file.mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        return file.convert("RGBA" if file.has_transparency_data else "RGB")
    raise ImageError(f"{path} has {file.mode} pixels: convert it to grey or RGB of 8 or 16 bits")


def path_bits(path: Path) -> int:
    """Bits of a sample of a PNG."""
    with path.open("rb") as file:
        return file.read(25)[24]


def cmyk_to_srgb(file: PIL.Image.Image, icc: bytes | None) -> PIL.Image.Image:
    """A picture for print as RGB, by its profile where it has one."""
    if icc:
        from PIL import ImageCms

        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            converted = ImageCms.profileToProfile(
                file,
                ImageCms.ImageCmsProfile(io.BytesIO(icc)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
            if converted is not None:
                return converted
    return file.convert("RGB")


# ------------------------------------------------------------------------------------------------- what it says


def describe(path: Path, file: Any) -> Described:
    """What a loaded picture says of itself."""
    orientation, exif = exif_data.from_pillow(path, file)
    about = _about(path, file, exif)
    return Described(orientation, exif, file.info.get("icc_profile"), about.turned(orientation))


def _about(path: Path, file: Any, exif: bytes | None) -> About:
    info, lost = file.info, ()
    xmp, iptc, colour, texts = info.get("xmp"), None, (), {}
    dpi = info.get("dpi")
    if isinstance(comment := info.get("comment"), bytes):
        texts["Comment"] = _decoded(comment)
    if file.format == "PNG":
        texts = {word: text for word, text in file.text.items() if not _is_copy(word)}
        colour, lost = png.read_chunks(path)
        lost += _shape(info.get("aspect"))
    elif file.format in ("JPEG", "MPO"):
        unit = {1: 1.0, 2: CENTIMETRES}.get(info.get("jfif_unit", 0))
        dpi = tuple(n * unit for n in info["jfif_density"]) if unit and min(info["jfif_density"]) > 0 else None
        iptc = info.get("photoshop", {}).get(_IPTC)
        segments = [(name, data) for name, data in file.applist if name != "COM" and not data.startswith(_SEGMENTS)]
        lost = () if unit else _shape(info.get("jfif_density"))
        lost += tuple(dict.fromkeys(f"the segment {name} {_title(data)}".rstrip() for name, data in segments))
    elif file.format in ("AVIF", "HEIF"):
        colour, lost = _of_boxes(path)
    elif file.format == "JXL":
        xmp = _jxl_xmp(path)
    dpi = dpi or exif_data.resolution(exif)
    dpi = (float(dpi[0]), float(dpi[1])) if dpi and min(dpi) > 0 else None
    return About(dpi, xmp.encode() if isinstance(xmp, str) else xmp, iptc, tuple(texts.items()), colour, lost)


def _is_copy(keyword: str) -> bool:
    """Whether the text of a PNG is what Pillow hands out as EXIF or XMP data."""
    return keyword == png.XMP or keyword in ("Raw profile type exif", "Raw profile type xmp", "Raw profile type APP1")


def _shape(sides: tuple[int, int] | None) -> tuple[str, ...]:
    """What is lost where pixels are not square, and nothing else is known of their size."""
    return () if sides is None or sides[0] == sides[1] else (f"pixels of another shape than square ({sides})",)


def _decoded(comment: bytes) -> str:
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")


def _title(data: bytes) -> str:
    """The name at the start of a segment; Content Credentials begin with numbers."""
    if b"jumb" in data[:32]:
        return "(Content Credentials)"
    name = data.partition(b"\0")[0][:60]
    return f"({name.decode('latin-1')})" if name.isascii() and name.decode("latin-1").isprintable() and name else ""


def _of_boxes(path: Path) -> tuple[tuple[png.Chunk, ...], tuple[str, ...]]:
    """Of an AVIF or HEIC: its colours as a PNG says them where they are unlike sRGB, and the bits that are lost."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    colour, lost = (), ()
    if (at := head.find(b"colrnclx")) > 0:
        primaries, transfer, _, _ = struct.unpack(">HHHB", head[at + 8 : at + 15])
        if transfer not in _PLAIN_TRANSFERS or primaries not in (1, 2, 5, 6):
            colour = ((b"cICP", bytes([primaries & 255, transfer & 255, 0, 1])),)
    if (at := head.find(b"pixi\0\0\0\0")) > 0 and (bits := head[at + 9]) > 8:
        lost = (f"{bits} bits a channel, read as 8",)
    return colour, lost


def _jxl_xmp(path: Path) -> bytes | None:
    """The XMP data of a JPEG XL, which its package does not hand out."""
    data, at = path.read_bytes(), 0
    while len(head := data[at : at + 8]) == 8 and not data.startswith(b"\xff\x0a"):
        length, kind = struct.unpack(">I4s", head)
        if kind == b"xml ":
            return data[at + 8 : at + length if length else None]
        if length < 8:  # to the end, or a long one: pixels
            return None
        at += length
    return None


# ------------------------------------------------------------------------------------------------------ writing


def too_long(format: Format, exif: bytes | None, about: About) -> list[str]:
    """What is too large for a file of this format: a segment of a JPEG has 64 KB, its resolution 16 bits."""
    dpi = max(about.dpi or (0,))
    if format.name != "JPEG":
        return ["dpi"] if format.name in _MOST_DPI and dpi >= _MOST_DPI[format.name] else []
    parts = (("exif", exif, 0), ("xmp", about.xmp, len(_XMP_HEAD)), ("iptc", about.iptc, len(_APP13_HEAD) + 14))
    found = [name for name, data, head in parts if data and len(data) + head > _LONGEST]
    found += ["dpi"] if dpi >= _MOST_DPI["JPEG"] else []
    if about.comment and len(about.comment.encode()) > _LONGEST:
        found.append("comment")
    return found


def save(
    path: Path, format: Format, samples: NDArray, quality: int, icc: bytes | None, exif: bytes | None, about: About
) -> None:
    """Write `(H, W, 1 | 2 | 3 | 4)` of 8 bits and what is said of it, as far as the format keeps it."""
    picture = PIL.Image.fromarray(samples.squeeze(-1) if samples.shape[-1] == 1 else samples)
    if format.name == "PNG":
        file = io.BytesIO()
        picture.save(file, format="PNG")
        png.write_with(path, file.getbuffer(), png.chunks(icc, exif, about))
        return
    settings: dict[str, Any] = {"icc_profile": icc, "exif": exif, "xmp": about.xmp}
    settings = {name: data for name, data in settings.items() if data}
    if format.name in ("JPEG", "BMP") and about.dpi:
        settings["dpi"] = about.dpi
    if format.name == "JPEG":
        settings |= {"quality": quality, "subsampling": 0}
        if about.comment:
            settings["comment"] = about.comment
        if about.iptc:
            settings["extra"] = _app13(about.iptc)
    elif format.name == "BMP":
        settings = {name: data for name, data in settings.items() if name == "dpi"}
    elif format.name in ("WEBP", "JXL"):
        settings |= {"quality": quality, "lossless": quality == 100}
        if format.name == "WEBP":
            settings["exact"] = True
    else:
        settings["quality"] = quality
        if format.name == "AVIF":
            settings["subsampling"] = "4:4:4"
    if format.name == "HEIF":
        picture = picture.convert("RGB") if picture.mode == "L" else picture
    picture.save(path, format=format.name, **settings)


def _app13(iptc: bytes) -> bytes:
    resource = struct.pack(">4sHHI", b"8BIM", _IPTC, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)
    return struct.pack(">HH", 0xFFED, 2 + len(_APP13_HEAD) + len(resource)) + _APP13_HEAD + resource
