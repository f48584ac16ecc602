"""What a picture says of itself goes into the new file, or is named as lost."""

from __future__ import annotations

import struct
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.images import files

from lorgnette.images import About, Image, ImageWarning, read_image, write_image
from lorgnette.images.exif import tags as exif_tags

HOLDS = {  # what each format has a place for
    ".png": "icc artist xmp dpi title comment gamma",
    ".jpg": "icc artist xmp dpi iptc comment",
    ".webp": "icc artist xmp dpi",
    ".avif": "icc artist xmp dpi",
    ".tif": "icc artist xmp dpi iptc",
    ".bmp": "dpi",
}
NAMES = {"icc": "colour profile", "artist": "EXIF data", "xmp": "XMP", "dpi": "dpi", "iptc": "IPTC"}
NAMES |= {"title": "texts (Title", "comment": "comment"}


def written(path: Path, image: Image) -> str:
    """Write it; what was said of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_image(path, image)
    assert all(issubclass(warning.category, ImageWarning) for warning in caught)
    return "\n".join(str(warning.message) for warning in caught)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("target", HOLDS)
@pytest.mark.parametrize("source", [suffix for suffix in HOLDS if suffix != ".bmp"])
def test_it_is_kept_or_named(source: str, target: str, bits: int, tmp_path: Path):
    image = replace(read_image(files.described(tmp_path / f"a{source}")), bits=bits)
    if source in (".webp", ".avif"):  # these have no other place for it than EXIF data
        image.about = replace(image.about, dpi=(300.0, 300.0))
    line = written(tmp_path / f"b{target}", image)
    found = files.said(tmp_path / f"b{target}")
    had, holds = HOLDS[source].split(), HOLDS[target].split()
    for what in had:
        if what == "gamma":  # beside a profile, which comes first, it says nothing; see below
            continue
        assert (NAMES[what] in line) == (what not in holds), (what, line)
    kept = [what for what in had if what in holds]
    if "icc" in kept:
        assert found["icc"] == files.ICC
    if "artist" in kept:
        assert found["artist"] == "A. Painter"
    if "xmp" in kept:
        assert b'xmp:Rating="5"' in found["xmp"]
    if "dpi" in kept:
        assert found["dpi"] == pytest.approx((300, 300), abs=0.01)
    if "iptc" in kept:
        assert found["iptc"] == files.IPTC
    if "comment" in kept:
        assert found["comment"] == b"by hand"
    if "title" in kept:
        assert found["texts"]["Title"] == "a sea"
        caption = found["texts"]["Caption"]
        assert (caption, caption.lang, caption.tkey) == ("ein Bild ü", "de", "Bildunterschrift")
    if "gamma" in kept:
        assert found["gamma"] == 1.0
    again = read_image(tmp_path / f"b{target}")  # and so once more
    assert written(tmp_path / f"c{target}", again) == ""
    second = files.said(tmp_path / f"c{target}")
    assert {k: v for k, v in second.items() if k != "icc"} == {k: v for k, v in found.items() if k != "icc"}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".avif", ".tif"])
def test_xmp_speaks_of_the_new_picture(suffix: str, tmp_path: Path):
    """It is upright already: what XMP data says of that would turn it once more."""
    about = About(dpi=(600.0, 300.0), xmp=files.XMP)
    write_image(tmp_path / f"a{suffix}", Image(np.zeros((30, 70, 3), np.float32), about=about))
    xmp = files.said(tmp_path / f"a{suffix}")["xmp"]
    assert b'tiff:Orientation="1"' in xmp
    assert b"<exif:PixelXDimension>70<" in xmp
    assert b'tiff:XResolution="60000/100"' in xmp
    assert read_image(tmp_path / f"a{suffix}").pixels.shape == (30, 70, 3)


def test_a_turned_scan_swaps_its_resolutions(tmp_path: Path):
    data = PIL.Image.Exif()
    data[0x0112] = 6
    PIL.Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", dpi=(200, 100), exif=data)
    assert read_image(tmp_path / "a.jpg").about.dpi == (100, 200)
    PIL.Image.new("RGB", (8, 6)).save(tmp_path / "a.tif", dpi=(200, 100), tiffinfo={0x0112: 6})
    turned = read_image(tmp_path / "a.tif")
    assert (turned.about.dpi, turned.pixels.shape) == ((100, 200), (8, 6, 3))


def test_resolution_in_other_units(tmp_path: Path):
    picture = PIL.Image.new("RGB", (8, 6))
    picture.save(tmp_path / "a.tif", resolution=100, resolution_unit="cm")
    assert read_image(tmp_path / "a.tif").about.dpi == pytest.approx((254, 254))
    data = files.bytes_of(picture, "JPEG", dpi=(100, 100))
    at = data.index(b"JFIF\0") + 7
    (tmp_path / "a.jpg").write_bytes(data[:at] + b"\x02" + data[at + 1 :])
    assert read_image(tmp_path / "a.jpg").about.dpi == pytest.approx((254, 254))
    (tmp_path / "b.jpg").write_bytes(data[:at] + b"\x00" + data[at + 1 :])  # the shape of a pixel, no resolution
    assert read_image(tmp_path / "b.jpg").about.dpi is None
    picture.save(tmp_path / "c.jpg", exif=files.exif())  # for which Pillow reports 72
    assert read_image(tmp_path / "c.jpg").about.dpi is None


def test_pixels_that_are_not_square_are_named(tmp_path: Path):
    """Where the file says their shape alone; with a resolution for each axis that is kept."""
    files.png(tmp_path / "a.png", files.scene(), 8, 2, (b"pHYs", struct.pack(">IIB", 2, 1, 0)))
    assert written(tmp_path / "b.png", read_image(tmp_path / "a.png")).endswith("than square ((2, 1))")
    data = files.bytes_of(PIL.Image.new("RGB", (8, 6)), "JPEG", dpi=(200, 100))
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_image(tmp_path / "a.jpg").about == About(dpi=(200.0, 100.0))
    at = data.index(b"JFIF\0") + 7
    (tmp_path / "b.jpg").write_bytes(data[:at] + b"\x00" + data[at + 1 :])
    assert written(tmp_path / "c.jpg", read_image(tmp_path / "b.jpg")).endswith("than square ((200, 100))")


def test_exif_resolution_follows(tmp_path: Path):
    data = PIL.Image.Exif()
    data[282], data[283], data[296] = 72, 72, 2
    image = Image(np.zeros((4, 5, 3), np.float32), exif=data.tobytes(), about=About(dpi=(600.0, 600.0)))
    for name in ("a.jpg", "a.png", "a.webp", "a.tif"):
        write_image(tmp_path / name, image)
        with PIL.Image.open(tmp_path / name) as file:
            assert file.getexif()[282] == 600


def test_letters_of_exif_data(tmp_path: Path):
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=files.exif("© Jürgen 写真"))
    for name in ("b.jpg", "b.png", "b.webp", "b.tif"):
        write_image(tmp_path / name, read_image(tmp_path / "a.jpg"))
        assert "© Jürgen 写真".encode() in (tmp_path / name).read_bytes()
        assert exif_tags(read_image(tmp_path / name).exif)[files.ARTIST] == "© Jürgen 写真".encode()


def test_colour_chunks_of_all_kinds_and_depths(tmp_path: Path):
    kinds = [(b"cICP", bytes([9, 16, 0, 1])), files.GAMMA, (b"cHRM", struct.pack(">8I", *range(30000, 30008)))]
    kinds += [(b"mDCV", bytes(24)), (b"cLLI", bytes(8))]
    for bits in (8, 16):
        files.png(tmp_path / "a.png", files.scene().astype(np.uint16), bits, 2, *kinds)
        image = read_image(tmp_path / "a.png")
        write_image(tmp_path / "b.png", image)
        data = (tmp_path / "b.png").read_bytes()
        assert all(files.chunk(*kind) in data[: data.index(b"IDAT")] for kind in kinds)
        with pytest.warns(ImageWarning, match=r"c\.jpg: without what it says of its colours \(cICP, gAMA"):
            write_image(tmp_path / "c.jpg", image)


def test_what_every_program_assumes_is_no_loss(tmp_path: Path):
    """sRGB, and the gamma and primaries of sRGB, need not be said."""
    plain = [(b"gAMA", struct.pack(">I", 45455))]
    plain += [(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))]
    for chunks in ([(b"sRGB", b"\0")], plain, [(b"cICP", bytes([1, 13, 0, 1]))]):
        files.png(tmp_path / "a.png", files.scene(), 8, 2, *chunks)
        assert written(tmp_path / "b.jpg", read_image(tmp_path / "a.png")) == ""


@pytest.mark.parametrize(
    ("gamma", "first", "plain"), [(45455, 31270, True), (45455, 31271, False), (45400, 31270, False), (0, 31270, True)]
)
def test_gamma_and_primaries_both_count(gamma: int, first: int, plain: bool):
    colour = [(b"cHRM", struct.pack(">8I", first, 32900, 64000, 33000, 30000, 60000, 15000, 6000))]
    colour += [(b"gAMA", struct.pack(">I", gamma))] if gamma else []
    assert About(colour=tuple(colour)).is_plain == plain
    assert About(colour=(*colour, (b"sRGB", b"\0"))).is_plain
    assert not About(colour=(*colour, (b"cICP", bytes([9, 16, 0, 1])))).is_plain


@pytest.mark.parametrize(
    ("kind", "length"), [(b"sBIT", 3), (b"hIST", 4), (b"tIME", 7), (b"iDOT", 28), (b"pHYs", 9), (b"sRGB", 1)]
)
def test_chunks_of_the_file_s_own_making_are_no_loss(kind: bytes, length: int, tmp_path: Path):
    files.png(tmp_path / "a.png", files.scene(), 8, 2, (kind, bytes(length)))
    assert written(tmp_path / "b.png", read_image(tmp_path / "a.png")) == ""


def test_how_a_file_is_stored_is_no_loss(tmp_path: Path):
    import tifffile

    picture = PIL.Image.fromarray(files.scene())
    picture.save(tmp_path / "a.mpo", "MPO", save_all=True, append_images=[picture], exif=files.exif())
    assert written(tmp_path / "b.jpg", read_image(tmp_path / "a.mpo", number=0)) == ""
    picture.convert("CMYK").save(tmp_path / "c.jpg")  # with a segment of Adobe's
    files.with_segment(tmp_path / "c.jpg", 0xE0, b"JFXX\0\x13" + bytes(9))
    assert written(tmp_path / "d.jpg", read_image(tmp_path / "c.jpg")) == ""
    picture.save(tmp_path / "e.png", save_all=True, append_images=[PIL.Image.new("RGB", picture.size)])
    assert written(tmp_path / "f.png", read_image(tmp_path / "e.png", number=0)) == ""
    for kind in (np.uint8, np.uint16):
        codes = (255, 260, 263, 264, 265, 275, 276, 280, 281, 290, 291, 292, 293, 297, 332, 333, 334, 336, 340, 341)
        tags = [(code, 3, 1, 1, True) for code in (*codes, 512, 513, 514, 529, 530, 531, 532, 559)]
        with tifffile.TiffWriter(tmp_path / "g.tif") as file:
            file.write(files.scene().astype(kind), photometric="rgb", extratags=tags, metadata=None, tile=(16, 16))
        assert described_by(tmp_path / "g.tif").lost == ()


def described_by(path: Path) -> About:
    from lorgnette.images.formats.tiff import describe

    return describe(path, 0).about


@pytest.mark.parametrize("bits", [8, 16])
def test_what_nothing_here_knows_is_named(bits: int, tmp_path: Path):
    files.png(tmp_path / "a.png", files.scene().astype(np.uint16), bits, 2, (b"bKGD", bytes(6)), (b"iDOT", bytes(8)))
    assert written(tmp_path / "b.png", read_image(tmp_path / "a.png")) == f"{tmp_path}/b.png: without the chunk bKGD"
    PIL.Image.fromarray(files.scene()).save(tmp_path / "a.jpg")
    files.with_segment(tmp_path / "a.jpg", 0xEB, b"JP\0\1\0\0\0\1\0\0\0\x20jumb" + bytes(20))
    files.with_segment(tmp_path / "a.jpg", 0xEC, b"Ducky\0" + bytes(4))
    line = written(tmp_path / "c.png", read_image(tmp_path / "a.jpg"))
    assert "the segment APP12 (Ducky)" in line
    assert "the segment APP11 (Content Credentials)" in line


@pytest.mark.parametrize("bits", [8, 16])
def test_tags_of_a_tiff_that_are_not_kept_are_named(bits: int, tmp_path: Path):
    """Where a map lies; and what programs write of the pixels is dropped: of another size it is false."""
    import tifffile

    samples = files.scene().astype(np.uint8 if bits == 8 else np.uint16)
    place = [(33550, 12, 3, (1.0, 1.0, 0.0), True)]
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extratags=place)
    line = written(tmp_path / "b.tif", read_image(tmp_path / "a.tif"))
    assert line == f"{tmp_path}/b.tif: without the tag ModelPixelScaleTag (33550)"
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert "ImageDescription" not in file.pages.first.tags


@pytest.mark.parametrize("tag", [270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_tags_of_a_tiff_that_say_something_of_the_picture(tag: int, kind: type, tmp_path: Path):
    """What it shows, by whom, with what and when; its rating; and what Windows notes."""
    import tifffile

    value = (tag, 3, 1, 4, True) if tag in (18246, 18249) else (tag, 1, 4, b"text", True)
    value = value if tag in (18246, 18249) or tag > 40000 else (tag, 2, 5, "text", True)
    tags = {"extratags": [value], "metadata": None, "software": False, "datetime": False}
    tifffile.imwrite(tmp_path / "a.tif", files.scene().astype(kind), photometric="rgb", **tags)
    assert written(tmp_path / "b.tif", read_image(tmp_path / "a.tif")) == ""
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages.first.tags.valueof(tag) == value[3]


def test_what_is_too_long_for_a_jpeg_is_named_before_it_fails(tmp_path: Path):
    data = PIL.Image.Exif()
    data.get_ifd(0x8769)[37500] = bytes(70_000)  # a maker's note
    about = About(xmp=files.XMP + b" " * 70_000, iptc=bytes(70_000), texts=(("Comment", "x" * 70_000),))
    image = Image(np.zeros((4, 4, 3), np.float32), exif=data.tobytes(), about=about)
    assert written(tmp_path / "a.jpg", image).endswith("a.jpg: without EXIF data, XMP data, IPTC data, comment")
    assert written(tmp_path / "a.png", image).endswith("a.png: without IPTC data")


@pytest.mark.parametrize(("suffix", "most"), [(".jpg", 65535), (".png", 54_500_000), (".bmp", 54_500_000)])
def test_a_resolution_beyond_the_format_is_named(suffix: str, most: int, tmp_path: Path):
    for dpi, line in ((most - 1.0, ""), (most * 1.01, f"{tmp_path}/a{suffix}: without resolution (dpi)")):
        image = Image(np.zeros((4, 4, 3), np.float32), about=About(dpi=(1.0, dpi)))
        assert written(tmp_path / f"a{suffix}", image) == line


def test_a_resolution_of_one_is_none(tmp_path: Path):
    """Writers that know none put that there."""
    picture = PIL.Image.new("RGB", (4, 4))
    for value, found in ((1, None), (1.5, (1.5, 1.5)), (2_000_000, None)):
        data = PIL.Image.Exif()
        data[282] = data[283] = value
        data[296] = 2
        picture.save(tmp_path / "a.webp", exif=data)
        assert read_image(tmp_path / "a.webp").about.dpi == found


def test_damaged_descriptions_do_not_stop_a_picture(tmp_path: Path):
    PIL.Image.fromarray(files.scene()).save(tmp_path / "a.jpg", xmp=b"no xml \xff\xfe", comment=b"\xff\xfe")
    files.with_segment(tmp_path / "a.jpg", 0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0")
    image = read_image(tmp_path / "a.jpg")
    assert image.about.comment == "ÿþ"
    write_image(tmp_path / "b.jpg", image)
