"""Option files of BasicSR, and the names of the requirement document."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lorgnette.cli import main
from lorgnette.compat.basicsr.archs import build_network
from lorgnette.images.file import Image, write_image
from lorgnette.settings import from_mapping, make_recipe
from lorgnette.systems.restore import Data, MambaIR, Recipe, Restoration, evaluation, read_options, read_test_options
from lorgnette.systems.restore.basicsr import translate, translate_test
from lorgnette.train.optim import lr_factor, make_optimizer

SHIPPED = Path(__file__).parents[3] / "options" / "train" / "train_MambaIR_LoRA_Cache.yml"
LIGHT = """
name: light
model_type: MambaIRModel
scale: 2
num_gpu: 2
manual_seed: 7
datasets:
  train: {name: DIV2K, type: PairedImageDataset, dataroot_gt: hr, dataroot_lq: lr, filename_tmpl: '{}x2', gt_size: 128,
          io_backend: {type: disk}, use_hflip: true, use_rot: true, batch_size_per_gpu: 16, num_worker_per_gpu: 3}
  val_1: {name: Set5, type: PairedImageDataset, dataroot_gt: s5, dataroot_lq: s5lr, io_backend: {type: disk}}
network_g: {type: MambaIR, upscale: 2, in_chans: 3, img_size: 64, img_range: 1., d_state: 10, depths: [6, 6, 6, 6],
            embed_dim: 60, mlp_ratio: 1.2, upsampler: pixelshuffledirect, resi_connection: 1conv}
