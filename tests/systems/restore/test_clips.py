"""Clips in training, in scoring and in use: the share of the feature cache is learnt, and what is learnt acts."""

from __future__ import annotations

import io
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from lorgnette import build, evaluate, fit, load, save
from lorgnette.cli import main
from lorgnette.images import Image, read_image, write_image
from lorgnette.lora import LoRAConfig
from lorgnette.systems import restore
from lorgnette.systems.restore.clips import Windows, frames_before
from lorgnette.systems.restore.data import ImageFolder
from lorgnette.systems.restore.model import MambaIR
from lorgnette.tiles.cache import TileCache
from lorgnette.train.batches import Draw
from lorgnette.train.config import TrainConfig
from lorgnette.train.events import Stepped
from lorgnette.video.enhance import enhance_video

OPTIONS = Path(__file__).parents[3] / "options" / "train" / "train_MambaIR_LoRA_Cache.yml"
NETWORK: dict[str, Any] = {"base": "none", "embed_dim": 30, "depths": (1,), "d_state": 2, "use_lora_cache": True}


def clip(folder: Path, count: int = 5, size: tuple[int, int] = (24, 28), seed: int = 0) -> Path:
    """Frames 8, 9, 10, ... (not in the order of letters) of a scene that gets a little brighter."""
    still = np.random.default_rng(seed).random((*size, 3), dtype=np.float32) * 0.7
    for number in range(count):
        write_image(folder / f"{number + 8}.png", Image(still + 0.02 * number, bits=8))
    return folder


def recipe(folder: Path | None = None, **data: Any) -> restore.Recipe:
    return restore.Recipe(
        model=restore.Model(**NETWORK, cache_in_training=True, similarity_threshold=0.9),
        data=restore.Data(root=None if folder is None else str(folder), patch=12, test_crop=20, **data),
        lora=LoRAConfig(r=2, target_modules=["in_proj"]),
        train=TrainConfig(steps=6, batch_size=2, lr=0.02, warmup_steps=0, device="cpu"),
    )


def trained_gate(share: float = 1.0) -> restore.Restoration:
    """A network whose cache acts, and acts much."""
    task = build(replace(recipe(), model=replace(recipe().model, similarity_threshold=-1.0)))
    for name, parameter in task.named_parameters():
        if name.endswith(".gate"):
            parameter.data.fill_(share)
        elif "conv_last" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(3))
    assert isinstance(task, restore.Restoration)
    return task


def shares(task: Any) -> list[float]:
    assert isinstance(task.model, MambaIR)
    return task.model.shares().tolist()


# ---------------------------------------------------------------------------------------------------- samples


def test_a_sample_is_one_place_in_frames_that_follow_each_other(tmp_path: Path):
    clip(tmp_path / "a")
    clip(tmp_path / "b", count=2, seed=1)
    clip(tmp_path / "c", count=1, seed=2)  # too few
    data = replace(recipe(tmp_path, frames=3, sigmas=(0.0, 0.0)).data)
    files = sorted(tmp_path.rglob("*.png"))
    windows = Windows(ImageFolder(files, data), files, 3)
    assert [[file.name for file in window] for window in windows.windows] == [
        ["8.png", "9.png", "10.png"], ["9.png", "10.png", "11.png"], ["10.png", "11.png", "12.png"]
    ]  # fmt: skip
    for step in range(6):
        sample = windows[Draw(0, step, 1, 0)]
        assert sample["lq"].shape == sample["gt"].shape == (3, 3, 12, 12)
        assert sample["cache_key"] == str(tmp_path / "a")
        assert ((sample["gt"][1:] - sample["gt"][:-1] - 0.02).abs() < 0.004).all()  # nothing moved, only light
    first, again = (windows[Draw(0, 5, 1, 2)] for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in ("lq", "gt"))
    sent = pickle.loads(pickle.dumps(windows))[Draw(0, 5, 1, 2)]  # as to a loading process
    assert torch.equal(sent["lq"], first["lq"])


