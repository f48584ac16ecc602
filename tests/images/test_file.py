"""Every kind of picture comes back as it went in, and every broken file is refused in one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from PIL import ImageCms

from lorgnette.images import (
    Image,
    ImageError,
    crop_to_multiple,
    exif as exif_data,
    read_image,
    to_uint8,
    write_image,
)
from lorgnette.images.formats import png

ORIENTATION, ARTIST, EXIF_IFD, EXPOSURE, EXIF_WIDTH, GPS_IFD = 0x0112, 0x013B, 0x8769, 0x829A, 0xA002, 0x8825


@pytest.fixture(scope="module")
def icc() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, bits: int = 8, seed: int = 0) -> np.ndarray:
    """Random integers of that depth as float32 in [0, 1]."""
    peak = 2**bits - 1
    return (np.random.default_rng(seed).integers(0, peak + 1, shape) / peak).astype(np.float32)


def picture(grey: bool, alpha: bool, bits: int, size: tuple[int, int] = (37, 21)) -> Image:
    pixels = np.repeat(noise(*size, 1, bits=bits), 3, -1) if grey else noise(*size, 3, bits=bits)
    return Image(pixels, grey, noise(*size, bits=bits, seed=1) if alpha else None, bits)


def camera_exif(orientation: int | None = 6) -> bytes:
    exif = PIL.Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    exif[ARTIST] = "A. Photographer"
    exif.get_ifd(EXIF_IFD).update({EXPOSURE: 0.004, EXIF_WIDTH: 999, 0xA003: 999})
    exif.get_ifd(GPS_IFD).update({1: "N", 2: (48.0, 8.0, 30.0)})
    return exif.tobytes()


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize(("suffix", "bits"), [(".png", 8), (".png", 16), (".tif", 8), (".TIFF", 16)])
def test_lossless_round_trip(tmp_path: Path, icc: bytes, suffix: str, bits: int, grey: bool, alpha: bool):
    image = picture(grey, alpha, bits, size=(300, 21))  # more rows than are compressed at a time
    image.icc, image.exif = icc, camera_exif(None)
    write_image(tmp_path / f"a{suffix}", image)
    back = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(back.pixels, image.pixels)
    assert (back.grey, back.bits, back.icc) == (grey, bits, icc)
    assert (back.alpha is None) == (not alpha)
    if image.alpha is not None and back.alpha is not None:
        np.testing.assert_array_equal(back.alpha, image.alpha)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".bmp", ".jpg", ".jpeg", ".webp"])
def test_eight_bit_formats(tmp_path: Path, suffix: str):
    image = picture(grey=False, alpha=False, bits=16)
    image.pixels = np.repeat(np.linspace(0, 1, 40, dtype=np.float32)[:, None, None], 30, 1) * [1.0, 0.8, 0.5]
    write_image(tmp_path / f"a{suffix}", image, quality=98)
    back = read_image(tmp_path / f"a{suffix}")
    assert back.bits == 8
    assert back.pixels.dtype == np.float32
    np.testing.assert_allclose(back.pixels, image.pixels, atol=0.51 / 255 if suffix == ".bmp" else 0.03)


def test_webp_of_quality_100_is_lossless_with_alpha(tmp_path: Path):
    image = picture(grey=False, alpha=True, bits=8)
    write_image(tmp_path / "a.webp", image, quality=100)
    back = read_image(tmp_path / "a.webp")
    np.testing.assert_array_equal(back.pixels, image.pixels)
    np.testing.assert_array_equal(back.alpha, image.alpha)


@pytest.mark.parametrize(("grey", "alpha"), [(False, False), (False, True), (True, False), (True, True)])
def test_other_software_reads_our_16_bit_files(tmp_path: Path, grey: bool, alpha: bool):
    import cv2

    image = picture(grey, alpha, 16)
    write_image(tmp_path / "a.png", image)
    write_image(tmp_path / "a.tif", image)
    stored = np.rint(image.pixels * 65535).astype(np.uint16)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif").reshape(37, 21, -1)[..., 0], stored[..., 0])
    with PIL.Image.open(tmp_path / "a.png") as file:
        file.load()
        assert file.size == (21, 37)
    if not (grey and alpha):
        for name in ("a.png", "a.tif"):
            read = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED).reshape(37, 21, -1)
            np.testing.assert_array_equal(read[..., : 1 if grey else 3][..., ::-1], stored[..., : 1 if grey else 3])


def read_tags(path: Path) -> tuple[PIL.Image.Exif, dict, dict]:
    with PIL.Image.open(path) as file:
        file.load()
        exif = file.getexif()
        return exif, dict(exif.get_ifd(EXIF_IFD)), dict(exif.get_ifd(GPS_IFD))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_exif_travels_upright_and_with_the_new_size(tmp_path: Path, suffix: str, bits: int):
    source = tmp_path / "camera.jpg"
    PIL.Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(source, exif=camera_exif())
    image = read_image(source)
    assert image.pixels.shape == (9, 6, 3)
    image.pixels, image.bits = np.zeros((18, 12, 3), np.float32), bits
    for _ in range(2):  # and once more through our own file
        write_image(tmp_path / f"b{suffix}", image)
        exif, details, place = read_tags(tmp_path / f"b{suffix}")
        assert ORIENTATION not in exif
        assert exif[ARTIST] == "A. Photographer"
        assert details[EXPOSURE] == pytest.approx(0.004)
        assert (details[EXIF_WIDTH], details[0xA003]) == (12, 18)
        assert place[2] == (48.0, 8.0, 30.0)
        image = read_image(tmp_path / f"b{suffix}")
        assert image.pixels.shape == (18, 12, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png8", "png16", "tif8", "tif16", "tif8-lzw", "tif16-lzw"])
def test_orientation(tmp_path: Path, kind: str, orientation: int):
    """All formats agree with Pillow's own reading of the 8-bit picture."""
    from PIL import ImageOps

    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    samples = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = np.asarray(ImageOps.exif_transpose(_with_exif(samples, exif)))
    path = tmp_path / f"a.{kind[:3]}"
    if kind == "png8":
        PIL.Image.fromarray(samples).save(path, exif=exif)
    elif kind.endswith("lzw"):
        pixels = PIL.Image.fromarray(samples if kind == "tif8-lzw" else samples.astype(np.uint16) * 257)
        pixels.save(path, compression="tiff_lzw", tiffinfo={ORIENTATION: orientation})
    elif kind == "tif8":
        tifffile.imwrite(path, samples, extratags=[(ORIENTATION, "H", 1, orientation, True)])
    elif kind == "tif16":
        tifffile.imwrite(path, samples.astype(np.uint16) * 257, extratags=[(ORIENTATION, "H", 1, orientation, True)])
    else:
        png.write_png(path, samples.astype(np.uint16)[..., None] * 257, [(b"eXIf", exif.tobytes()[6:])])
    image = read_image(path)
    np.testing.assert_array_equal(to_uint8(image.pixels[..., 0]), expected)
    assert image.exif is None or ORIENTATION not in exif_data.tags(image.exif)


