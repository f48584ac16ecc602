"""Formats beside PNG, JPEG and TIFF of 8 bits: what is read, what is written, and what is said where it is not."""

from __future__ import annotations

import contextlib
import struct
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from tests.images.files import ICC, XMP, bytes_of, exif, png, scene

from lorgnette.images import (
    About,
    Image,
    ImageError,
    ImageWarning,
    find_images,
    read_image,
    read_images,
    to_uint8,
    write_image,
    write_images,
)
from lorgnette.images.folders import written_as
from lorgnette.images.formats import pillow

OTHERS = {".heic": "pillow_heif", ".jxl": "pillow_jxl"}


def close(path: Path, most: float = 6) -> bool:
    return float(np.abs(to_uint8(read_image(path).pixels).astype(int) - scene()).mean()) < most


# ------------------------------------------------------------------------------------------------ what Pillow has


@pytest.mark.parametrize("name", ["a.jfif", "a.gif", "a.avif"])
def test_read(name: str, tmp_path: Path):
    kind = {".jfif": "JPEG", ".gif": "GIF", ".avif": "AVIF"}[Path(name).suffix]
    (tmp_path / name).write_bytes(bytes_of(PIL.Image.fromarray(scene()), kind))
    assert close(tmp_path / name, 12)
    assert find_images(tmp_path) == [tmp_path / name]


@pytest.mark.parametrize("name", ["a.jfif", "a.avif"])
def test_written(name: str, tmp_path: Path):
    write_image(tmp_path / name, Image(scene()))
    assert close(tmp_path / name)


def test_a_gif_is_read_and_its_result_is_a_png(tmp_path: Path):
    see_through = PIL.Image.fromarray(scene()).quantize(8)
    see_through.save(tmp_path / "a.gif", transparency=0, comment=b"by hand")
    image = read_image(tmp_path / "a.gif")
    assert 0 < image.alpha.mean() < 1
    assert image.about.comment == "by hand"
    assert written_as(tmp_path / "a.gif") == tmp_path / "a.png"
    assert written_as(tmp_path / "b.JPG") == tmp_path / "b.JPG"
    with pytest.raises(ImageError, match=r"a\.gif: its suffix must be one of \.png"):
        write_image(tmp_path / "a.gif", image)


def test_avif_keeps_alpha(tmp_path: Path):
    alpha = np.zeros((18, 24), np.float32)
    alpha[:, 12:] = 1
    write_image(tmp_path / "a.avif", Image(scene(), alpha=alpha))
    np.testing.assert_allclose(read_image(tmp_path / "a.avif").alpha, alpha, atol=0.05)


def test_colours_and_depth_of_an_avif_beyond_what_is_read_are_named(tmp_path: Path):
    """As a file of an HDR camera has them: 10 bits, BT.2020, PQ."""
    write_image(tmp_path / "a.avif", Image(scene()))
    data = (tmp_path / "a.avif").read_bytes()
    at = data.index(b"colrnclx") + 8
    bits = data.index(b"pixi\0\0\0\0") + 9
    data = bytearray(data)
    data[at : at + 4] = struct.pack(">HH", 9, 16)
    (tmp_path / "b.avif").write_bytes(data)
    image = read_image(tmp_path / "b.avif")
    assert image.about.colour == ((b"cICP", bytes([9, 16, 0, 1])),)
    with pytest.warns(ImageWarning, match=r"colours \(cICP\)"):
        write_image(tmp_path / "c.avif", image)
    data[bits : bits + 3] = b"\x0a\x0a\x0a"  # as if: its pixels are still of 8, and so it cannot be decoded
    (tmp_path / "d.avif").write_bytes(data)
    assert pillow._of_boxes(tmp_path / "d.avif")[1] == ("10 bits a channel, read as 8",)


