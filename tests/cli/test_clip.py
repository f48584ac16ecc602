"""`lorgnette enhance` of clips: what the words mean, Ctrl-C, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from tests.cli.pictures import picture

from lorgnette.cli import main

SMALL = (40, 24)  # width, height


def clip(path: Path, count: int = 4, size: tuple[int, int] = SMALL, rotation: int = 0) -> Path:
    """A video file of moving colours."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(24000, 1001))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(count):
            pixels = np.roll(np.asarray(picture(64, 3))[: size[1], : size[0]], number, axis=1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        out.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("clips") / "small.mp4")


def about(path: Path) -> tuple[int, int, int, Fraction | None]:
    """Width, height, frames and rate."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.width, stream.height, len(list(container.decode(stream))), stream.average_rate


def enhance(lens: Path, *words: object) -> int:
    return main(["enhance", *map(str, words), "--adapter", str(lens), "--device", "cpu"])


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ([], (80, 48)),
        (["--scale", "1.5"], (60, 36)),
        (["--size", "50x31", "--stretch"], (50, 31)),
        (["--size", "81x60", "--fit"], (80, 48)),
        (["--size", "60x60", "--crop"], (60, 60)),
        (["--size", "60x60", "--pad"], (60, 60)),
        (["--width", "50"], (50, 30)),
        (["--height", "35"], (58, 36)),  # both even: players want it so
        (["--long-side", "60"], (60, 36)),
    ],
)
def test_sizes(words: list[str], size: tuple[int, int], lenses: dict[str, Path], small: Path, tmp_path: Path):
    assert enhance(lenses["superres"], small, tmp_path / "out.mp4", *words) == 0
    assert about(tmp_path / "out.mp4") == (*size, 4, Fraction(24000, 1001))


def test_sizes_of_a_clip_that_is_shown_turned(lenses: dict[str, Path], tmp_path: Path):
    source = clip(tmp_path / "turned.mp4", rotation=90)  # shown 24 x 40
    assert enhance(lenses["superres"], source, tmp_path / "out.mp4", "--size", "48x70", "--stretch") == 0
    assert about(tmp_path / "out.mp4")[:2] == (70, 48)
    assert enhance(lenses["superres"], source, tmp_path / "bars.mp4", "--size", "60x80", "--pad") == 0
    assert about(tmp_path / "bars.mp4")[:2] == (80, 60)


def test_restoring_writes_a_line_a_page_and_figures(
    lenses: dict[str, Path], small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["--report", tmp_path / "r.html", "--json", tmp_path / "r.json", "--cache", "exact"]
    assert enhance(lenses["restore"], small, tmp_path / "out.mkv", *words) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out.mkv'}  (4 frames)\n"
    assert about(tmp_path / "out.mkv")[:3] == (*SMALL, 4)
    figures = json.loads((tmp_path / "r.json").read_text())
    assert (figures["frames"], figures["size after"], figures["tiles reused"]) == (4, "40 x 24", 0)
    assert "share of tiles reused" in (tmp_path / "r.html").read_text()


def test_an_existing_folder_as_output_of_a_clip(lenses: dict[str, Path], small: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    assert enhance(lenses["restore"], small, tmp_path / "out") == 0
    assert about(tmp_path / "out" / "small.mp4")[2] == 4


def test_frames_and_photographs_are_told_apart(lenses: dict[str, Path], tmp_path: Path, refused):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, side in enumerate((24, 24, 32)):
        picture(side, number).save(folder / f"{number}.png")
    lens = lenses["restore"]
    assert enhance(lens, folder, tmp_path / "photos") == 0  # pictures, of any size
    assert len(list((tmp_path / "photos").glob("*.png"))) == 3
    for words in ((tmp_path / "out", "--frames"), (tmp_path / "out.mp4",)):
        line = refused("enhance", folder, *words, "--adapter", lens, "--device", "cpu")
        assert "2.png is 32x32 and 0.png 24x24" in line
    (folder / "2.png").unlink()
    assert enhance(lens, folder, tmp_path / "out", "--frames", "--overwrite") == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["0.png", "1.png"]
    assert enhance(lens, folder, tmp_path / "film.mp4", "--rate", "30", "--overwrite") == 0
    assert about(tmp_path / "film.mp4") == (24, 24, 2, 30)
    assert enhance(lens, tmp_path / "film.mp4", tmp_path / "again", "--frames") == 0
    with PIL.Image.open(tmp_path / "again" / "000002.png") as image:
        assert image.size == (24, 24)


def test_wrong_words(lenses: dict[str, Path], small: Path, photos: Path, tmp_path: Path, refused):
    lens = lenses["restore"]
    for words, says in (
        ((small, small), "is the input itself"),
        ((small, tmp_path / "out"), "or --frames for a folder of frames"),
        ((small, tmp_path / "out.png"), "the suffix of a clip must be one of"),
        ((small, tmp_path / "out.avi"), "the suffix of a clip must be one of"),
        ((small, tmp_path / "out.mp4", "--codec", "vp9"), "--codec: vp9 does not go into .mp4"),
        ((small, tmp_path / "out.mp4", "--codec", "h265"), "invalid choice"),
        ((small, tmp_path / "out.mp4", "--rate", "30"), "knows its own"),
        ((small, tmp_path / "out.mp4", "--rate", "fast"), "frames per second do"),
        ((small, tmp_path / "out.mp4", "--scale", "3"), "scale: 3"),
        ((small, tmp_path / "out.mp4", "--cache", "exact", "--tolerance", "40"), "is for --cache near"),
        ((small, tmp_path / "out.mp4", "--cache", "near", "--tolerance", "-1"), "tolerance: -1"),
        ((photos, tmp_path / "out", "--cache", "exact"), "--cache: is for clips"),
        ((photos / "a.png", tmp_path / "a.png", "--truncated"), "--truncated: is for clips"),
    ):
        assert says in refused("enhance", *words, "--adapter", lens, "--device", "cpu")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(lenses: dict[str, Path], tmp_path: Path):
    source = clip(tmp_path / "in.mp4", 400)
    target = tmp_path / "out.mp4"
    log = tmp_path / "out.mp4.part" / "frames.log"
    words = ["enhance", str(source), str(target), "--adapter", str(lenses["restore"]), "--device", "cpu"]
    command = [sys.executable, "-m", "lorgnette", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        while process.poll() is None and not (log.exists() and log.stat().st_size > 3000):
            pass
        os.killpg(process.pid, signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.splitlines()[-1] == (
        f"lorgnette: interrupted: what is done is kept in {target}.part; the same command goes on"
    )
    assert not target.exists()
    assert log.stat().st_size > 3000