def _with_exif(samples: np.ndarray, exif: PIL.Image.Exif) -> PIL.Image.Image:
    stream = io.BytesIO()
    PIL.Image.fromarray(samples).save(stream, "PNG", exif=exif)
    return PIL.Image.open(stream)


def test_palette_transparency_one_bit_and_cmyk(tmp_path: Path):
    colours = PIL.Image.fromarray(np.uint8([[[255, 0, 0], [0, 255, 0]]]))
    colours.quantize(4).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png").pixels, np.float32([[[1, 0, 0], [0, 1, 0]]]))
    colours.quantize(4).save(tmp_path / "see-through.png", transparency=0)
    assert sorted(read_image(tmp_path / "see-through.png").alpha.ravel()) == [0, 1]

    PIL.Image.fromarray(np.array([[True, False]])).save(tmp_path / "bit.png")
    bit = read_image(tmp_path / "bit.png")
    assert bit.grey
    np.testing.assert_array_equal(bit.pixels[0, :, 0], [1, 0])

    PIL.Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=100)
    red = read_image(tmp_path / "print.jpg")
    np.testing.assert_allclose(red.pixels[0, 0], [1, 0, 0], atol=0.02)


def test_tiff_16_variants(tmp_path: Path):
    values = np.arange(24, dtype=np.uint16).reshape(2, 4, 3) * 2000
    tifffile.imwrite(tmp_path / "planar.tif", values.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_allclose(read_image(tmp_path / "planar.tif").pixels * 65535, values, atol=0.01)
    tifffile.imwrite(tmp_path / "white.tif", values[..., 0], photometric="miniswhite")
    white = read_image(tmp_path / "white.tif")
    np.testing.assert_allclose(white.pixels[..., 0] * 65535, 65535.0 - values[..., 0], atol=0.01)
    import cv2

    cv2.imwrite(str(tmp_path / "lzw.tif"), values[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    np.testing.assert_allclose(read_image(tmp_path / "lzw.tif").pixels * 65535, values, atol=0.01)
    half = np.full((2, 2, 4), 16384, np.uint16)
    half[..., 3] = 32768
    tifffile.imwrite(tmp_path / "premultiplied.tif", half, photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_allclose(read_image(tmp_path / "premultiplied.tif").pixels, 0.5, atol=1e-4)


def test_tiff_8_variants_that_pillow_does_not_read(tmp_path: Path):
    values = np.arange(0, 256, 11, dtype=np.uint8).reshape(4, 6)
    big_endian = {"bigtiff": True, "byteorder": ">"}
    tifffile.imwrite(tmp_path / "white.tif", values, photometric="miniswhite", **big_endian)
    white = read_image(tmp_path / "white.tif")
    np.testing.assert_allclose(white.pixels[..., 0] * 255, 255.0 - values, atol=0.01)
    half = np.full((2, 2, 4), 64, np.uint8)
    half[..., 3] = 128
    tifffile.imwrite(tmp_path / "half.tif", half, photometric="rgb", extrasamples=["assocalpha"], **big_endian)
    np.testing.assert_allclose(read_image(tmp_path / "half.tif").pixels, 128 / 255, atol=1e-6)


def test_rounding_is_to_the_nearest_level():
    levels = np.arange(256)
    np.testing.assert_array_equal(to_uint8((levels / 255).astype(np.float32)), levels)
    np.testing.assert_array_equal(to_uint8(np.float32([0.49, 0.51, 254.6]) / np.float32(255)), [0, 1, 255])
    np.testing.assert_array_equal(to_uint8(np.float32([-3, 7, np.nan])), [0, 255, 0])
    assert to_uint8(torch.full((2, 3), 0.5, dtype=torch.bfloat16)).tolist() == [[128] * 3] * 2
    with pytest.raises(ValueError, match="floating point"):
        to_uint8(np.array([1, 2]))


def test_grey_is_written_as_the_mean_in_one_channel(tmp_path: Path):
    pixels = np.tile(np.float32([10, 20, 33]) / 255, (4, 4, 1))
    write_image(tmp_path / "a.png", Image(pixels, grey=True))
    with PIL.Image.open(tmp_path / "a.png") as file:
        assert file.mode == "L"
        assert file.getpixel((0, 0)) == 21
    ready = np.full((4, 4, 3), 7, np.uint8)
    write_image(tmp_path / "b.png", Image(ready))
    assert to_uint8(read_image(tmp_path / "b.png").pixels).tolist() == ready.tolist()


def truncated(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


@pytest.mark.parametrize(
    ("suffix", "bits"),
    [(".png", 8), (".png", 16), (".tif", 8), (".tif", 16), (".jpg", 8), (".bmp", 8), (".webp", 8)],
)
def test_truncated_files(tmp_path: Path, suffix: str, bits: int):
    path = tmp_path / f"a{suffix}"
    write_image(path, picture(False, False, bits, size=(64, 64)))
    refused(truncated(path), "use an intact copy|is not a PNG")


def test_damaged_exif_is_left_out_with_a_warning(tmp_path: Path):
    PIL.Image.new("RGB", (3, 2)).save(tmp_path / "a.png", exif=b"Exif\0\0nothing of the kind")
    with pytest.warns(UserWarning, match=r"a\.png: damaged EXIF data left out"):
        image = read_image(tmp_path / "a.png")
    assert image.exif is None
    assert image.pixels.shape == (2, 3, 3)


def refused(path: Path, match: str, **settings) -> None:
    with pytest.raises(ImageError, match=match) as error:
        read_image(path, **settings)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_images(tmp_path: Path):
    (tmp_path / "text.png").write_text("hello, world\n" * 9)
    refused(tmp_path / "text.png", "is not a PNG, JPEG")
    (tmp_path / "tiff.png").write_bytes(b"II*\0" + b"\xff" * 40)
    refused(tmp_path / "tiff.png", "damaged|not a PNG")
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "0 bytes")
    refused(tmp_path, "is a folder")
    with pytest.raises(FileNotFoundError, match=r"no such image file: .*absent\.png"):
        read_image(tmp_path / "absent.png")


def test_a_decompression_bomb_is_refused_before_memory_is_taken(tmp_path: Path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    refused(tmp_path / "bomb.png", "200000 x 200000 pixels, more than max_pixels=180000000")
    assert PIL.Image.MAX_IMAGE_PIXELS  # Pillow's own limit stands as before
    write_image(tmp_path / "small.tif", picture(False, False, 16))
    write_image(tmp_path / "small.png", picture(False, False, 8))
    for name in ("small.tif", "small.png"):
        refused(tmp_path / name, "21 x 37 pixels, more than max_pixels=776", max_pixels=776)
        read_image(tmp_path / name, max_pixels=777)


def test_files_that_cannot_be_written(tmp_path: Path):
    image = picture(False, True, 8)
    with pytest.raises(ImageError, match=r"a\.jpg: JPEG has no alpha plane; use \.png"):
        write_image(tmp_path / "a.jpg", image)
    with pytest.raises(ImageError, match=r"a\.gif: its suffix must be one of \.png"):
        write_image(tmp_path / "a.gif", image)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="is a folder"):
        write_image(tmp_path / "folder.png", image)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file"):
        write_image(tmp_path / "file" / "a.png", image)
    with pytest.raises(ImageError, match=r"as WEBP of 20000 x 2 pixels: .*16383"):
        write_image(tmp_path / "wide.webp", Image(np.zeros((2, 20_000, 3), np.float32)))
    with pytest.raises(ValueError, match="must be \\(H, W, 3\\)"):
        write_image(tmp_path / "a.png", Image(np.zeros((4, 4), np.float32)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.png"
    write_image(path, picture(False, False, 8))
    before = path.read_bytes()

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(png, "write_png", disk_full)
    with pytest.raises(ImageError, match="No space left on device"):
        write_image(path, picture(False, False, 16))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_crop_to_multiple():
    assert crop_to_multiple(torch.zeros(1, 3, 10, 13), 4).shape == (1, 3, 8, 12)
    with pytest.raises(ValueError, match="3 x 9"):
        crop_to_multiple(np.zeros((3, 9)), 4)