path: {pretrain_network_g: ~, strict_load_g: true, resume_state: ~}
train:
  optim_g: {type: Adam, lr: !!float 2e-4, weight_decay: 0, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [250000, 400000], gamma: 0.5}
  total_iter: 500000
  warmup_iter: -1
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
val: {val_freq: !!float 5e3, save_img: true, metrics: {psnr: {type: calculate_psnr, crop_border: 2}}}
logger: {print_freq: 200, save_checkpoint_freq: !!float 1e4, use_tb_logger: true, wandb: {project: ~}}
dist_params: {backend: nccl, port: 29500}
"""


def recipe_of(options: dict[str, Any]) -> tuple[Recipe, list[str]]:
    mapping, unknown = translate(options, "options.yml")
    return make_recipe(Recipe, from_mapping(Recipe, mapping, "options.yml")), unknown


def test_a_published_option_file_says_what_it_said():
    recipe, unknown = recipe_of(yaml.safe_load(LIGHT))
    assert unknown == ["val.save_img"]
    assert (recipe.model.embed_dim, recipe.model.depths, recipe.model.d_state) == (60, (6, 6, 6, 6), 10)
    assert (recipe.model.upscale, recipe.model.upsampler, recipe.model.base) == (2, "pixelshuffledirect", "none")
    assert (recipe.data.lq, recipe.data.gt, recipe.data.patch, recipe.data.scale) == ("lr", "hr", 64, 2)
    assert (recipe.data.test, recipe.data.test_lq, recipe.data.degradation) == ("s5", "s5lr", "sr")
    train = recipe.train
    assert (train.optimizer, train.lr, train.betas, train.batch_size) == ("adam", 2e-4, (0.9, 0.99), 16)
    assert (train.schedule, train.milestones, train.gamma) == ("multistep", (250000, 400000), 0.5)
    assert (train.steps, train.warmup_steps, train.eval_every, train.save_every) == (500000, 0, 5000, 10000)
    assert (train.seed, train.workers, train.clip_norm, recipe.data.loss, recipe.lora) == (7, 3, 0.0, "l1", None)
    assert [lr_factor(step, 500000, train) for step in (0, 249999, 250000, 400000)] == [1.0, 1.0, 0.5, 0.25]
    optimizer = make_optimizer(torch.nn.Linear(2, 2), train)
    assert optimizer.defaults["betas"] == (0.9, 0.99)


def test_settings_of_the_cache_are_those_of_the_network():
    options = yaml.safe_load(LIGHT)
    options["network_g"] |= {
        "use_lora_cache": True,
        "max_bytes": 10_000_000,
        "cache_size": 3,
        "cache_in_training": True,
    }
    recipe, unknown = recipe_of(options)
    assert unknown == ["val.save_img"]
    assert (recipe.model.max_bytes, recipe.model.cache_size, recipe.data.frames) == (10_000_000, 3, 2)
    options["network_g"] |= {"depths": [1, 1], "upsampler": "", "upscale": 1}
    network = build_network(options["network_g"])
    assert [m.cache.max_bytes for m in network.modules() if hasattr(m, "cache")] == [5_000_000] * 2  # type: ignore[union-attr]


def test_the_shipped_file_is_the_document_s_network():
    mapping, unknown = read_options(SHIPPED)
    assert unknown == []
    recipe = make_recipe(Recipe, from_mapping(Recipe, mapping, str(SHIPPED)))
    assert recipe.model.use_lora_cache
    assert (recipe.model.lora_rank, recipe.model.cache_size, recipe.model.depths) == (16, 5, (4,) * 6)
    assert (recipe.data.sigmas, recipe.data.loss) == ((25.0, 25.0), "charbonnier")
    assert (recipe.train.optimizer, recipe.train.weight_decay, recipe.train.clip_norm) == ("adamw", 1e-4, 1.0)


def test_nothing_is_dropped_in_silence():
    options = yaml.safe_load(LIGHT)
    options["network_g"]["drop_pth_rate"] = 0.1
    options["train"]["perceptual_opt"] = {"type": "PerceptualLoss"}
    options["train"]["optim_g"]["amsgrad"] = True
    options["datasets"]["train"]["use_flip"] = True
    options["extra"] = 1
    # These are known, but what they ask for is not done here.
    options["path"] |= {"resume_state": "last.state", "param_key_g": "params", "strict_load_g": False}
    options["train"]["pixel_opt"]["loss_weight"] = 0.5
    options["datasets"]["train"] |= {"io_backend": {"type": "lmdb"}, "use_rot": False}
    options["datasets"]["val_2"] = {"name": "Set14"}
    options["val"] |= {"metrics": {"a": {"type": "calculate_psnr", "crop_border": 2}, "b": {"type": "calculate_niqe"}}}
    options["val"]["save_img"] = True
    assert sorted(recipe_of(options)[1]) == [
        "datasets.train.io_backend",
        "datasets.train.use_flip",
        "datasets.train.use_rot",
        "datasets.val_2",
        "extra",
        "network_g.drop_pth_rate",
        "path.param_key_g",
        "path.resume_state",
        "path.strict_load_g",
        "train.optim_g.amsgrad",
        "train.perceptual_opt",
        "train.pixel_opt.loss_weight",
        "val.metrics.b.crop_border",
        "val.metrics.b.type",
        "val.save_img",
    ]


def test_what_a_file_does_not_say_is_as_published():
    recipe, _ = recipe_of({"network_g": {"type": "MambaIR"}, "datasets": {"train": {"dataroot_gt": "x", "noise": 15}}})
    model = MambaIR(upscale=1)  # upstream's defaults
    ours = MambaIR(**{k: v for k, v in vars(recipe.model).items() if k not in ("base", "pruned")})
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert recipe.model.drop_path_rate == 0.1
    assert (recipe.data.degradation, recipe.data.sigmas, recipe.data.scale) == ("denoise", (15.0, 15.0), 1)


def test_names_and_scores_are_taken_over():
    options = yaml.safe_load(LIGHT)
    options["datasets"]["train"]["dataroot_lq"] = ["lr", "lr2"]
    options["datasets"]["train"]["dataroot_gt"] = ["hr", "hr2"]
    options["val"]["metrics"] = {"psnr": {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": True}}
    recipe, unknown = recipe_of(options)
    assert unknown == ["val.save_img"]
    assert (recipe.data.lq, recipe.data.gt, recipe.data.filename_tmpl) == (["lr", "lr2"], ["hr", "hr2"], "{}x2")
    assert (recipe.data.crop_border, recipe.data.test_y_channel) == (4, True)
    options["datasets"]["train"]["batch_size_per_gpu"] = "many"
    with pytest.raises(ValueError, match=r"^options.yml: datasets.train.batch_size_per_gpu: 'many' is not a whole"):
        recipe_of(options)


TEST = """
name: test_denoise
model_type: MambaIRModel
scale: 1
num_gpu: 1
datasets:
  test_1: {name: photos, type: PairedImageDataset, task: denoising_color, noise: 25, dataroot_gt: PHOTOS,
           dataroot_lq: PHOTOS, io_backend: {type: disk}}
  test_2: {name: pairs, type: PairedImageDataset, task: CAR, dataroot_gt: PHOTOS, dataroot_lq: OTHERS,
           io_backend: {type: disk}}
network_g: {type: MambaIR, upscale: 1, in_chans: 3, img_size: 128, img_range: 1., d_state: 2, depths: [1],
            embed_dim: 30, mlp_ratio: 1.2, upsampler: '', resi_connection: 1conv}
