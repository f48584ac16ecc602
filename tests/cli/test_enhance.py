"""`lorgnette enhance`: files, folders, sizes, wrong input."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from tests.cli.pictures import picture

from lorgnette.cli import main
from lorgnette.images.file import Image, read_image, write_image
from lorgnette.images.scenes import drawn


def enhance(adapter: Path, *words: object) -> int:
    return main(["enhance", *map(str, words), "--adapter", str(adapter), "--device", "cpu"])


def size_of(path: Path) -> tuple[int, int]:
    with PIL.Image.open(path) as image:
        return image.size


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """An image of 40 x 30 pixels."""
    path = tmp_path / "wide.png"
    picture(40, 5).crop((0, 0, 40, 30)).save(path)
    return path


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ([], (80, 60)),
        (["--scale", "3.3"], (132, 99)),
        (["--scale", "1"], (40, 30)),
        (["--size", "100x90", "--stretch"], (100, 90)),
        (["--size", "100x90", "--fit"], (100, 75)),
        (["--size", "100x90", "--crop"], (100, 90)),
        (["--size", "100x90", "--pad"], (100, 90)),
        (["--size", "61x45"], (61, 45)),  # 60x45 but for rounding
        (["--width", "100"], (100, 75)),
        (["--height", "45"], (60, 45)),
        (["--long-side", "120"], (120, 90)),
        (["--scale", "0.5"], (20, 15)),
        (["--long-side", "20"], (20, 15)),
        (["--size", "20x60", "--stretch"], (20, 60)),
    ],
)
def test_sizes(words: list[str], size: tuple[int, int], adapter: Path, wide: Path, tmp_path: Path):
    assert enhance(adapter, wide, tmp_path / "out.png", *words) == 0
    assert size_of(tmp_path / "out.png") == size


def test_tiles_leave_the_picture_as_it_is(adapter: Path, photos: Path, tmp_path: Path):
    assert enhance(adapter, photos / "a.png", tmp_path / "whole.png") == 0
    assert enhance(adapter, photos / "a.png", tmp_path / "tiled.png", "--tile", 24) == 0
    whole, tiled = (np.asarray(PIL.Image.open(tmp_path / f"{n}.png")).astype(int) for n in ("whole", "tiled"))
    assert np.abs(whole - tiled).max() <= 1


def test_the_adapter_is_used(adapter: Path, photos: Path, tmp_path: Path):
    from lorgnette import load
    from lorgnette.images.file import read_image
    from lorgnette.images.pixels import to_uint8
    from lorgnette.systems import superres

    assert enhance(adapter, photos / "a.png", tmp_path / "out.png") == 0
    expected = superres.enhance(load(adapter), read_image(photos / "a.png"), scale=2.0)
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "out.png")), to_uint8(expected.pixels))


def test_without_an_adapter_the_shipped_model_works(photos: Path, tmp_path: Path):
    assert main(["enhance", str(photos / "a.png"), str(tmp_path / "out.png"), "--device", "cpu"]) == 0
    assert size_of(tmp_path / "out.png") == (128, 128)


def test_an_existing_folder_as_output_of_a_file(adapter: Path, wide: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    assert enhance(adapter, wide, tmp_path / "out") == 0
    assert size_of(tmp_path / "out" / "wide.png") == (80, 60)


def test_a_folder_keeps_its_subfolders_and_what_is_there(adapter: Path, photos: Path, tmp_path: Path):
    out = tmp_path / "large"
    out.mkdir()
    (out / "a.png").write_text("somebody's")
    assert enhance(adapter, photos, out) == 2
    assert (out / "a.png").read_text() == "somebody's"
    assert size_of(out / "more" / "d.png") == (128, 128)
    assert enhance(adapter, photos, out, "--overwrite") == 0
    assert size_of(out / "a.png") == (128, 128)


def test_an_output_folder_inside_the_input_is_not_enlarged_again(adapter: Path, photos: Path, tmp_path: Path):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    assert enhance(adapter, folder, folder / "large") == 0
    assert enhance(adapter, folder, folder / "large") == 0
    assert len(list((folder / "large").rglob("*.png"))) == 4


def test_a_broken_file_in_a_folder_does_not_stop_the_others(
    adapter: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "b.png").write_bytes((photos / "b.png").read_bytes()[:200])
    assert enhance(adapter, folder, tmp_path / "out") == 2
    assert sorted(f.name for f in (tmp_path / "out").rglob("*.png")) == ["a.png", "c.png", "d.png"]
    first, last = capsys.readouterr().err.splitlines()
    assert str(folder / "b.png") in first
    assert last == "lorgnette: error: 1 of 4 images could not be done (listed above)"


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "1000", "abc", "inf", "0.001"])
def test_wrong_scales(scale: str, wide: Path, tmp_path: Path, refused):
    line = refused("enhance", wide, tmp_path / "out.png", "--scale", scale)
    assert line == f"--scale: '{scale}' does not work; a number from 0.01 to 32 does, such as 3.3"


@pytest.mark.parametrize("size", ["big", "0x10", "10", "-4x4", "10x", "1e3x4"])
def test_wrong_sizes(size: str, wide: Path, tmp_path: Path, refused):
    line = refused("enhance", wide, tmp_path / "out.png", f"--size={size}")
    assert line == f"--size: '{size}' does not work; WIDTHxHEIGHT such as 1920x1080 does"


@pytest.mark.parametrize("words", [["--size", "2000x1500"], ["--width", "4000"], ["--height", "961"]])
def test_sizes_that_are_too_much(words: list[str], adapter: Path, wide: Path, tmp_path: Path, refused):
    line = refused("enhance", wide, tmp_path / "out.png", "--adapter", adapter, *words)
    assert "more than 32 times the image's 40x30" in line
    assert not (tmp_path / "out.png").exists()


def test_broken_images(adapter: Path, photos: Path, tmp_path: Path, refused):
    (tmp_path / "cut.png").write_bytes((photos / "a.png").read_bytes()[:300])
    (tmp_path / "text.png").write_text("this is no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, says in (("cut", "damaged or incomplete"), ("text", "is not a PNG"), ("empty", "is empty")):
        line = refused("enhance", tmp_path / f"{name}.png", tmp_path / "out.png", "--adapter", adapter)
        assert says in line
        assert f"{name}.png" in line


def test_outputs_are_checked_before_the_work(wide: Path, photos: Path, tmp_path: Path, refused, monkeypatch):
    from lorgnette.cli import enhance

    def worked(options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(enhance, "_load", worked)
    (tmp_path / "file").write_text("")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "suffix must be one of" in refused("enhance", wide, tmp_path / "out.gif")
    assert "suffix must be one of" in refused("enhance", wide, tmp_path / "out")
    assert "cannot make the folder" in refused("enhance", wide, tmp_path / "file" / "out.png")
    assert "is the input itself" in refused("enhance", wide, wide)
    assert "is the input folder itself" in refused("enhance", photos, photos)
    assert "is a file" in refused("enhance", photos, tmp_path / "file")
    assert "no images in" in refused("enhance", empty, tmp_path / "out")
    assert "no such file or folder" in refused("enhance", tmp_path / "none.png", tmp_path / "out.png")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert "is not writable" in refused("enhance", wide, tmp_path / "out.png")


def test_transparency_needs_a_format_that_has_it(adapter: Path, tmp_path: Path, refused):
    PIL.Image.new("RGBA", (20, 20), (10, 20, 30, 40)).save(tmp_path / "clear.png")
    line = refused("enhance", tmp_path / "clear.png", tmp_path / "out.jpg", "--adapter", adapter)
    assert "no alpha plane" in line


def test_a_device_that_is_not_there(adapter: Path, wide: Path, tmp_path: Path, refused):
    line = refused("enhance", wide, tmp_path / "out.png", "--adapter", adapter, "--device", "gpu")
    assert line.startswith("--device: 'gpu' does not work here; cpu")


def test_an_adapter_for_another_base(adapter: Path, wide: Path, tmp_path: Path, refused):
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    recipe = other / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("seed: 0", "seed: 1"))  # untrained base weights of another seed
    line = refused("enhance", wide, tmp_path / "out.png", "--adapter", other)
    assert "another base" in line


def test_a_room_that_enhances_nothing_is_not_offered(wide: Path, tmp_path: Path, refused, capsys):
    from lorgnette.systems import ROOMS, rooms_with

    for name in set(ROOMS) - set(rooms_with("enhance")):
        line = refused("enhance", wide, tmp_path / "out.png", "--room", name)
        assert line == f"--room: invalid choice: '{name}' (choose from 'superres', 'restore')"
        assert main(["enhance", "--help"]) == 0
        assert name not in capsys.readouterr().out.partition("--room {")[2].partition("}")[0].split(",")


def test_an_adapter_that_enhances_nothing_is_refused_by_name(wide: Path, tmp_path: Path, refused):
    from dataclasses import replace

    from lorgnette import build, save
    from lorgnette.systems import clip

    recipe = replace(clip.tiny()[0], lora=None)
    folder = save(build(recipe), recipe, tmp_path / "classifier")
    for words in ((), ("--room", "restore")):
        line = refused("enhance", wide, tmp_path / "out.png", "--adapter", folder, *words)
        assert "is of the room clip" in line


# ------------------------------------------------------------------------------------ what files hold beside pixels


@pytest.fixture(scope="module")
def restoring(lenses: dict[str, Path]) -> Path:
    return lenses["restore"]


def test_pages_of_a_tiff_are_all_done(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pages = [picture(24, seed) for seed in range(3)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:], dpi=(300, 300))
    assert enhance(adapter, tmp_path / "scan.tif", tmp_path / "large.tif") == 0
    with PIL.Image.open(tmp_path / "large.tif") as file:
        assert file.n_frames == 3
        for number, page in enumerate(pages):
            file.seek(number)
            assert file.size == (48, 48)
            assert file.info["dpi"] == (600, 600)
            shrunk = np.asarray(file.resize((24, 24), PIL.Image.Resampling.BOX)).astype(int)
            assert np.abs(shrunk - np.asarray(page)).mean() < 40
    assert capsys.readouterr().err == ""
    assert enhance(adapter, tmp_path / "scan.tif", tmp_path / "large.png") == 0
    err = capsys.readouterr().err
    assert err == f"lorgnette: {tmp_path}/scan.tif: only the first of its 3 pictures is read\n"


def test_what_is_left_out_is_told_once_a_kind(restoring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from tests.images.files import with_chunks

    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b", "c"):
        picture(24, 1).save(folder / f"{name}.png")
        with_chunks(folder / f"{name}.png", (b"bKGD", bytes(6)))
    assert enhance(restoring, folder, tmp_path / "out") == 0
    assert capsys.readouterr().err == f"lorgnette: {tmp_path}/out/a.png and 2 more: without the chunk bKGD\n"


def test_the_new_file_has_the_date_of_the_old(restoring: Path, wide: Path, tmp_path: Path):
    os.utime(wide, (1_000_000_000, 1_000_000_000))
    assert enhance(restoring, wide, tmp_path / "out.png") == 0
    assert (tmp_path / "out.png").stat().st_mtime == 1_000_000_000


def test_gif_and_what_is_not_written_become_png(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "in"
    folder.mkdir()
    frames = [picture(24, seed) for seed in range(3)]
    frames[0].save(folder / "still.gif")
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "a.avif")
    assert enhance(adapter, folder / "still.gif", tmp_path / "still.png") == 0
    assert size_of(tmp_path / "still.png") == (48, 48)
    assert enhance(adapter, folder, tmp_path / "out") == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        ".lorgnette-results.jsonl",
        "a.avif",
        "moving.png",
        "still.png",
    ]
    assert "moving.gif: only the first of its 3 pictures" in capsys.readouterr().err
    (tmp_path / "one").mkdir()
    assert enhance(adapter, folder / "still.gif", tmp_path / "one") == 0
    assert size_of(tmp_path / "one" / "still.png") == (48, 48)


@pytest.mark.parametrize(("name", "side"), [("out.webp", 16383), ("out.jpg", 65500)])
def test_what_a_format_cannot_hold_is_known_before_the_work(
    name: str, side: int, adapter: Path, tmp_path: Path, refused, monkeypatch: pytest.MonkeyPatch
):
    from lorgnette.systems.superres.model import LMLTE

    def worked(*_: object) -> None:
        raise AssertionError("a tile was rendered")

    monkeypatch.setattr(LMLTE, "render_window", worked)
    PIL.Image.new("RGB", (side // 30, 3)).save(tmp_path / "strip.png")
    line = refused("enhance", tmp_path / "strip.png", tmp_path / name, "--adapter", adapter, "--scale", 31)
    assert f"it holds {side} pixels a side at most; .png or .tif holds more" in line
    assert not (tmp_path / name).exists()


def test_a_full_disk_is_known_before_the_work(adapter: Path, wide: Path, tmp_path: Path, refused, monkeypatch):
    from collections import namedtuple

    from lorgnette.systems.superres.model import LMLTE

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 100))
    monkeypatch.setattr(LMLTE, "render_window", None)
    line = refused("enhance", wide, tmp_path / "out.png", "--adapter", adapter)
    assert "0.0001 MB are free on its disk" in line


def test_larger_and_smaller_pictures_of_a_folder_get_one_long_side(adapter: Path, tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    picture(24, 1).save(folder / "small.png")
    picture(80, 1).save(folder / "large.png")
    assert enhance(adapter, folder, tmp_path / "out", "--long-side", 40) == 0
    assert size_of(tmp_path / "out" / "small.png") == size_of(tmp_path / "out" / "large.png") == (40, 40)


def test_a_size_of_another_shape_has_to_say_how(adapter: Path, wide: Path, tmp_path: Path, refused):
    line = refused("enhance", wide, tmp_path / "out.png", "--adapter", adapter, "--size", "60x60")
    assert line == "--size: 60x60 has another shape than 40x30: add --fit (60x45), --crop, --pad or --stretch"
    assert "--crop: is for --size" in refused("enhance", wide, tmp_path / "out.png", "--crop", "--width", "60")
    assert "not allowed with" in refused("enhance", wide, tmp_path / "out.png", "--size", "60x60", "--crop", "--pad")


def test_bars_are_black_or_transparent_and_what_is_cut_is_cut_evenly(tmp_path: Path):
    from lorgnette.images.file import Image
    from lorgnette.images.framing import framed

    pixels = np.arange(6 * 4, dtype=np.float32).reshape(6, 4, 1).repeat(3, axis=2) / 24 + 0.01
    image = framed(Image(pixels, alpha=np.ones((6, 4), np.float32)), (4, 8))
    assert np.array_equal(image.pixels[:, 2:6], pixels[1:5])
    assert image.alpha is not None
    assert image.pixels[:, [0, 1, 6, 7]].max() == image.alpha[:, [0, 1, 6, 7]].max() == 0
    assert image.alpha[:, 2:6].min() == 1


def test_nothing_of_the_middle_is_stretched(adapter: Path, photos: Path, tmp_path: Path):
    for how in ("crop", "pad", "fit"):
        assert enhance(adapter, photos / "a.png", tmp_path / f"{how}.png", "--size", "192x128", f"--{how}") == 0
    cut, bars, within = (np.asarray(PIL.Image.open(tmp_path / f"{n}.png")) for n in ("crop", "pad", "fit"))
    assert cut.shape == bars.shape == (128, 192, 3)
    assert np.array_equal(bars[:, 32:160], within)
    assert bars[:, :32].max() == bars[:, 160:].max() == 0
    assert enhance(adapter, photos / "a.png", tmp_path / "three.png", "--scale", "3") == 0
    three = np.asarray(PIL.Image.open(tmp_path / "three.png"))
    assert np.array_equal(cut, three[32:160])


@pytest.mark.parametrize("words", [["--long-side", "40"], ["--scale", "0.5"], ["--size", "40x30"]])
def test_what_counts_is_the_size_after_all(words: list[str], restoring: Path, tmp_path: Path, monkeypatch):
    """The network works at 80 x 60, and the result is smaller."""
    from dataclasses import replace

    from lorgnette.images.formats.table import BY_SUFFIX

    monkeypatch.setitem(BY_SUFFIX, ".webp", replace(BY_SUFFIX[".webp"], side=50))
    picture(80, 1).crop((0, 0, 80, 60)).save(tmp_path / "a.png")
    assert enhance(restoring, tmp_path / "a.png", tmp_path / "b.webp", *words) == 0
    assert size_of(tmp_path / "b.webp") == (40, 30)


# --------------------------------------------------------------------------------------- what ships, and strength


@pytest.fixture
def sprites(tmp_path: Path) -> Path:
    """A small picture of pixel art."""
    write_image(tmp_path / "sprites.png", Image(drawn("sprites", 1, (48, 48))))
    return tmp_path / "sprites.png"


def run(*words: object) -> int:
    return main(["enhance", *map(str, words), "--device", "cpu"])


def pixels(path: Path) -> np.ndarray:
    return read_image(path).pixels


def test_without_an_adapter_it_looks_and_says_what_it_took(
    sprites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(sprites, tmp_path / "auto.png") == 0
    assert re.search(r"^adapter art: expected \+\d", capsys.readouterr().out, re.MULTILINE)
    assert run(sprites, tmp_path / "art.png", "--adapter", "art") == 0
    assert run(sprites, tmp_path / "base.png", "--adapter", "none") == 0
    assert "expected" not in capsys.readouterr().out
    assert np.array_equal(pixels(tmp_path / "auto.png"), pixels(tmp_path / "art.png"))
    assert not np.array_equal(pixels(tmp_path / "auto.png"), pixels(tmp_path / "base.png"))


def test_what_no_network_helps_is_left_alone_and_that_is_said(
    sprites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(sprites, tmp_path / "same.png", "--room", "restore") == 0
    assert "no network" in capsys.readouterr().out
    assert np.array_equal(pixels(tmp_path / "same.png"), pixels(sprites))


def test_a_name_that_ships_with_one_room_needs_no_room(sprites: Path, tmp_path: Path):
    assert run(sprites, tmp_path / "a.png", "--adapter", "jpeg") == 0
    assert pixels(tmp_path / "a.png").shape == (48, 48, 3)
    assert run(sprites, tmp_path / "b.png", "--adapter", "photo", "--room", "restore") == 0
    assert pixels(tmp_path / "b.png").shape == (48, 48, 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--adapter", "scren"],
            "no such folder: scren (did you mean 'screen'?); photo, phone, web, screen, art, jpeg",
        ),
        (["--adapter", "mine"], "no such folder: mine; photo, phone"),
        (["--adapter", "runs/art"], "no such folder: runs/art"),
        (["--room", "restore", "--scale", "2"], "keeps the size, and less by bicubic after it"),
        (["--adapter", "jpeg", "--room", "superres"], "photo, phone, web, screen, art"),
        (["--strength", "2"], "0 to 1.5"),
        (["--strength", "nan"], "0 to 1.5"),
    ],
)
def test_wrong_adapters_and_strengths(
    words: list[str], said: str, sprites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(sprites, tmp_path / "out.png", *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out.png").exists()


def test_strength_goes_from_the_base_to_the_adapter(sprites: Path, tmp_path: Path):
    made = []
    for strength in (0, 0.5, 1):
        assert run(sprites, tmp_path / f"{strength}.png", "--adapter", "art", "--strength", strength) == 0
        made.append(pixels(tmp_path / f"{strength}.png"))
    assert run(sprites, tmp_path / "base.png", "--adapter", "none") == 0
    assert np.array_equal(made[0], pixels(tmp_path / "base.png"))
    assert run(sprites, tmp_path / "art.png", "--adapter", "art") == 0
    assert np.array_equal(made[2], pixels(tmp_path / "art.png"))
    far = [np.abs(image - made[0]).mean() for image in made]
    assert 0 < far[1] < far[2]


def test_strength_of_restoration_is_a_way_from_the_picture_to_the_result(photos: Path, tmp_path: Path):
    source = photos / "a.png"
    made = {}
    for strength in (0, 0.25, 0.5, 1, 1.5):
        words = ("--room", "restore", "--adapter", "none", "--strength", strength)
        assert run(source, tmp_path / f"{strength}.png", *words) == 0
        made[strength] = pixels(tmp_path / f"{strength}.png")
    assert np.array_equal(made[0], pixels(source))
    halfway = pixels(source) + 0.5 * (made[1] - pixels(source))
    assert np.abs(made[0.5] - halfway).max() <= 1.01 / 255
    far = [np.abs(image - made[0]).mean() for image in made.values()]
    assert far == sorted(far)


def test_a_folder_counts_what_was_chosen_and_tells_each_in_json(
    sprites: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copy(sprites, mixed / "s.png")
    shutil.copy(photos / "a.png", mixed / "p.png")
    assert run(mixed, tmp_path / "out", "--json", tmp_path / "done.json") == 0
    said = capsys.readouterr().out
    assert re.search(r"chosen by looking: .*art [12]", said)
    chosen = json.loads((tmp_path / "done.json").read_text())["chosen"]
    assert chosen[str(mixed / "s.png")]["chosen"] == "art"
    assert set(chosen) == {str(mixed / "s.png"), str(mixed / "p.png")}
    assert run(mixed, tmp_path / "out", "--adapter", "none") == 2
    assert "adapter or model" in capsys.readouterr().err


def test_floating_point_keeps_its_range_and_its_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    spots = np.zeros((48, 56), np.float32)
    spots[12:16, 20:24] = spots[30:34, 40:44] = 3000
    given = rng.poisson(spots + 200).astype(np.float32) - 200
    tifffile.imwrite(tmp_path / "a.tif", given)
    assert run(tmp_path / "a.tif", tmp_path / "out.tif", "--room", "restore") == 0
    assert re.search(r"a.tif: floating-point numbers: -\d+ to 3\d\d\d are black and white", capsys.readouterr().err)
    found = tifffile.imread(tmp_path / "out.tif")
    assert found.dtype == np.float32
    assert found.sum() == pytest.approx(given.sum(), rel=0.01)
    assert found[13:15, 21:23].mean() == pytest.approx(given[13:15, 21:23].mean(), rel=0.05)
    assert run(tmp_path / "a.tif", tmp_path / "b.tif", "--room", "restore", "--range", 0, 2000) == 0
    beyond = given > 2000
    np.testing.assert_allclose(tifffile.imread(tmp_path / "b.tif")[beyond], given[beyond], rtol=1e-5)


def test_the_range_of_counts_is_found_and_said_or_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    counted = np.random.default_rng(0).poisson(drawn("specimen", 2, (48, 48)) * 600 + 40)
    write_image(tmp_path / "counts.tif", Image((counted / 65535).astype(np.float32), grey=True, bits=16))
    assert run(tmp_path / "counts.tif", tmp_path / "out.tif", "--room", "restore") == 0
    captured = capsys.readouterr()
    assert re.search(r"counts.tif: taken for counts: 0 to \d+ of 65535", captured.err)
    assert "adapter counts" in captured.out
    before, after = (pixels(tmp_path / name).astype(float) for name in ("counts.tif", "out.tif"))
    assert after.sum() == pytest.approx(before.sum(), rel=1e-3)
    assert after.std() < before.std()
    assert run(tmp_path / "counts.tif", tmp_path / "b.tif", "--room", "restore", "--range", 0, 900) == 0
    assert "taken for counts" not in capsys.readouterr().err
    assert run(tmp_path / "counts.tif", tmp_path / "c.tif", "--range", 9, 3) == 2
    assert "range: " in capsys.readouterr().err


def test_a_preview_shows_three_parts_as_given_and_enhanced(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    wide = np.tile(np.asarray(picture(90, seed=4)), (1, 3, 1))
    PIL.Image.fromarray(wide).save(tmp_path / "wide.png")
    assert run(tmp_path / "wide.png", tmp_path / "look.png", "--preview", "--scale", 2) == 0
    grid = read_image(tmp_path / "look.png").pixels
    assert grid.shape[0] > 3 * 2 * 90, "three rows of parts of 90 pixels"
    assert 2 * 2 * 90 < grid.shape[1] < 2 * 2 * 90 + 60, "two columns"
    assert str(tmp_path / "look.png") in capsys.readouterr().out
    assert run(tmp_path, tmp_path / "out", "--preview") == 2
    assert "--preview: is for one picture" in capsys.readouterr().err


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture under white noise of 30 levels, and what it was."""
    folder = tmp_path_factory.mktemp("noisy")
    y, x = np.indices((64, 64)) / 64
    disc = 0.4 * (np.hypot(x - 0.5, y - 0.4) < 0.3)
    clean = np.stack([0.3 + disc, 0.5 + 0.2 * np.sin(6 * x), 0.4 + 0.3 * y], -1)
    noise = np.random.default_rng(0).normal(0, 30 / 255, clean.shape)
    write_image(folder / "noisy.png", Image(np.float32(clean + noise).clip(0, 1)))
    write_image(folder / "clean.png", Image(np.float32(clean)))
    return folder / "noisy.png"


