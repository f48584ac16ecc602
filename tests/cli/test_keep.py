"""`lorgnette eval`, `merge` and `info`: what is kept, measured and described."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorgnette import lora
from lorgnette.checkpoint import load, load_recipe, save
from lorgnette.cli import main


def out_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def evaluated(folder: Path, photos: Path, tmp_path: Path, *words: str) -> dict[str, dict[str, float]]:
    file = tmp_path / "eval.json"
    assert main(["eval", str(folder), "--data", str(photos), "--device", "cpu", "--json", str(file), *words]) == 0
    return json.loads(file.read_text())["rows"]


def test_eval_compares_bicubic_base_and_adapter(adapter: Path, photos: Path, tmp_path: Path, capsys):
    rows = evaluated(adapter, photos, tmp_path, "--scales", "2", "3.3")
    assert list(rows) == ["bicubic", "base", "adapted"]
    assert all(set(row) == {"psnr_x2", "ssim_x2", "psnr_x3.3", "ssim_x3.3"} for row in rows.values())
    assert rows["base"] != rows["adapted"]
    assert rows["bicubic"]["psnr_x2"] > rows["bicubic"]["psnr_x3.3"]
    assert out_of(capsys)[0].split() == [photos.name, "bicubic", "base", "adapted"]


@pytest.mark.parametrize("verb", ["enhance", "eval", "info", "merge"])
def test_a_run_folder_stands_for_its_adapter(verb: str, adapter: Path, photos: Path, tmp_path: Path, capsys):
    run = tmp_path / "run"
    shutil.copytree(adapter, run / "adapter")
    shutil.copy(adapter / "recipe.yaml", run)
    words = {
        "enhance": [photos / "a.png", tmp_path / "out.png", "--device", "cpu", "--adapter", run],
        "eval": [run, "--data", photos, "--device", "cpu", "--scales", 2],
        "info": [run],
        "merge": [run, tmp_path / "merged"],
    }[verb]
    assert main([verb, *map(str, words)]) == 0
    assert verb != "info" or str(run / "adapter") in out_of(capsys)[0]


def test_the_bicubic_row_is_what_the_definition_says(adapter: Path, photos: Path, tmp_path: Path):
    from lorgnette.images.file import read_image
    from lorgnette.images.folders import find_images
    from lorgnette.images.metrics import psnr
    from lorgnette.images.resize import imresize

    rows = evaluated(adapter, photos, tmp_path, "--scales", "2", "--whole")
    values = []
    for file in find_images(photos):
        image = torch.from_numpy(read_image(file).pixels).permute(2, 0, 1)
        small = (imresize(image, size=(32, 32)).clamp(0, 1) * 255).round() / 255
        values.append(psnr(imresize(small, size=(64, 64)), image, shave=2, quantise=True))
    assert rows["bicubic"]["psnr_x2"] == pytest.approx(sum(values) / 4, abs=1e-3)


def test_eval_of_pairs_takes_the_factor_from_the_files(adapter: Path, photos: Path, tmp_path: Path):
    import PIL.Image

    for file in photos.rglob("*.png"):
        small = tmp_path / "lr" / file.relative_to(photos)
        small.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.open(file).resize((16, 16), PIL.Image.Resampling.BOX).save(small)
    rows = evaluated(adapter, photos, tmp_path, "--lr", str(tmp_path / "lr"))
    assert set(rows["adapted"]) == {"psnr_x4", "ssim_x4"}


def test_eval_says_which_image_is_too_small(adapter: Path, tmp_path: Path, refused):
    from tests.cli.pictures import picture

    (tmp_path / "small").mkdir()
    picture(12, 0).save(tmp_path / "small" / "dot.png")
    assert "dot x2 cannot be scored" in refused("eval", adapter, "--data", tmp_path / "small", "--scales", "2")
    assert "no such folder" in refused("eval", adapter, "--data", tmp_path / "none")


def test_merged_is_the_same_without_an_adapter(adapter: Path, photos: Path, tmp_path: Path, capsys):
    merged = tmp_path / "merged"
    assert main(["merge", str(adapter), str(merged)]) == 0
    assert out_of(capsys)[-1] == f"kept     {merged}"
    before = evaluated(adapter, photos, tmp_path, "--scales", "2")
    after = evaluated(merged, photos, tmp_path, "--scales", "2")
    assert after["model"] == pytest.approx(before["adapted"], abs=1e-2)
    assert set(after) == {"bicubic", "model"}  # its base was never trained: nothing to compare with


def test_merging_refuses_what_makes_no_sense(adapter: Path, photos: Path, tmp_path: Path, refused):
    assert "is not empty" in refused("merge", adapter, photos)
    assert "recipe.yaml" in refused("merge", photos, tmp_path / "out")
    assert main(["merge", str(adapter), str(tmp_path / "merged")]) == 0
    assert "nothing to merge" in refused("merge", tmp_path / "merged", tmp_path / "again")


@pytest.mark.filterwarnings("ignore:.*holds NaN or infinity")
def test_an_adapter_with_nan_is_not_merged(adapter: Path, tmp_path: Path, refused):
    task = load(adapter)
    next(iter(lora.adapted_layers(task.model).values())).lora_B.data[0] = torch.nan
    save(task, load_recipe(adapter), tmp_path / "broken")
    said = refused("merge", tmp_path / "broken", tmp_path / "merged")
    assert "lora_B" in said
    assert "NaN or infinity" in said
    assert not (tmp_path / "merged").exists()


def described(path: Path, tmp_path: Path) -> dict:
    assert main(["info", str(path), "--json", str(tmp_path / "info.json")]) == 0
    return json.loads((tmp_path / "info.json").read_text())


def test_info_of_an_adapter(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from lorgnette import count_parameters, load

    facts = described(adapter, tmp_path)
    model = load(adapter).model
    assert facts["parameters"] == count_parameters(model).lora
    assert facts["rank"] == "2"
    assert facts["room"] == "superres"
    assert "edsr-tiny" in facts["base"]
    assert facts["layers"]["hypernet.layers.0"] == "r 2"
    said = capsys.readouterr().out
    assert "hypernet.layers.0" in said
    assert f"{facts['parameters']:,}" in said


def test_info_plans_what_a_recipe_adapts(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused):
    from lorgnette import count_parameters, load

    assert main(["info", str(adapter), "--plan", "--json", str(tmp_path / "plan.json")]) == 0
    said = capsys.readouterr().out
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["parameters"] == count_parameters(load(adapter).model).lora
    assert {row["name"] for row in plan["rows"]} == described(adapter, tmp_path)["layers"].keys()
    assert any(line.split()[:2] == ["hypernet.layers.0", "Linear"] for line in said.splitlines())
    assert f"{len(plan['rows'])} adapters, {plan['parameters']:,} parameters" in said
    off = tmp_path / "off.yaml"
    off.write_text("room: superres\nlora: null\n")
    assert "lora is switched off in this recipe" in refused("info", off, "--plan")
    assert "nowhere.yaml" in refused("info", tmp_path / "nowhere.yaml", "--plan")


def test_info_of_an_adapter_from_elsewhere(adapter: Path, tmp_path: Path):
    foreign = tmp_path / "foreign"
    shutil.copytree(adapter, foreign)
    (foreign / "lorgnette.json").unlink()
    (foreign / "recipe.yaml").unlink()
    facts = described(foreign, tmp_path)
    assert facts["rank"] == "2"
    assert "hypernet.layers.0" in facts["layers"]
    assert "room" not in facts


def test_info_of_a_whole_model_and_of_a_file(adapter: Path, tmp_path: Path):
    assert main(["merge", str(adapter), str(tmp_path / "merged")]) == 0
    assert described(tmp_path / "merged", tmp_path)["room"] == "superres"
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros((), dtype=torch.float16)}, tmp_path / "t.safetensors")
    facts = described(tmp_path / "t.safetensors", tmp_path)
    assert facts["parameters"] == 13
    assert facts["contents"] == {"a": "3x4 F32", "b": "scalar F16"}


@pytest.mark.parametrize(
    ("name", "contents", "says"),
    [
        ("a.safetensors", b"", "is not an intact safetensors file"),
        ("a.safetensors", b"\xff" * 64, "is not an intact safetensors file"),
        ("a.safetensors", (2).to_bytes(8, "little") + b"[]", "is not an intact safetensors file"),
        ("a.safetensors", (5).to_bytes(8, "little") + b'{"a":', "is not an intact safetensors file"),
        ("a.pth", b"\x80\x02.", "nothing else is opened"),
    ],
)
def test_info_of_what_is_no_such_file(name: str, contents: bytes, says: str, tmp_path: Path, refused):
    (tmp_path / name).write_bytes(contents)
    assert says in refused("info", tmp_path / name)


def test_info_of_folders_without_an_adapter(adapter: Path, photos: Path, tmp_path: Path, refused, capsys):
    assert "adapter_model.safetensors" in refused("info", photos)
    (tmp_path / "adapter_model.pt").write_bytes(b"\x80\x02.")
    assert "adapter_model.pt is a pickle and is not opened" in refused("info", tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x02.")
    assert "adapter_config.json" in refused("info", tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"r": 2}')
    assert "adapter_model.bin" in refused("info", tmp_path)
    torch.save({"base_model.model.0.lora_A.weight": torch.zeros(2, 4)}, tmp_path / "adapter_model.bin")
    assert main(["info", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "PEFT or a program that writes its layout" in said
    assert re.search(r"parameters +8\b", said)
    damaged = tmp_path / "damaged"
    shutil.copytree(adapter, damaged)
    (damaged / "lorgnette.json").write_text('{"format_version": 1}')
    assert "is damaged" in refused("info", damaged)


def test_eval_makes_the_tables_of_several_sets_in_one_run(adapter: Path, photos: Path, tmp_path: Path, capsys):
    from lorgnette.images import read_image

    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(photos / "a.png", other)
    words = ["--scales", "2", "3", "--peers", "Lanczos", "--device", "cpu", "--report", tmp_path / "report"]
    assert main(["eval", str(adapter), "--data", str(photos), str(other), *map(str, words)]) == 0
    screen = out_of(capsys)
    assert [line.split()[1:] for line in screen if line.startswith((str(photos), str(other)))] == 2 * [
        ["bicubic", "Lanczos", "base", "adapted"]
    ]
    kept = json.loads((tmp_path / "report" / "scores.json").read_text())
    assert list(kept["sets"]) == [str(photos), str(other)]
    assert kept["sets"][str(other)] == evaluated(adapter, other, tmp_path, "--scales", "2", "3", "--peers", "Lanczos")
    page = (tmp_path / "report" / "scores.md").read_text()
    assert page.count("| method | x2 (PSNR / SSIM) | x3 (PSNR / SSIM) |") == 2
    value = kept["sets"][str(other)]["adapted"]["psnr_x2"]
    assert f"| adapted | {value:.2f} / " in page
    assert "pictures.png" in page
    grid = read_image(tmp_path / "report" / "pictures.png").pixels
    assert grid.shape[1] > 5 * 100, "bicubic, Lanczos, base, adapted, truth"


def test_eval_scores_grey_pictures_either_way(adapter: Path, tmp_path: Path):
    import numpy as np

    from lorgnette.images import Image, write_image

    pixels = np.random.default_rng(0).random((48, 48, 1), dtype=np.float32).repeat(3, -1)
    write_image(tmp_path / "grey" / "a.png", Image(pixels, grey=True))
    write_image(tmp_path / "colour" / "a.png", Image(pixels[..., ::-1] * np.float32([1, 0.9, 1])))
    luma, rgb = (
        {how: evaluated(adapter, tmp_path / kind, tmp_path, "--scales", "2", *how)["bicubic"]["psnr_x2"] for how in HOW}
        for kind in ("grey", "colour")
    )
    assert luma["--grey", "rgb"] - luma[()] == pytest.approx(1.3, abs=0.05), "studio swing squeezes by 219/255"
    assert luma["--colour", "rgb"] == pytest.approx(luma[()], abs=1e-6)
    assert rgb["--grey", "rgb"] == rgb[()]
    assert rgb["--colour", "rgb"] != pytest.approx(rgb[()], abs=0.1)


HOW = [(), ("--grey", "rgb"), ("--colour", "rgb")]


def test_eval_refuses_what_it_does_not_know_before_it_works(adapter: Path, photos: Path, refused):
    words = ("eval", adapter, "--data", photos)
    assert "colour: 'lab' does not work; 'y' or 'rgb' does" in refused(*words, "--colour", "lab")
    assert "peers: 'DAT-heavy' is not known" in refused(*words, "--peers", "DAT-heavy")
    assert "--colour: means nothing in the room clip" in refused("eval", "--room", "clip", *words[2:], "--colour", "y")


def test_eval_of_faces_writes_its_plots(tmp_path: Path):
    from lorgnette.images import read_image
    from lorgnette.systems import faceview

    words = ["eval", "--room", "faceview", "--data", "points", "--device", "cpu", "--report", tmp_path / "report"]
    assert main(list(map(str, words))) == 0
    assert faceview.ABOUT.plots
    written = {file.name for file in (tmp_path / "report").iterdir()}
    assert {"scores.md", "scores.json", "similarity.png", "roc.png", "cosines-as-they-are.png"} <= written
    page = (tmp_path / "report" / "scores.md").read_text()
    assert all(f"]({name})" in page for name in written if name.endswith(".png"))
    assert read_image(tmp_path / "report" / "roc.png").pixels.shape == (320, 480, 3)
