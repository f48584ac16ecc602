"""What is too large is known before the work."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from lorgnette.common import memory
from lorgnette.images import Image, ImageError, check_output, read_image, write_image
from lorgnette.images.formats.table import BY_NAME
from lorgnette.images.limits import check_fits, check_memory


@pytest.mark.parametrize(
    ("name", "size", "fits"),
    [
        ("a.webp", (10, 16383), True),
        ("a.webp", (10, 16384), False),
        ("a.webp", (16384, 10), False),
        ("a.jpg", (10, 65500), True),
        ("a.jpeg", (10, 65501), False),
        ("a.avif", (32769, 10), False),
        ("a.bmp", (40_000, 40_000), False),  # 4.8 GB
        ("a.avif", (10, 32768), True),
        ("a.bmp", (30_000, 40_000), True),  # 3.6 GB
        ("a.png", (10, 2_000_000), True),
        ("a.tif", (10, 2_000_000), True),
    ],
)
def test_formats(name: str, size: tuple[int, int], fits: bool, tmp_path: Path):
    if fits:
        check_output(tmp_path / name, size=size)
        return
    height, width = size
    with pytest.raises(ImageError, match=rf"of {width} x {height} pixels: it holds .* at most; \.png or \.tif holds"):
        check_output(tmp_path / name, size=size)


@pytest.mark.parametrize(("name", "side"), [("HEIF", 32768), ("JXL", 2**30)])
def test_formats_of_other_packages(name: str, side: int, tmp_path: Path):
    check_fits(tmp_path / "a", BY_NAME[name], (1, side))
    with pytest.raises(ImageError, match=f"it holds {side} pixels a side at most"):
        check_fits(tmp_path / "a", BY_NAME[name], (1, side + 1))


@pytest.mark.parametrize(("suffix", "side"), [(".webp", 16383), (".jpg", 65500), (".avif", 32768)])
def test_the_limits_are_those_of_the_formats(suffix: str, side: int, tmp_path: Path):
    """As large as we allow is written and read; one more is refused by what writes or reads it, too."""
    import PIL.Image

    strip = np.zeros((1, side, 3), np.uint8)
    write_image(tmp_path / f"a{suffix}", Image(strip))
    assert read_image(tmp_path / f"a{suffix}").pixels.shape == (1, side, 3)
    with pytest.raises((OSError, ValueError)):  # noqa: PT012
        PIL.Image.fromarray(np.zeros((1, side + 1, 3), np.uint8)).save(tmp_path / f"b{suffix}")
        PIL.Image.open(tmp_path / f"b{suffix}").load()


def test_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    check_output(tmp_path / "a.png", size=(1150, 1150))  # a quarter of 3.97 MB
    with pytest.raises(ImageError, match=r"it takes about 1\.01 MB, and 1 MB are free"):
        check_output(tmp_path / "a.png", size=(1160, 1160))
    with pytest.raises(ImageError, match=r"it takes about 1\.35 MB, and 1 MB are free"):
        check_output(tmp_path / "a.png", size=(1160, 1160), alpha=True)
    with pytest.raises(ImageError, match=r"it takes about 1\.06 MB"):
        check_output(tmp_path / "a.tif", size=(840, 840), bits=16)
    check_output(tmp_path / "a.jpg", size=(4000, 4000))
    with pytest.raises(ImageError, match=r"it takes about 1\.02 MB"):
        check_output(tmp_path / "a.jpg", size=(4120, 4120), bits=16)
    check_output(tmp_path / "a.webp", size=(5700, 5700))
    check_output(tmp_path / "a.avif", size=(8000, 8000))
    for name in ("a.png", "new/folders/a.tif", "a.bmp"):
        with pytest.raises(ImageError, match=r"it takes about .*MB, and 1 MB are free on its disk"):
            check_output(tmp_path / name, size=(3000, 3000))
    with pytest.raises(ImageError, match="free on its disk"):
        write_image(tmp_path / "a.bmp", Image(np.zeros((800, 800, 3), np.uint8)))
    assert not (tmp_path / "a.bmp").exists()


def test_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lorgnette.images.limits.free_memory", lambda: 10**9)
    check_memory((5000, 8333))  # 24 bytes a pixel
    with pytest.raises(ValueError, match=r"about 1\.0 GB of memory, and 1\.0 GB are free"):
        check_memory((5000, 8334))
    with pytest.raises(ValueError, match=r"20000 x 10000 pixels do not work here: they need about 4\.8 GB of memory"):
        check_memory((10_000, 20_000))
    monkeypatch.setattr("lorgnette.images.limits.free_memory", lambda: None)  # nobody says
    check_memory((10**6, 10**6))


def test_free_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\n\nlonely\nMemAvailable:  8000 kB\n")
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.free_memory() == 8_192_000
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 500000\n")
    assert memory.free_memory() == 1_500_000
    (tmp_path / "memory.current").write_text("6000000\n")  # more than it may, for a moment
    assert memory.free_memory() == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory() == 8_192_000
    (tmp_path / "memory").mkdir()  # as older kernels have it
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("5000000\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("4000000\n")
    assert memory.free_memory() == 1_000_000
    (tmp_path / "memory" / "memory.stat").write_text("total_inactive_file 100000\n")
    assert memory.free_memory() == 1_100_000
    (tmp_path / "memory" / "memory.limit_in_bytes").unlink()
    (tmp_path / "status").write_text("VmPeak: 9000 kB\nVmSize:\t3000 kB\n")
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "status")
    monkeypatch.setattr("resource.getrlimit", lambda what: (4_000_000, 8_000_000))  # ulimit -v
    assert memory.free_memory() == 4_000_000 - 3_072_000
    monkeypatch.setattr("resource.getrlimit", lambda what: (-1, -1))
    (tmp_path / "meminfo").unlink()
    assert memory.free_memory() is None