@pytest.mark.parametrize(
    ("damage", "levels"), [("denoise", {"sigmas": (30.0, 30.0)}), ("jpeg", {"qualities": (10, 40)})]
)
def test_frames_are_damaged_alike_but_each_has_noise_of_its_own(tmp_path: Path, damage: Any, levels: Any):
    still = np.random.default_rng(0).random((24, 28, 3), dtype=np.float32)
    for number in range(2):
        write_image(tmp_path / f"{number}.png", Image(still, bits=8))
    data = recipe(tmp_path, frames=2, degradation=damage, **levels).data
    files = sorted(tmp_path.glob("*.png"))
    sample = Windows(ImageFolder(files, data), files, 2)[Draw(0, 0, 0, 0)]
    assert torch.equal(sample["gt"][0], sample["gt"][1])
    noise = (sample["lq"] - sample["gt"]) * 255
    if damage == "jpeg":
        assert torch.equal(noise[0], noise[1])
    else:
        assert [round(float(n.std())) for n in noise] == [30, 30] or abs(noise.std() - 30) < 3
        assert abs(np.corrcoef(noise.flatten(1).numpy())[0, 1]) < 0.2


def test_pairs_of_frames_are_taken_together(tmp_path: Path):
    clip(tmp_path / "gt")
    for file in (tmp_path / "gt").iterdir():
        image = read_image(file)
        write_image(tmp_path / "lq" / file.name, replace(image, pixels=image.pixels * 0.5))
    batches, _ = restore.loaders(
        restore.Data(lq=str(tmp_path / "lq"), gt=str(tmp_path / "gt"), patch=12, frames=2, holdout=0),
        TrainConfig(batch_size=3),
    )
    batch = next(batches.starting_at(0))
    assert batch["lq"].shape == (3, 2, 3, 12, 12)
    assert batch["cache_key"] == [str(tmp_path / "gt")] * 3
    assert (batch["lq"] - batch["gt"] * 0.5).abs().max() < 0.01


def test_what_is_no_clip_is_named(tmp_path: Path):
    clip(tmp_path, count=1)
    with pytest.raises(ValueError, match=r"^data.frames: 3 in a row are in no folder to learn from: at most 1$"):
        restore.loaders(recipe(tmp_path, frames=3, holdout=0).data)
    write_image(tmp_path / "9.png", Image(np.zeros((40, 40, 3), np.float32), bits=8))
    batches, _ = restore.loaders(recipe(tmp_path, holdout=0).data)
    with pytest.raises(ValueError, match=r"^data.frames: .*9.png has another size than .*8.png: frames of a clip"):
        next(batches.starting_at(0))


def test_settings_that_do_nothing_alone_are_completed_or_named():
    assert recipe().data.frames == 2
    assert recipe(frames=3).data.frames == 3
    assert restore.Recipe().data.frames is None
    with pytest.raises(ValueError, match=r"^data.frames: 2 is for the feature cache: model.use_lora_cache and"):
        restore.Recipe(data=restore.Data(frames=2))
    with pytest.raises(ValueError, match=r"^data.frames: 0 is too small"):
        restore.Data(frames=0)
    with pytest.warns(UserWarning, match=r"^model.cache_in_training: without model.use_lora_cache there is no cache$"):
        restore.Recipe(model=restore.Model(cache_in_training=True))


# ----------------------------------------------------------------------------------------------------- training


def test_an_option_file_with_cache_in_training_learns_the_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = yaml.safe_load(OPTIONS.read_text())
    options["network_g"] |= {"embed_dim": 30, "depths": [1, 1], "d_state": 2, "cache_in_training": True}
    options["network_g"] |= {"similarity_threshold": 0.5}
    training = {"dataroot_gt": str(clip(tmp_path / "clip")), "gt_size": 16, "batch_size_per_gpu": 2}
    options["datasets"]["train"] |= training | {"num_worker_per_gpu": 0}
    del options["datasets"]["val_1"]
    options["train"] |= {"total_iter": 6}
    (tmp_path / "train.yml").write_text(yaml.safe_dump(options))
    words = f"train restore -opt {tmp_path / 'train.yml'} --data.test_crop 24 --out {tmp_path / 'run'}"
    assert main([*words.split(), "--train.device", "cpu", "--train.lr", "0.01", "--data.holdout", "0"]) == 0
    state = load_file(tmp_path / "run" / "adapter" / "model.safetensors")
    gates = [tensor for name, tensor in state.items() if name.endswith(".gate")]
    assert len(gates) == 2
    assert all(gate.abs() > 1e-3 for gate in gates)
    assert '"share": ' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_resumed_training_of_the_share_ends_bit_identical(tmp_path: Path):
    wanted = recipe(clip(tmp_path, count=6))
    batches, test = restore.loaders(wanted.data, wanted.train)
    kept: dict[int, bytes] = {}

    def keep(event: object) -> None:
        if isinstance(event, Stepped):
            file = io.BytesIO()
            torch.save(event.snapshot(), file)
            kept[event.step] = file.getvalue()

    whole = build(wanted)
    end = fit(whole, batches, wanted.train, [keep], test=test)
    assert all(share != 0 for share in end.snapshot()["trained"]["model.layers.0.residual_group.blocks.0.self_attention.lora_cache.gate"])  # fmt: skip # noqa: E501
    for step in (1, 4):
        again = build(wanted)
        snapshot = torch.load(io.BytesIO(kept[step]), weights_only=True)
        other = fit(again, batches, wanted.train, test=test, resume=snapshot)
        assert other.best == end.best
        assert all(
            torch.equal(a, b) for a, b in zip(again.state_dict().values(), whole.state_dict().values(), strict=True)
        )


