"""`lorgnette enhance` of folders: what is there already, what is passed over, formats, clips, and one rule for all."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import PIL.Image
import pytest
from tests.cli.pictures import picture
from tests.cli.test_clip import clip
from tests.cli.test_enhance import enhance, size_of

from lorgnette.cli import main
from lorgnette.common.files import take_lock
from lorgnette.common.results import RECORD, Results


def pictures(folder: Path) -> Path:
    """Two small ones, one in a subfolder."""
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "sub/b.png")):
        picture(16, number).save(folder / name)
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return pictures(tmp_path / "in")


@pytest.fixture(scope="module")
def enlarged(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What comes of them."""
    folder = tmp_path_factory.mktemp("enlarged")
    assert enhance(adapter, pictures(folder / "in"), folder / "out") == 0
    return folder / "out"


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != RECORD)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


# ------------------------------------------------------------------------------------------ what is there already


def test_the_same_command_again_has_nothing_to_do(adapter: Path, two: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert enhance(adapter, two, out) == 0
    assert capsys.readouterr().out == f"2 images written to {out}\n"
    before = {name: (out / name).stat().st_mtime_ns for name in names(out)}
    picture(16, 7).save(two / "new.png")
    assert enhance(adapter, two, out) == 0
    assert capsys.readouterr().out == f"1 image written to {out}, 2 there already\n"
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--scale", 3], "made with another scale"),
        (["--size", "48x48"], "made with another size"),
        (["--tile", 16], "made with another tile"),
        (["--precision", "bf16"], "made with another precision"),
        (["--quality", 50], "made with another quality"),
    ],
)
def test_other_settings_do_not_take_old_results(
    words: list[object], says: str, adapter: Path, enlarged: Path, two: Path, tmp_path: Path, capsys
):
    out = tmp_path / "out"
    shutil.copytree(enlarged, out)
    before = contents(out)
    assert enhance(adapter, two, out, *words) == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert [says in line and line.endswith(": --overwrite replaces it") for line in lines] == [True, True]
    assert last == "lorgnette: error: 2 of 2 images could not be done (listed above)"
    assert contents(out) == before