def test_noise_is_taken_away_before_a_picture_is_enlarged(noisy: Path, tmp_path: Path, capsys):
    """As two commands would do it, but for the rounding between them; by itself where no network helps otherwise."""
    assert run(noisy, tmp_path / "denoised.tif", "--room", "restore") == 0
    assert run(tmp_path / "denoised.tif", tmp_path / "twice.png", "--adapter", "none") == 0
    capsys.readouterr()
    assert run(noisy, tmp_path / "once.png", "--adapter", "none", "--clean") == 0
    assert re.search(r"^cleaned first: .*expected \+\d", capsys.readouterr().out, re.MULTILINE)
    assert np.abs(pixels(tmp_path / "once.png") - pixels(tmp_path / "twice.png")).max() < 0.02
    assert run(noisy, tmp_path / "auto.png") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("cleaned first: the base: expected +")
    assert len(said) == 3, "the choice before, the choice after, the file"
    assert run(noisy, tmp_path / "plain.png", "--adapter", "none") == 0
    truth = pixels(noisy.with_name("clean.png")).repeat(2, 0).repeat(2, 1)
    error = {name: np.square(pixels(tmp_path / f"{name}.png") - truth).mean() for name in ("auto", "once", "plain")}
    assert error["auto"] < 0.2 * error["plain"]
    assert error["once"] < 0.2 * error["plain"]


