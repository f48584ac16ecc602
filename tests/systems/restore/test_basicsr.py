"""Option files of BasicSR, and the names of the requirement document."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lorgnette.cli import main
from lorgnette.compat.basicsr.archs import build_network
from lorgnette.images import Image, write_image
from lorgnette.optim import lr_factor, make_optimizer
from lorgnette.settings import from_mapping, make_recipe
from lorgnette.systems.restore import MambaIR, Recipe, read_options
from lorgnette.systems.restore.basicsr import translate

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
    assert unknown == []
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
    assert sorted(recipe_of(options)[1]) == [
        "datasets.train.use_flip",
        "extra",
        "network_g.drop_pth_rate",
        "train.optim_g.amsgrad",
        "train.perceptual_opt",
    ]


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