def test_overwriting_makes_them_the_present_ones(adapter: Path, two: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    (two / "sub" / "b.png").unlink()
    assert enhance(adapter, two, out) == 0
    assert enhance(adapter, two, out, "--scale", 3, "--overwrite") == 0
    assert size_of(out / "a.png") == (48, 48)
    assert enhance(adapter, two, out, "--scale", 3) == 0
    assert "1 there already" in capsys.readouterr().out


def test_another_adapter_does_not_take_old_results(enlarged: Path, lenses, two: Path, tmp_path: Path, capsys):
    shutil.copytree(enlarged, tmp_path / "out")
    assert enhance(lenses["superres"], two, tmp_path / "out") == 2
    assert "made with another adapter or model" in capsys.readouterr().err


def test_another_picture_of_the_same_name_is_seen(adapter: Path, two: Path, tmp_path: Path, capsys):
    """Also where size and time of the file are those of the former."""
    out, when = tmp_path / "out", (two / "a.png").stat()
    picture(16, 0).save(two / "a.bmp")
    shutil.move(two / "a.bmp", two / "a.png")  # its content counts, not its suffix
    assert enhance(adapter, two, out) == 0
    picture(16, 9).save(two / "a.bmp")
    shutil.move(two / "a.bmp", two / "a.png")
    os.utime(two / "a.png", ns=(when.st_atime_ns, when.st_mtime_ns))
    assert enhance(adapter, two, out) == 2
    assert f"{out / 'a.png'} was made of another a.png: --overwrite" in capsys.readouterr().err


def test_a_result_that_somebody_changed_is_not_replaced(
    adapter: Path, enlarged: Path, two: Path, tmp_path: Path, capsys
):
    out = tmp_path / "out"
    shutil.copytree(enlarged, out)
    (out / "a.png").write_bytes(b"retouched")
    assert enhance(adapter, two, out) == 2
    assert f"{out / 'a.png'} was changed since it was made" in capsys.readouterr().err
    assert (out / "a.png").read_bytes() == b"retouched"


@pytest.mark.parametrize("at", ["begun", "written", "noted half"])
def test_a_kill_at_any_moment_leaves_what_the_same_command_goes_on_with(
    at: str, adapter: Path, enlarged: Path, two: Path, tmp_path: Path, capsys
):
    out = tmp_path / "out"
    shutil.copytree(enlarged, out)
    whole, lines = contents(out), (out / RECORD).read_text().splitlines(keepends=True)
    assert len(lines) == 4  # begun and done, of two
    kept = lines[:3] if at != "noted half" else [*lines[:3], lines[3][:40]]
    (out / RECORD).write_text("".join(kept))
    if at == "begun":
        (out / "sub" / "b.png").unlink()
    capsys.readouterr()
    assert enhance(adapter, two, out) == 0
    assert capsys.readouterr().out == f"1 image written to {out}, 1 there already\n"
    assert contents(out) == whole


def test_replacing_that_was_interrupted_goes_on(adapter: Path, two: Path, tmp_path: Path, capsys, monkeypatch):
    from lorgnette.cli import enhance as verb

    out, real, calls = tmp_path / "out", verb.enhance_file, []
    assert enhance(adapter, two, out) == 0

    def interrupted(*args: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(verb, "enhance_file", interrupted)
        assert enhance(adapter, two, out, "--scale", 3, "--overwrite") == 130
    said = "interrupted: what is done is kept in {}; the same command without --overwrite goes on\n"
    assert capsys.readouterr().err == "lorgnette: " + said.format(out)
    assert (size_of(out / "a.png"), size_of(out / "sub" / "b.png")) == ((48, 48), (32, 32))
    assert enhance(adapter, two, out, "--scale", 3) == 0
    assert capsys.readouterr().out == f"1 image written to {out}, 1 there already\n"
    assert size_of(out / "sub" / "b.png") == (48, 48)
    assert enhance(adapter, two, out, "--scale", 2) == 2  # that permission was for one time


def test_two_processes_do_not_work_in_one_folder(adapter: Path, two: Path, tmp_path: Path, refused):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / RECORD).open("a") as file:
        assert take_lock(file)
        line = refused("enhance", two, tmp_path / "out", "--adapter", adapter, "--device", "cpu")
    assert line == f"{tmp_path / 'out'} is in use by another run: wait for it, or give another output"
    assert names(tmp_path / "out") == []


def test_a_record_of_nonsense_is_no_permission(tmp_path: Path):
    (tmp_path / "a.png").write_text("somebody's")
    (tmp_path / RECORD).write_text('{"result": "a.png"}\n[]\n{"result": 1, "job": 2}\nnonsense\n{"replacing"')
    with Results(tmp_path, {"scale": 2}, overwrite=False) as results:
        assert "not by this program" in results.standing(tmp_path / "a.png", tmp_path / "a.png")


def test_one_rule_for_pictures_clips_and_frames(lenses, tmp_path: Path, refused, capsys):
    lens = lenses["restore"]
    film, frames = clip(tmp_path / "film.mp4", 1), tmp_path / "frames"
    picture(16, 1).save(tmp_path / "a.png")
    frames.mkdir()
    picture(16, 1).save(frames / "0.png")
    for source, name, *more in (
        (tmp_path / "a.png", "out.png"),
        (film, "out.mp4"),
        (frames, "made.mkv"),
        (film, "shots", "--frames"),
    ):
        target = tmp_path / name
        words = ["enhance", source, target, "--adapter", lens, "--device", "cpu", *more]
        assert main([*map(str, words)]) == 0
        before = contents(target) if target.is_dir() else target.read_bytes()
        line = refused(*words)
        assert "already" in line
        assert "--overwrite" in line
        assert (contents(target) if target.is_dir() else target.read_bytes()) == before
        assert main([*map(str, words), "--overwrite"]) == 0
    help_ = main(["enhance", "--help"])
    assert help_ == 0
    assert "replace what is there already" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------- what is passed over


def test_what_is_passed_over_is_counted_and_named(adapter: Path, two: Path, tmp_path: Path, capsys):
    for name in ("film.mp4", "note.txt", ".DS_Store", "x.psd", "y.psd", "z.psd"):
        (two / name).write_bytes(b"")
    (two / "linked").symlink_to(tmp_path)
    assert enhance(adapter, two, tmp_path / "out", "--json", tmp_path / "r.json") == 0
    assert capsys.readouterr().err == (
        f"lorgnette: passed over in {two}: 1 clips (--clips does them) (film.mp4), "
        "4 of other kinds (note.txt, x.psd, y.psd, ...), 1 hidden (.DS_Store), 1 links to folders (linked)\n"
    )
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["passed over"]["of other kinds"] == [str(two / n) for n in ("note.txt", "x.psd", "y.psd", "z.psd")]
    assert report["passed over"]["links to folders"] == [str(two / "linked")]
    assert report["written"] == [str(tmp_path / "out" / n) for n in ("a.png", "sub/b.png")]


def test_a_folder_without_anything_says_what_it_holds(two: Path, tmp_path: Path, adapter: Path, refused):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "x.psd").touch()
    line = refused("enhance", empty, tmp_path / "out", "--adapter", adapter)
    assert line == f"no images in {empty} and no clips; passed over in {empty}: 1 of other kinds (x.psd)"