def test_how_much_noise_is_taken_away_first_can_be_said(noisy: Path, tmp_path: Path):
    made = []
    for share in (0, 0.5, 1):
        assert run(noisy, tmp_path / f"{share}.png", "--adapter", "none", "--clean", share) == 0
        made.append(pixels(tmp_path / f"{share}.png"))
    assert run(noisy, tmp_path / "none.png", "--adapter", "none") == 0
    assert np.array_equal(made[0], pixels(tmp_path / "none.png"))
    far = [np.abs(image - made[0]).mean() for image in made]
    assert 0 < far[1] < far[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--clean", "2"], "clean: 2 does not work; 0 to 1.5 does"),
        (["--clean", "nan"], "clean: nan does not work"),
        (["--clean", "--room", "restore"], "clean: the room restore cleans by itself"),
        (["--clean", "--preview"], "clips and --preview take one model"),
    ],
)
def test_cleaning_that_cannot_be_is_refused(words: list[str], said: str, noisy: Path, tmp_path: Path, refused):
    assert said in refused("enhance", noisy, tmp_path / "out.png", "--device", "cpu", *words)
    assert not (tmp_path / "out.png").exists()


def test_a_folder_says_which_pictures_were_cleaned_first(noisy: Path, tmp_path: Path, capsys):
    assert run(noisy.parent, tmp_path / "out", "--json", tmp_path / "out.json") == 0
    assert "cleaned first: base 1" in capsys.readouterr().out
    chosen = json.loads((tmp_path / "out.json").read_text())["chosen"]
    assert "cleaned by" in chosen[str(noisy)]
    assert "cleaned by" not in chosen[str(noisy.with_name("clean.png"))]
