"""The requirement document on MambaIR with LoRA and a cache: its own lines; imports, paths and sizes are changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from lorgnette import lora
from lorgnette.cli import main
from lorgnette.compat.basicsr.archs import build_network
from lorgnette.images import Image, write_image

PAGE = Path(__file__).with_name("mambair_examples.md").read_text(encoding="utf-8")
BUILD, INFER, CACHE, COUNT, TIME = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(COMMAND,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
OPTIONS = Path(__file__).parents[2] / "options" / "train" / "train_MambaIR_LoRA_Cache.yml"
SMALL = {"embed_dim": 30, "depths": [1], "d_state": 2, "upscale": 1, "mlp_ratio": 1.2}


def ours(block: str, **paths: str) -> str:
    """A block of the page with our import line, our paths, and a network that trains in seconds."""
    block = block.replace("from basicsr.archs import", "from lorgnette.compat.basicsr.archs import")
    for theirs, here in paths.items():
        block = block.replace({"checkpoint": "path/to/checkpoint.pth"}[theirs], here)
    return block.replace("# 其他参数...", f"**{SMALL},").replace("256, 256", "32, 32")


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "page", "exec"), names)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(3):
        write_image(tmp_path / "photos" / f"{i}.png", Image(rng.random((40, 40, 3)).astype(np.float32)))
    return tmp_path / "photos"


def trained(photos: Path, folder: Path, *more: str, **changed: Any) -> Path:
    """The page's command, on an option file whose network and data are small."""
    options = yaml.safe_load(OPTIONS.read_text())
    options["network_g"] |= SMALL | {"lora_rank": 16}
    training = {"dataroot_gt": str(photos), "gt_size": 16, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0}
    options["datasets"]["train"] |= training
    del options["datasets"]["val_1"]
    options["train"] |= {"total_iter": 4} | changed
    (folder / "train.yml").write_text(yaml.safe_dump(options))
    words = COMMAND.split()
    assert words[:2] == ["python", "basicsr/train.py"]
    words = ["train", "restore", *words[2:]]
    words[words.index("-opt") + 1] = str(folder / "train.yml")
    assert main([*words, "--data.test_crop", "24", "--out", str(folder / "run"), "--train.device", "cpu", *more]) == 0
    return folder / "run"


def test_the_trained_model_is_a_file_that_the_page_loads(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run_folder = trained(photos, tmp_path, "--train.lr", "0.01")
    assert "net_g_latest.pth" in capsys.readouterr().out
    names: dict[str, Any] = {"torch": torch, "input_image": torch.rand(1, 3, 24, 24)}
    for block in (BUILD, INFER, CACHE, COUNT, TIME.replace("input_tensor", "input_image")):
        run(ours(block, checkpoint=str(run_folder / "net_g_latest.pth")), names)
    assert names["output"].shape == (1, 3, 24, 24)
    assert names["lora_params"] == 2 * 16 * 36 + 1
    said = capsys.readouterr().out  # the page never calls eval(): without gradients the cache is used all the same
    assert "lora_cache: 缓存大小 = 1" in said
    checkpoint = names["checkpoint"]
    assert list(checkpoint) == ["params", "params_ema"]
    ours_kept = load_file(run_folder / "adapter" / "model.safetensors")
    assert checkpoint["params_ema"].keys() == ours_kept.keys()
    assert all(torch.equal(tensor, ours_kept[name]) for name, tensor in checkpoint["params_ema"].items())
    last = torch.load(run_folder / "checkpoints" / "last.pt", weights_only=True)
    assert checkpoint["params"].keys() == checkpoint["params_ema"].keys()
    for name, tensor in last["trained"].items():
        assert torch.equal(checkpoint["params"][name.removeprefix("model.")], tensor)
    for name, tensor in last["averaged"].items():  # the option file averages with 0.999: it is not the last step's
        assert not torch.equal(checkpoint["params"][name.removeprefix("model.")], tensor) or not tensor.any()


def test_an_adapter_leaves_no_such_file(photos: Path, tmp_path: Path):
    run_folder = trained(photos, tmp_path, "--lora.r", "2", "--train.lr", "0.01")
    assert not (run_folder / "net_g_latest.pth").exists()
    state = load_file(run_folder / "adapter" / "adapter_model.safetensors")
    assert any(name.endswith("lora_cache.map_B") for name in state)


def test_parameters_are_counted_as_the_page_counts_them():
    for options, wanted in (({}, 147_480), ({"embed_dim": 180, "depths": [4] * 6, "mlp_ratio": 1.2}, 165_912)):
        config = {"type": "MambaIR", "use_lora_cache": True, "lora_rank": 16, "cache_size": 5}
        with torch.device("meta"):
            model = build_network(config | options)
        names: dict[str, Any] = {"model": model}
        run(COUNT, names)
        assert names["lora_params"] == lora.count_parameters(model).lora == wanted
        lora.freeze_base_params(model)
        assert lora.count_parameters(model).trainable == wanted


def test_an_adapter_recipe_trains_keeps_and_brings_back_the_map(photos: Path, tmp_path: Path):
    words = f"train restore --data.root {photos} --model.use_lora_cache true --data.patch 16 --data.test_crop 24"
    words += f" --train.steps 4 --train.lr 0.01 --train.device cpu --train.warmup_steps 0 --out {tmp_path / 'run'}"
    assert main([*words.split(), "--data.holdout", "0"]) == 0
    state = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    maps = {name: tensor for name, tensor in state.items() if ".lora_cache.map_B" in name}
    assert len(maps) == 4  # of the shipped network's blocks
    assert all(tensor.any() for tensor in maps.values())
    from lorgnette import load

    task = load(tmp_path / "run" / "adapter")
    for name, tensor in task.model.named_parameters():
        if ".lora_cache.map_B" in name:
            assert any(torch.equal(tensor, kept) for kept in maps.values())
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        adapted = task.model(x)
        for name, tensor in task.model.named_parameters():
            if ".lora_cache.map_B" in name:
                tensor.zero_()
        assert not torch.equal(task.model(x), adapted)


def test_the_document_s_memory_is_a_matter_of_gradients(tmp_path: Path):
    """What the page says of memory: with use_checkpoint a keyed frame is computed with the same result."""
    torch.manual_seed(0)
    plain = build_network({"type": "MambaIR", "use_lora_cache": True} | SMALL)
    torch.manual_seed(0)
    saving = build_network({"type": "MambaIR", "use_lora_cache": True, "use_checkpoint": True} | SMALL)
    x = torch.rand(1, 3, 16, 16)
    torch.manual_seed(1)
    wanted = plain(x, cache_key="unique_key")
    torch.manual_seed(1)
    assert torch.equal(saving(x, cache_key="unique_key"), wanted)