path: {pretrain_network_g: NET, strict_load_g: true, param_key_g: params_ema}
val: {save_img: false, suffix: ~, metrics: {psnr: {type: calculate_psnr, crop_border: 2, test_y_channel: true}}}
"""


def test_the_shipped_files_fit_together():
    train, _ = read_options(SHIPPED)
    sets, unknown = read_test_options(SHIPPED.parents[1] / "test" / "test_MambaIR_LoRA_Cache.yml")
    assert unknown == []
    model = sets["McMaster"]["model"]
    assert model is not None
    assert train["model"] == model | {"base": "none", "lora_dropout": 0.0}


def test_an_option_file_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    for folder in ("photos", "others"):
        write_image(tmp_path / folder / "0.png", Image(rng.random((24, 26, 3)).astype(np.float32)))
    torch.manual_seed(0)
    model = MambaIR(embed_dim=30, depths=(1,), d_state=2, mlp_ratio=1.2, upscale=1)
    torch.save({"params": model.state_dict()}, tmp_path / "net.pth")
    file, scores = tmp_path / "test.yml", tmp_path / "scores.json"
    text = TEST.replace("PHOTOS", str(tmp_path / "photos")).replace("OTHERS", str(tmp_path / "others"))
    file.write_text(text.replace("NET", str(tmp_path / "net.pth")))
    assert main(["eval", "--opt", str(file), "--device", "cpu", "--json", str(scores)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    sets = json.loads(scores.read_text())["sets"]
    assert list(sets) == ["photos", "pairs"]
    assert list(sets["photos"]) == ["input", "non-local means", "model"]
    assert list(sets["pairs"]["model"]) == ["psnr_pairs", "ssim_pairs"]
    whole = evaluation({"m": Restoration(model.eval())}, tmp_path / "photos", levels=(25,))["m"]["psnr_sigma25"]
    assert sets["photos"]["model"]["psnr_sigma25"] != whole  # here on luma, without a border
    data = Data(crop_border=2, test_y_channel=True)
    again = evaluation({"m": Restoration(model, data)}, tmp_path / "photos", levels=(25,))["m"]["psnr_sigma25"]
    assert sets["photos"]["model"]["psnr_sigma25"] == again
    for words, message in (
        (["--opt", str(file), "--scales", "2"], "leave scales out"),
        (["--opt", str(file), "--data", "x"], "not allowed with"),
        ([], "required"),
    ):
        assert main(["eval", *words]) == 2
        assert message in capsys.readouterr().err
    file.write_text(text.replace("NET", "~"))
    assert main(["eval", "--opt", str(file)]) == 2
    assert "path.pretrain_network_g: not set" in capsys.readouterr().err
    with pytest.raises(ValueError, match="there is nothing to score"):
        translate_test({"network_g": {"type": "MambaIR"}}, "test.yml")


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("network_g", "type", "SwinIR", r"^options.yml: network_g.type: 'SwinIR' is not built here"),
        ("train", "optim_g", {"type": "Lion"}, r"train.optim_g.type: 'Lion' is not known; Adam, AdamW, SGD are"),
        ("train", "pixel_opt", {"type": "MSELoss"}, r"train.pixel_opt.type: 'MSELoss' is not known"),
        ("train", "scheduler", {"type": "Cosine"}, r"train.scheduler.type: 'Cosine' is not known"),
        ("datasets", "train", {"task": "derain"}, r"datasets.train.task: 'derain' is not known"),
        ("datasets", "train", 3, r"datasets.train: 3 is not a table"),
    ],
)
def test_what_there_is_not_is_named(section: str, key: str, value: Any, message: str):
    options = copy.deepcopy(yaml.safe_load(LIGHT))
    options[section][key] = value
    with pytest.raises(ValueError, match=message):
        recipe_of(options)


def test_an_option_file_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    for i in range(3):
        write_image(tmp_path / "photos" / f"{i}.png", Image(rng.random((40, 40, 3)).astype(np.float32)))
    options = yaml.safe_load(SHIPPED.read_text())
    options["network_g"] |= {"embed_dim": 30, "depths": [1], "d_state": 2, "lora_rank": 2}
    options["datasets"]["train"] |= {"dataroot_gt": str(tmp_path / "photos"), "gt_size": 16, "batch_size_per_gpu": 2}
    options["datasets"]["train"] |= {"num_worker_per_gpu": 0, "odd": 1}
    del options["datasets"]["val_1"]
    options["train"] |= {"total_iter": 2}
    file = tmp_path / "options.yml"
    file.write_text(yaml.safe_dump(options))
    words = f"train restore --opt {file} --data.test_crop 24 --train.eval_every 2 --out {tmp_path / 'run'}"
    assert main(words.split()) == 0
    assert "left out: datasets.train.odd" in capsys.readouterr().err
    assert (tmp_path / "run" / "adapter" / "model.safetensors").is_file()
    assert main(f"train superres --opt {file}".split()) == 2
    assert "knows no option files" in capsys.readouterr().err


def test_the_document_s_example_runs(tmp_path: Path):
    model_config = {
        "type": "MambaIR",
        "use_lora_cache": True,
        "lora_rank": 16,
        "cache_size": 5,
        "embed_dim": 30,
        "depths": [1],
    }
    model = build_network(model_config)
    assert isinstance(model, MambaIR)
    x = torch.randn(1, 3, 32, 32)
    output = model(x, cache_key="unique_key")
    assert output.shape == x.shape
    torch.save({"params_ema": model.state_dict()}, tmp_path / "checkpoint.pth")
    again = build_network(model_config)
    checkpoint = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    again.load_state_dict(checkpoint["params_ema"])
    with torch.no_grad():
        restored = again.eval()(x, cache_key="inference_1")
        assert torch.equal(restored, model.eval()(x, cache_key="inference_1"))
    sizes = [len(m.cache) for _, m in again.named_modules() if hasattr(m, "cache") and m.cache is not None]
    assert sizes == [1]
    counted = sum(sum(p.numel() for p in m.parameters()) for n, m in again.named_modules() if "lora" in n.lower())
    assert counted == 2 * 16 * 60 + 1
    with pytest.raises(ValueError, match=r"^type: 'SwinIR' is not built here"):
        build_network({"type": "SwinIR"})