def test_a_step_is_its_own_and_leaves_nothing_behind(tmp_path: Path):
    wanted = recipe(clip(tmp_path), holdout=0)
    task = trained_gate().train()
    batches, _ = restore.loaders(wanted.data, wanted.train)
    stream = batches.starting_at(0)
    one, two = next(stream), next(stream)
    first = task(one)
    task(two)
    again = task(one)
    assert torch.equal(first["loss"], again["loss"])
    assert all(len(m.cache) == 0 for m in task.modules() if hasattr(m, "cache"))
    apart = torch.stack([task.model(frame) for frame in one["lq"].unbind(1)], 1)
    assert not torch.equal((apart - one["gt"]).abs().mean(), first["loss"])


def test_frames_that_come_one_by_one_with_a_key_of_their_own_meet_too(tmp_path: Path):
    wanted = recipe(clip(tmp_path), frames=2, holdout=0)
    task = trained_gate().train()
    batch = next(restore.loaders(wanted.data, wanted.train)[0].starting_at(0))
    for number in range(2):
        frame = {"lq": batch["lq"][:, number], "gt": batch["gt"][:, number], "cache_key": "mine"}
        task(frame)["loss"].backward()
    (gate,) = [p for name, p in task.named_parameters() if name.endswith(".gate")]
    assert gate.grad is not None
    assert gate.grad.abs() > 0


def test_held_out_frames_are_scored_with_those_before_them(tmp_path: Path):
    wanted = recipe(clip(tmp_path), frames=3, holdout=0, test=str(tmp_path), test_sigmas=(15.0, 25.0))
    _, test = restore.loaders(wanted.data, wanted.train)
    assert [len(batch["before"]) for batch in test] == [2, 2, 2, 2, 2, 2, 0, 0, 1, 1]  # 10.png, ..., 8.png
    batch = test[5]
    noise = batch["before"][-1] - (batch["gt"] - 0.02)
    assert batch["before"].shape == (2, *batch["lq"].shape)
    assert abs(float(noise.std()) * 255 - 25) < 2
    assert abs(np.corrcoef(noise.flatten().numpy(), (batch["lq"] - batch["gt"]).flatten().numpy())[0, 1]) < 0.1
    task = trained_gate()
    alone = {name: value for name, value in batch.items() if name != "before"}
    with torch.no_grad():
        assert not torch.equal(task.predict(batch), task.predict(alone))
        assert torch.equal(task.predict(batch), task.predict(batch))
    assert evaluate(task, test) == evaluate(task, test)
    with torch.no_grad():
        idle = trained_gate(0.0)
        assert torch.equal(idle.predict(batch), idle.predict(alone))
    rows = restore.evaluation({"it": trained_gate()}, tmp_path, levels=(15,))
    apart = trained_gate()
    apart.data = replace(apart.data, frames=None)
    assert rows["it"] != restore.evaluation({"it": apart}, tmp_path, levels=(15,))["it"]


def test_frames_before_are_those_of_the_same_folder_by_number(tmp_path: Path):
    clip(tmp_path)
    assert [file.name for file in frames_before(tmp_path / "10.png", 5)] == ["8.png", "9.png"]
    assert frames_before(tmp_path / "8.png", 2) == []


