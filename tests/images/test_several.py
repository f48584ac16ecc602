"""Files with several pictures: all of them are done, or a word says that it was one."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from tests.images.files import scene

from lorgnette.images import (
    About,
    Image,
    ImageError,
    ImageWarning,
    count_images,
    read_image,
    read_images,
    to_uint8,
    write_images,
)

FRAMES = [PIL.Image.fromarray(scene(seed=number)) for number in range(3)]


def several(path: Path) -> Path:
    """A file of three pictures."""
    more = {"save_all": True, "append_images": FRAMES[1:]}
    if path.suffix == ".mpo":
        FRAMES[0].save(path, "MPO", **more)
    elif path.suffix in (".webp", ".avif", ".png", ".gif"):
        lossless = {"lossless": True} if path.suffix == ".webp" else {}
        FRAMES[0].save(path, duration=100, **more, **lossless)
    else:
        FRAMES[0].save(path, **more)
    return path


@pytest.mark.parametrize("suffix", [".webp", ".png", ".gif", ".tif", ".mpo", ".avif"])
def test_a_word_where_one_is_read(suffix: str, tmp_path: Path):
    path = several(tmp_path / f"a{suffix}")
    assert count_images(path) == 3
    with pytest.warns(ImageWarning, match="only the first of its 3 pictures is read"):
        first = read_image(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbered = [read_image(path, number=number) for number in range(3)]
        np.testing.assert_array_equal(numbered[0].pixels, first.pixels)
        for one, other in zip(numbered, read_images(path), strict=True):
            np.testing.assert_array_equal(one.pixels, other.pixels)
    for number, image in enumerate(numbered):
        wanted = np.asarray(FRAMES[number])
        assert np.abs(to_uint8(image.pixels).astype(int) - wanted).mean() < 12
    for number in (-1, 3):
        with pytest.raises(ImageError, match=f"no picture of number {number}: it holds 3, from 0 on"):
            read_image(path, number=number)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.avif", "a.gif"])
def test_one_picture_is_one(name: str, tmp_path: Path):
    FRAMES[0].save(tmp_path / name)
    assert count_images(tmp_path / name) == 1
    read_image(tmp_path / name)  # without a warning


def test_pages_of_any_kind_are_written_and_read(tmp_path: Path):
    """Each page has its own size, depth, alpha and words."""
    rng = np.random.default_rng(0)
    pages = [
        Image((rng.integers(0, 256, (40, 30, 3)) / 255).astype(np.float32), about=About(dpi=(300.0, 300.0))),
        Image(np.repeat(rng.integers(0, 65536, (17, 23, 1)) / 65535, 3, -1).astype(np.float32), grey=True, bits=16),
        Image(
            (rng.integers(0, 65536, (600, 8, 3)) / 65535).astype(np.float32),
            alpha=(rng.integers(0, 65536, (600, 8)) / 65535).astype(np.float32),
            bits=16,
            icc=b"a profile",
        ),
    ]
    write_images(tmp_path / "a.tif", iter(pages), count=3)
    back = list(read_images(tmp_path / "a.tif"))
    for page, again in zip(pages, back, strict=True):
        np.testing.assert_array_equal(again.pixels, page.pixels)
        assert (again.grey, again.bits, again.icc, again.about) == (page.grey, page.bits, page.icc, page.about)
    np.testing.assert_array_equal(back[2].alpha, pages[2].alpha)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:  # as others see it
        assert [page.shape for page in file.pages] == [(40, 30, 3), (17, 23), (600, 8, 4)]
        np.testing.assert_array_equal(file.pages[1].asarray(), np.rint(pages[1].pixels[..., 0] * 65535))


def test_smaller_versions_and_masks_within_a_tiff_are_no_pictures(tmp_path: Path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(scene()[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)  # a thumbnail comes first
        file.write(scene(), photometric="rgb", metadata=None)
        file.write(scene()[..., 0] > 99, photometric=4, subfiletype=4, metadata=None)
    assert count_images(tmp_path / "a.tif") == 1
    assert read_image(tmp_path / "a.tif").about.lost == ("a mask",)
    np.testing.assert_array_equal(to_uint8(read_image(tmp_path / "a.tif").pixels), scene())


def test_frames_of_an_animation_of_16_bits(tmp_path: Path):
    """Those after the first come with 8 bits, but they come."""
    from tests.images.files import chunk

    def packed(samples: np.ndarray) -> bytes:
        return zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples))

    frames = [np.full((4, 5, 3), level, np.uint16) for level in (10_000, 50_000)]
    control = struct.pack(">IIIIHHBB", 5, 4, 0, 0, 1, 10, 0, 0)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)), chunk(b"acTL", struct.pack(">II", 2, 0))]
    parts += [chunk(b"fcTL", struct.pack(">I", 0) + control), chunk(b"IDAT", packed(frames[0]))]
    parts += [chunk(b"fcTL", struct.pack(">I", 1) + control)]
    parts += [chunk(b"fdAT", struct.pack(">I", 2) + packed(frames[1])), chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    first, second = read_images(tmp_path / "a.png")
    assert (first.bits, first.pixels[0, 0, 0]) == (16, np.float32(10_000 / 65535))
    assert second.pixels[0, 0, 0] == pytest.approx(50_000 / 65535, abs=1 / 255)


def test_several_need_a_tiff(tmp_path: Path):
    pictures = [Image(np.zeros((3, 4, 3), np.float32))] * 2
    with pytest.raises(ImageError, match=r"a\.png: PNG holds one picture here, and there are 2; use \.tif"):
        write_images(tmp_path / "a.png", pictures)
    with pytest.raises(ValueError, match="images: none"):
        write_images(tmp_path / "a.tif", [])
    assert list(tmp_path.iterdir()) == []


def test_every_verb_says_it_in_one_line(tmp_path: Path):
    """`classify` and the others have no notes of their own."""
    import subprocess
    import sys

    several(tmp_path / "a.gif")
    code = (
        "import sys; from lorgnette.cli import main; import lorgnette.cli.info as verb; "
        "from lorgnette.images import read_image; "
        "verb.run = lambda words: (read_image(words[0]), 0)[1]; sys.exit(main(['info', sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.gif"], capture_output=True, text=True, check=True)
    assert done.stderr == f"lorgnette: {tmp_path}/a.gif: only the first of its 3 pictures is read\n"


def test_a_raw_file_of_a_camera_is_refused_rather_than_its_preview_enlarged(tmp_path: Path):
    preview, sensor = np.zeros((20, 30, 3), np.uint8), np.zeros((200, 300), np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.dng") as file:  # as Nikon's, Sony's and Adobe's: the preview comes first
        file.write(preview, photometric="rgb", subifds=1, subfiletype=1)
        file.write(sensor, photometric="cfa")
    with tifffile.TiffWriter(tmp_path / "b.dng") as file:  # the sensor's numbers first
        file.write(sensor, photometric="cfa")
    dng = [(50706, 1, 4, bytes([1, 4, 0, 0]), True)]  # its version
    tifffile.imwrite(tmp_path / "c.dng", preview, photometric="rgb", extratags=dng)
    tifffile.imwrite(tmp_path / "d.cr2", preview, photometric="rgb")
    written = (tmp_path / "d.cr2").read_bytes()  # Canon's mark stands where tifffile puts the directory: to the end
    directory = written[8 : 8 + 2 + 12 * int.from_bytes(written[8:10], "little") + 4]
    head = written[:4] + len(written).to_bytes(4, "little") + b"CR"
    (tmp_path / "d.cr2").write_bytes(head + written[10:] + directory)
    for name in ("a.dng", "b.dng", "c.dng", "d.cr2"):
        for look in (read_image, count_images):
            with pytest.raises(ImageError, match="raw file of a camera: develop it first"):
                look(tmp_path / name)
    with tifffile.TiffWriter(tmp_path / "e.tif") as file:  # a smaller version below a picture is no reason
        file.write(preview, photometric="rgb", subifds=1)
        file.write(preview[::2, ::2], photometric="rgb", subfiletype=1)
    assert read_image(tmp_path / "e.tif").pixels.shape == (20, 30, 3)