@pytest.mark.parametrize("error", [MemoryError("not so much"), RuntimeError("CUDA out of memory"), OSError(5, "I/O")])
def test_one_that_cannot_be_done_does_not_stop_the_others(
    error: Exception, adapter: Path, two: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    from lorgnette.images import file

    real = file.read_image

    def read(path: Path, *more: object, **named: object) -> object:
        if path.name == "a.png":
            raise error
        return real(path, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(file, "read_image", read)
    assert enhance(adapter, two, tmp_path / "out", "--json", tmp_path / "r.json") == 2
    assert names(tmp_path / "out") == ["sub/b.png"]
    assert list(json.loads((tmp_path / "r.json").read_text())["left"]) == [str(two / "a.png")]
    assert capsys.readouterr().err.splitlines()[-1].endswith("1 of 2 images could not be done (listed above)")
    monkeypatch.undo()
    assert enhance(adapter, two, tmp_path / "out") == 0


def test_a_format_that_needs_another_package_does_not_stop_the_others(
    adapter: Path, two: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    (two / "d.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert enhance(adapter, two, tmp_path / "out") == 2
    assert names(tmp_path / "out") == ["a.png", "sub/b.png"]
    assert str(two / "d.heic") in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(("format", "pillow"), [("jpg", "JPEG"), ("webp", "WEBP"), ("tif", "TIFF"), ("png", "PNG")])
def test_a_format_for_a_whole_folder(format: str, pillow: str, adapter: Path, two: Path, tmp_path: Path):
    picture(16, 3).save(two / "c.jpeg")
    assert enhance(adapter, two, tmp_path / "out", "--format", format) == 0
    assert names(tmp_path / "out") == [f"a.{format}", f"c.{format}", f"sub/b.{format}"]
    with PIL.Image.open(tmp_path / "out" / f"c.{format}") as image:
        assert image.format == pillow


def test_two_that_would_come_to_one_name_are_both_done(adapter: Path, two: Path, tmp_path: Path):
    picture(16, 3).save(two / "a.jpg")
    picture(16, 4).save(two / "a.bmp")
    assert enhance(adapter, two, tmp_path / "out", "--format", "png") == 0
    assert names(tmp_path / "out") == ["a.bmp.png", "a.jpg.png", "a.png", "sub/b.png"]


def test_a_format_of_one_file(adapter: Path, two: Path, tmp_path: Path, refused):
    (tmp_path / "out").mkdir()
    assert enhance(adapter, two / "a.png", tmp_path / "out", "--format", "webp") == 0
    assert names(tmp_path / "out") == ["a.webp"]
    words = (two / "a.png", tmp_path / "b.png", "--format", "webp", "--adapter", adapter)
    assert "says another one" in refused("enhance", *words)
    assert "cannot become mp4" in refused("enhance", two, tmp_path / "no", "--format", "mp4", "--adapter", adapter)
    assert "invalid choice" in refused("enhance", two, tmp_path / "no", "--format", "gif", "--adapter", adapter)


def test_a_format_of_frames(lenses, tmp_path: Path, refused):
    film = clip(tmp_path / "film.mp4", 2)
    assert enhance(lenses["restore"], film, tmp_path / "out", "--frames", "--format", "jpg") == 0
    assert names(tmp_path / "out") == ["000001.jpg", "000002.jpg"]
    assert enhance(lenses["restore"], tmp_path / "out", tmp_path / "again", "--frames", "--format", "png") == 0
    assert names(tmp_path / "again") == ["000001.png", "000002.png"]
    words = (film, tmp_path / "no", "--frames", "--format", "mkv", "--adapter", lenses["restore"])
    assert "cannot become mkv frames" in refused("enhance", *words)


# ------------------------------------------------------------------------------------------------- folders of clips


def test_a_folder_of_clips_in_one_go(lenses, tmp_path: Path, capsys):
    folder, out = tmp_path / "clips", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    clip(folder / "a.mp4", 2)
    clip(folder / "sub" / "b.avi", 2)
    (folder / "cut.mp4").write_bytes((folder / "a.mp4").read_bytes()[:300])
    assert enhance(lenses["restore"], folder, out, "--json", tmp_path / "r.json") == 2
    assert names(out) == ["a.mp4", "sub/b.mp4"]
    said = capsys.readouterr()
    assert said.out == f"2 clips written to {out}\n"
    assert f"{folder / 'cut.mp4'} is no video" in said.err
    assert said.err.splitlines()[-1] == "lorgnette: error: 1 of 3 clips could not be done (listed above)"
    assert json.loads((tmp_path / "r.json").read_text())["clips"][str(folder / "a.mp4")]["frames"] == 2
    (folder / "cut.mp4").unlink()
    assert enhance(lenses["restore"], folder, out) == 0
    assert capsys.readouterr().out == f"0 clips written to {out}, 2 there already\n"
    assert enhance(lenses["restore"], folder, out, "--codec", "hevc") == 2
    assert "made with another codec" in capsys.readouterr().err
    assert enhance(lenses["restore"], folder, tmp_path / "mkv", "--format", "mkv") == 0
    assert names(tmp_path / "mkv") == ["a.mkv", "sub/b.mkv"]


def test_clips_among_pictures(lenses, two: Path, tmp_path: Path, capsys, refused):
    clip(two / "film.mp4", 2)
    assert enhance(lenses["restore"], two, tmp_path / "out", "--clips") == 0
    assert names(tmp_path / "out") == ["a.png", "film.mp4", "sub/b.png"]
    assert capsys.readouterr().out == f"2 images written and 1 clip written to {tmp_path / 'out'}\n"
    lens = ("--adapter", lenses["restore"])
    assert "--codec: is for clips" in refused("enhance", two, tmp_path / "no", "--codec", "hevc", *lens)
    assert "--clips: is for" in refused("enhance", two / "film.mp4", tmp_path / "no.mp4", "--clips", *lens)


def test_a_killed_clip_of_a_folder_goes_on(lenses, tmp_path: Path, capsys, monkeypatch):
    from lorgnette.cli import enhance_clip

    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    clip(folder / "a.mp4", 3)

    class Bars:
        def __call__(self, what: str, done: int, total: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        def close(self) -> None:
            pass

    with monkeypatch.context() as patched:
        patched.setattr(enhance_clip, "_Bars", Bars)
        assert enhance(lenses["restore"], folder, out) == 130
    assert (out / "a.mp4.part").is_dir()
    assert enhance(lenses["restore"], folder, out, "--json", tmp_path / "r.json") == 0
    figures = json.loads((tmp_path / "r.json").read_text())["clips"][str(folder / "a.mp4")]
    assert figures["frames done by earlier runs"] == 2
    assert names(out) == ["a.mp4"]
