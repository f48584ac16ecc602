"""Files are looked at before the work: what is broken is found, what is sound is not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL.JpegImagePlugin import JpegImageFile

from lorgnette.common.parts import LeftOut
from lorgnette.images.file import read_image
from lorgnette.images.judging import look_at, say_left_out

SUFFIXES = ("png", "jpg", "bmp", "webp", "tif")


def scene(seed: int = 0, h: int = 60, w: int = 80) -> PIL.Image.Image:
    y, x = np.mgrid[:h, :w]
    pixels = np.stack([x * 255 / w, y * 255 / h, 127 + 90 * np.sin(x / 5 + seed)], -1)
    return PIL.Image.fromarray(
        np.clip(pixels + np.random.default_rng(seed).normal(0, 9, pixels.shape), 0, 255).astype(np.uint8)
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_cut_off_anywhere_is_found_as_training_would_find_it(suffix: str, tmp_path: Path):
    whole = tmp_path / f"whole.{suffix}"
    scene().save(whole)
    content = whole.read_bytes()
    files = []
    for share in (0.0, 0.02, 0.3, 0.7, 0.95):
        files.append(tmp_path / f"{share}.{suffix}")
        files[-1].write_bytes(content[: int(share * len(content))])
    (tmp_path / f"text.{suffix}").write_text("no picture at all")
    found = look_at([whole, *files, tmp_path / f"text.{suffix}", tmp_path / f"absent.{suffix}"])
    for file, look in found.items():
        try:
            read_image(file)
            assert look.problem == "", file
        except (ValueError, OSError):
            assert str(file) in look.problem
    assert found[whole].problem == ""
    assert sum(bool(look.problem) for look in found.values()) >= 6


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_size_and_thumbnail_are_those_of_the_upright_picture(suffix: str, tmp_path: Path):
    picture = scene(3)
    picture.save(tmp_path / f"a.{suffix}")
    for orientation in (1, 3, 6, 8):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=95, exif=exif)
        (tmp_path / f"{orientation}.jpg").write_bytes(content.getvalue())
    for file, look in look_at(sorted(tmp_path.iterdir())).items():
        pixels = read_image(file).pixels
        assert look.size == pixels.shape[:2], file
        grey = (
            PIL.Image.fromarray((pixels * 255).astype(np.uint8)).convert("L").resize((16, 16), PIL.Image.Resampling.BOX)
        )
        assert look.thumbnail is not None
        assert np.corrcoef(look.thumbnail.ravel(), np.asarray(grey).ravel())[0, 1] > 0.97, file


def test_what_is_far_too_large_is_found_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    decoded = []
    monkeypatch.setattr(JpegImageFile, "draft", lambda *_: decoded.append(1))
    content = io.BytesIO()
    scene().save(content, "JPEG")
    data = bytearray(content.getvalue())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # 65535 x 65535
    (tmp_path / "huge.jpg").write_bytes(bytes(data))
    assert "65535 x 65535 pixels" in look_at([tmp_path / "huge.jpg"])[tmp_path / "huge.jpg"].problem
    assert not decoded


def test_the_same_content_has_the_same_digest(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        scene(seed).save(tmp_path / f"{name}.png")
    a, b, c = (look.digest for look in look_at(sorted(tmp_path.iterdir())).values())
    assert a == b != c


def test_what_is_left_out_is_said_in_one_line_and_nothing_is_refused():
    say_left_out({}, 3)
    reasons = {f"{n}.png": f"{n}.png is empty" for n in range(5)}
    with pytest.warns(LeftOut) as said:
        say_left_out(reasons, 9)
    assert str(said[0].message) == "5 of 9 images left out: 0.png is empty; 1.png is empty; 2.png is empty; and 2 more"
    with pytest.raises(ValueError, match="no image is left to work with: 5 of 5"):
        say_left_out(reasons, 5)