@pytest.mark.parametrize("quality", ["quality of JPEG", "of WebP", "of AVIF"])
def test_quality_counts(quality: str, tmp_path: Path):
    suffix = {"JPEG": ".jpg", "WebP": ".webp", "AVIF": ".avif"}[quality.split()[-1]]
    noise = Image(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    sizes = []
    for level in (20, 60, 95):
        write_image(tmp_path / f"{level}{suffix}", noise, quality=level)
        sizes.append((tmp_path / f"{level}{suffix}").stat().st_size)
    assert sizes[0] * 1.3 < sizes[1]
    assert sizes[1] * 1.3 < sizes[2]


# --------------------------------------------------------------------------------------------- packages of the extra


@pytest.mark.parametrize("suffix", OTHERS)
def test_a_package_that_is_missing_is_named(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, OTHERS[suffix], None)
    starts = {".heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ".jxl": b"\xff\x0a\x7f\x3f"}
    (tmp_path / f"a{suffix}").write_bytes(starts[suffix] + bytes(50))
    assert written_as(tmp_path / f"a{suffix}") == tmp_path / "a.png"  # so that others of a folder are done
    for act in (lambda path: read_image(path), lambda path: write_image(path, Image(scene()))):
        with pytest.raises(ImageError, match=rf"a\{suffix}: .* needs .* pip install 'lorgnette\[formats\]'"):
            act(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", OTHERS)
def test_formats_of_the_extra(suffix: str, tmp_path: Path):
    pytest.importorskip(OTHERS[suffix])
    alpha = np.ones((18, 24), np.float32)
    alpha[:, :6] = 0
    about = About(dpi=(300.0, 300.0), xmp=XMP)
    image = Image(scene(), alpha=alpha, exif=exif(), about=about, icc=None if suffix == ".jxl" else ICC)
    write_image(tmp_path / f"a{suffix}", image)
    back = read_image(tmp_path / f"a{suffix}")
    assert np.abs(to_uint8(back.pixels).astype(int) - scene())[:, 8:].mean() < 12
    np.testing.assert_allclose(back.alpha, alpha, atol=0.1)
    assert b"A. Painter" in back.exif
    assert b'xmp:Rating="5"' in back.about.xmp
    assert back.about.dpi == (300, 300)
    if suffix == ".heic":
        assert back.icc == ICC
    if suffix == ".jxl":
        write_image(tmp_path / "b.jxl", Image(scene()), quality=100)
        np.testing.assert_array_equal(to_uint8(read_image(tmp_path / "b.jxl").pixels), scene())
        with pytest.warns(ImageWarning, match="without colour profile"):
            write_image(tmp_path / "c.jxl", Image(scene(), icc=ICC))


# ---------------------------------------------------------------------------------------------- a transparent colour


@pytest.mark.parametrize(("bits", "level"), [(1, 1), (1, 0), (2, 2), (4, 9), (8, 77), (16, 40_000)])
def test_a_grey_level_that_stands_for_transparency(bits: int, level: int, tmp_path: Path):
    levels = np.random.default_rng(0).integers(0, 2**bits, (8, 16))
    levels[2:5] = level
    png(tmp_path / "a.png", levels, bits, 0, (b"tRNS", struct.pack(">H", level)))
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.alpha, levels != level)
    np.testing.assert_allclose(image.pixels[..., 0], levels / (2**bits - 1), atol=1e-6)
    assert image.grey


@pytest.mark.parametrize("bits", [8, 16])
def test_a_colour_that_stands_for_transparency(bits: int, tmp_path: Path):
    levels = np.random.default_rng(0).integers(0, 2**bits, (8, 16, 3))
    levels[2:5] = (200, 1, 2)
    levels[6] = (200, 1, 3)  # another
    png(tmp_path / "a.png", levels, bits, 2, (b"tRNS", struct.pack(">HHH", 200, 1, 2)))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").alpha, (levels != (200, 1, 2)).any(-1))


# ------------------------------------------------------------------------------------------------------------- TIFF


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_bigtiff_is_read_as_tiff_is(kind: type, order: str, tmp_path: Path):
    samples = scene().astype(kind) * {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[kind]
    for name, big in (("small.tif", False), ("big.tif", True)):
        tags = [(0x013B, 2, 11, "A. Painter", True), (700, 1, len(XMP), XMP, True)]
        tifffile.imwrite(
            tmp_path / name,
            samples.astype(kind),
            photometric="rgb",
            bigtiff=big,
            byteorder=order,
            resolution=(300, 300),
            extratags=tags,
        )
    small, big = read_image(tmp_path / "small.tif"), read_image(tmp_path / "big.tif")
    np.testing.assert_array_equal(big.pixels, small.pixels)
    assert (big.exif is not None, big.about, big.bits) == (True, small.about, small.bits)
    assert big.about.dpi == (300, 300)
    write_image(tmp_path / "a.jpg", big)
    assert b"A. Painter" in (tmp_path / "a.jpg").read_bytes()


@pytest.mark.parametrize("big", [False, True])
def test_every_page_is_linked_to_the_next(big: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if big:
        monkeypatch.setattr("lorgnette.images.formats.tiff.LARGEST", 0)
    pages = np.random.default_rng(0).integers(0, 256, (4, 9, 7, 3)).astype(np.uint8)
    write_images(tmp_path / "a.tif", [Image(page) for page in pages])
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff == big
        for page, samples in zip(file.pages, pages, strict=True):
            np.testing.assert_array_equal(page.asarray(), samples)
    for image, samples in zip(read_images(tmp_path / "a.tif"), pages, strict=True):
        np.testing.assert_array_equal(to_uint8(image.pixels), samples)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("rows", [256, 257, 512, 513, 1000])
def test_every_strip_lies_where_the_file_says(rows: int, big: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A strip has 256 rows; the offsets of all of them are checked by other readers."""
    if big:
        monkeypatch.setattr("lorgnette.images.formats.tiff.LARGEST", 0)
    samples = np.random.default_rng(0).integers(0, 65536, (rows, 5, 3)).astype(np.uint16)
    image = Image(samples, bits=16, exif=exif(), icc=ICC, about=About(dpi=(300.0, 300.0)))
    write_image(tmp_path / "a.tif", image)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff == big
        np.testing.assert_array_equal(file.asarray(), samples)
    back = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.rint(back.pixels * 65535), samples)
    assert (back.icc, back.about.dpi) == (ICC, (300, 300))
    assert b"A. Painter" in back.exif


def test_floats_are_read_where_black_and_white_are_known(tmp_path: Path):
    values = np.random.default_rng(0).random((9, 7, 3))
    for kind in (np.float16, np.float32, np.float64):
        tifffile.imwrite(tmp_path / "a.tif", values.astype(kind), photometric="rgb")
        image = read_image(tmp_path / "a.tif")
        np.testing.assert_array_equal(image.pixels, values.astype(kind).astype(np.float32))
        assert (image.bits, image.span) == (32, (0, 1))
    tifffile.imwrite(tmp_path / "white.tif", values[..., 0].astype(np.float32), photometric="miniswhite")
    np.testing.assert_allclose(read_image(tmp_path / "white.tif").pixels[..., 0], 1 - values[..., 0], atol=1e-6)
    alpha = np.concatenate([values * 0.5, np.full((9, 7, 1), 0.5)], -1).astype(np.float32)
    tifffile.imwrite(tmp_path / "seen.tif", alpha, photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_allclose(read_image(tmp_path / "seen.tif").pixels, values, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[-2.0, 4000.0]], r"values go from -2 to 4000, and 0 to 1 is read.*such as \(x \+ 2\) / 4002"),
        ([[3.0, 255.0]], r"such as \(x - 3\) / 252"),
        ([[0.0, 255.0]], "such as x / 255"),
        ([[0.0, np.nan]], "values that are no numbers"),
        ([[0.0, np.inf]], "values that are no numbers"),
    ],
)
def test_floats_of_another_range_are_refused_with_it(values: list, message: str, tmp_path: Path):
    tifffile.imwrite(tmp_path / "a.tif", np.array(values, np.float32))
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / "a.tif")


RANGES = [(-2.0, 4000.0, (-2, 4000)), (3.0, 255.0, (0, 255)), (-9.0, -1.0, (-9, 0)), (0, 0.5, (0, 1))]


@pytest.mark.parametrize(("least", "most", "span"), RANGES)
@pytest.mark.parametrize("grey", [True, False])
def test_floats_of_any_range_come_back_as_they_were(least, most, span, grey: bool, tmp_path: Path):
    values = np.random.default_rng(0).uniform(least, most, (9, 7, 3)).astype(np.float32)
    values[0, 0], values[1, 1] = least, most
    values = values[..., 0] if grey else values
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack" if grey else "rgb")
    image = read_image(tmp_path / "a.tif", any_range=True)
    low, high = span
    assert image.span == span
    ends = (least - low) / (high - low), (most - low) / (high - low)
    assert (image.pixels.min(), image.pixels.max()) == pytest.approx(ends, abs=1e-6)
    write_image(tmp_path / "b.tif", image)
    back = tifffile.imread(tmp_path / "b.tif")
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, values, atol=1e-6 * (high - low))
    said = rf"floating-point numbers, of which {low:g} to {high:g} become 0 to 65535"
    with pytest.warns(ImageWarning, match=said) if span != (0, 1) else contextlib.nullcontext():
        write_image(tmp_path / "b.png", image)
    np.testing.assert_allclose(read_image(tmp_path / "b.png").pixels, image.pixels, atol=1e-5)


def test_alpha_of_floats_is_not_rounded(tmp_path: Path):
    values = np.random.default_rng(0).random((4, 5, 4), np.float32)
    write_image(tmp_path / "a.tif", Image(values[..., :3], alpha=values[..., 3], bits=32))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), values)


def test_alpha_is_no_number_of_the_picture(tmp_path: Path):
    values = np.concatenate([np.full((4, 5, 3), 700.0), np.full((4, 5, 1), 0.5)], -1).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(ImageError, match="0 to 1 is read"):
        read_image(tmp_path / "a.tif", any_range=True)


def test_integers_of_32_bits_are_refused_by_name(tmp_path: Path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 4), np.uint32))
    with pytest.raises(ImageError, match=r"type uint32.* convert it to grey or RGB of 8 or 16 bits, or of floats"):
        read_image(tmp_path / "a.tif")