# --------------------------------------------------------------------------------------------------- in use


def frames(folder: Path) -> list[Image]:
    return [read_image(folder / f"{number}.png") for number in range(8, 13)]


def test_frames_of_a_stream_meet_and_pictures_do_not(tmp_path: Path):
    task, pictures = trained_gate(), frames(clip(tmp_path, size=(40, 44)))

    def done(stream: Any, tile: int | None = None, **more: Any) -> list[np.ndarray]:
        return [restore.enhance(task, picture, stream=stream, tile=tile, **more).pixels for picture in pictures]

    for tile in (None, 16):
        alone, together = done("", tile), done(("clip", tile), tile)
        assert np.array_equal(alone[0], together[0])
        assert all(not np.array_equal(a, b) for a, b in zip(alone[1:], together[1:], strict=True))
        assert all(np.array_equal(a, b) for a, b in zip(together, done(("other", tile), tile), strict=True))
    with_tiles = done("clip", cache=TileCache())
    assert all(np.array_equal(a, b) for a, b in zip(with_tiles, done("", cache=TileCache()), strict=True))
    idle = trained_gate(0.0)
    assert not idle.remembers
    assert np.array_equal(
        restore.enhance(idle, pictures[1], stream="x").pixels, restore.enhance(idle, pictures[1]).pixels
    )


def test_a_frame_that_does_not_fit_is_named(tmp_path: Path):
    task, picture = trained_gate(), frames(clip(tmp_path))[0]
    for module in task.modules():
        if hasattr(module, "cache"):
            module.cache.store.max_bytes = 10_000  # type: ignore[union-attr]
    with pytest.warns(UserWarning, match=r"^model.max_bytes: the feature maps of a frame of \d+ tiles do not fit"):
        restore.enhance(task, picture, stream="clip", tile=16)


def outputs(folder: Path) -> list[bytes]:
    return [read_image(file).pixels.tobytes() for file in sorted(folder.glob("*.png"))]


def test_a_clip_is_enhanced_with_what_was_learnt_and_resumed_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = clip(tmp_path / "in")
    task = trained_gate()
    enhance_video(task, source, tmp_path / "whole")
    apart = [restore.enhance(task, picture).pixels for picture in frames(source)]
    for number, picture in enumerate(apart):
        write_image(tmp_path / "apart" / f"{number + 8}.png", Image(picture, bits=8))
    same = [a == b for a, b in zip(outputs(tmp_path / "whole"), outputs(tmp_path / "apart"), strict=True)]
    assert sum(same) == 1  # the first frame, which had none before it
    enhance_video(task, source, tmp_path / "again")  # the clip before is forgotten
    assert outputs(tmp_path / "again") == outputs(tmp_path / "whole")

    def stop(what: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enhance_video(task, source, tmp_path / "broken", progress=stop)
    done = enhance_video(trained_gate(), source, tmp_path / "broken")
    assert done.resumed == 3
    assert outputs(tmp_path / "broken") == outputs(tmp_path / "whole")
    notes = enhance_video(task, source, tmp_path / "tiles", cache=TileCache()).notes
    assert any("remembers of earlier frames rests" in note for note in notes)


def test_the_command_line_uses_what_an_adapter_learnt(tmp_path: Path):
    wanted = replace(recipe(clip(tmp_path / "clip")), lora=LoRAConfig(r=2, target_modules=["in_proj"]))
    task = build(wanted)
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(len(name)))
        if name.endswith(".gate"):
            parameter.data.fill_(1.0)
    save(task, wanted, tmp_path / "adapter")
    assert shares(load(tmp_path / "adapter")) == pytest.approx([float(np.tanh(1.0))])
    words = ["enhance", str(tmp_path / "clip"), "--adapter", str(tmp_path / "adapter"), "--device", "cpu"]
    with warnings.catch_warnings():
        assert main([*words[:2], str(tmp_path / "frames"), *words[2:], "--frames"]) == 0
        assert main([*words[:2], str(tmp_path / "pictures"), *words[2:]]) == 0
    same = [a == b for a, b in zip(outputs(tmp_path / "frames"), outputs(tmp_path / "pictures"), strict=True)]
    assert not all(same)
