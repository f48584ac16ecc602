"""Picture files that say much of themselves, made byte by byte or by other programs than ours."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageCms
from PIL.PngImagePlugin import PngInfo

XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmp:Rating="5" tiff:Orientation="6" tiff:XResolution="300/1">'
    b"<exif:PixelXDimension>24</exif:PixelXDimension></rdf:Description></rdf:RDF></x:xmpmeta>"
    b'<?xpacket end="w"?>'
)
IPTC = b"\x1c\x02\x19\x00\x07keyword"
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GAMMA = (b"gAMA", struct.pack(">I", 100_000))
ARTIST = 0x013B


def scene(height: int = 18, width: int = 24, seed: int = 0) -> np.ndarray:
    """Smooth colours, (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC))


def exif(artist: str = "A. Painter") -> bytes:
    """With the artist; letters beyond ASCII in UTF-8, as cameras write them."""
    data = PIL.Image.Exif()
    data[ARTIST] = artist.encode()
    return data.tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(path: Path, *chunks: tuple[bytes, bytes]) -> None:
    """Put chunks into a PNG, after its header."""
    data = path.read_bytes()
    path.write_bytes(data[:33] + b"".join(chunk(*each) for each in chunks) + data[33:])


def with_segment(path: Path, marker: int, data: bytes) -> None:
    """Put a segment into a JPEG, at its start."""
    file = path.read_bytes()
    path.write_bytes(file[:2] + struct.pack(">HH", 0xFF00 | marker, len(data) + 2) + data + file[2:])


def png(path: Path, samples: np.ndarray, bits: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> None:
    """A PNG of any depth, from integers (H, W) or (H, W, C)."""
    height, width = samples.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        planes = [[f"{level:0{bits}b}" for level in row.ravel()] for row in samples]
        rows = [int("".join(row), 2).to_bytes(len(row) * bits // 8, "big") for row in planes]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def described(path: Path) -> Path:
    """A picture that says all that its format can hold, by Pillow or tifffile."""
    picture, suffix = PIL.Image.fromarray(scene()), path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        import tifffile

        tags = [(700, 1, len(XMP), XMP, True), (33723, 7, len(IPTC), IPTC, True), (34675, 7, len(ICC), ICC, True)]
        tags += [(ARTIST, 2, 11, "A. Painter", True)]
        tifffile.imwrite(path, scene(), photometric="rgb", resolution=(300, 300), extratags=tags, metadata=None)
        return path
    more: dict = {"icc_profile": ICC, "exif": exif(), "xmp": XMP}
    if suffix in (".jpg", ".png", ".bmp"):
        more["dpi"] = (300, 300)
    if suffix == ".bmp":
        more = {"dpi": (300, 300)}
    if suffix == ".png":
        more["pnginfo"] = texts = PngInfo()
        texts.add_text("Title", "a sea")
        texts.add_text("Comment", "by hand")
        texts.add_itxt("Caption", "ein Bild ü", lang="de", tkey="Bildunterschrift")
        texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
        del more["xmp"]
    if suffix == ".jpg":
        more["comment"] = "by hand"
    picture.save(path, **more)
    if suffix == ".png":
        with_chunks(path, GAMMA)
    if suffix == ".jpg":
        data = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
        with_segment(path, 0xED, data)
    return path


def said(path: Path) -> dict:
    """What a file says, as Pillow (or tifffile) reads it: not our own reader."""
    with PIL.Image.open(path) as file:
        file.load()
        info, data = dict(file.info), file.getexif()
        found: dict = {"size": file.size, "icc": info.get("icc_profile"), "artist": data.get(ARTIST)}
        found["dpi"] = info.get("dpi") or ((float(data[282]), float(data[283])) if 282 in data else None)
        found["xmp"], found["texts"] = info.get("xmp"), dict(getattr(file, "text", {}))
        found["iptc"] = info.get("photoshop", {}).get(0x0404)
        found["comment"] = info.get("comment") or found["texts"].get("Comment", "").encode() or None
        if file.format == "TIFF":
            tags = file.tag_v2  # type: ignore[attr-defined]
            found |= {"xmp": tags.get(700), "iptc": tags.get(33723)}
        found["gamma"] = info.get("gamma")
    return found


def bytes_of(picture: PIL.Image.Image, format: str, **more) -> bytes:
    """A file in memory."""
    stream = io.BytesIO()
    picture.save(stream, format, **more)
    return stream.getvalue()
