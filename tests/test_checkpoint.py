"""What is kept on disk, and what comes back."""

from __future__ import annotations

import errno
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from lorgnette import lora
from lorgnette.checkpoint import Checkpoints, RunFolder, load, load_recipe, save
from lorgnette.recipe import build, recipe_from_dict, recipe_to_dict
from lorgnette.systems import superres
from lorgnette.train.config import TrainConfig
from lorgnette.train.events import Finished, Stepped
from lorgnette.train.task import Task

RECIPE = superres.Recipe(
    model=superres.Model(encoder="edsr-tiny", base="none"),
    data=superres.Data(root="my photos/été", scales=(1.5, 3.25), test_scales=(2.0, 3.3), augment=False),
    lora=lora.LoRAConfig(
        r=2, lora_alpha=3, target_modules=["coef", "freq"], rank_pattern={"freq": 4}, modules_to_save=["imnet"]
    ),
    train=TrainConfig(steps=7, lr=1e-4, base_lr=3e-5, optimizer="sgd", precision="bf16", seed=5, device="cpu"),
)
WHOLE = replace(RECIPE, lora=None)


def shaken(recipe: superres.Recipe) -> Task:
    task = build(recipe)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in task.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return task


def state(task: Task) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in task.state_dict().items()}


@contextmanager
def small_disk(limit: int) -> Iterator[None]:
    """Files may not grow beyond `limit` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("recipe", [RECIPE, WHOLE], ids=["adapter", "whole"])
def test_saved_and_loaded_is_the_same(recipe: superres.Recipe, tmp_path: Path):
    task = shaken(recipe)
    folder = save(task, recipe, tmp_path / "new" / "lens")
    assert folder == tmp_path / "new" / "lens"
    assert load_recipe(folder) == recipe
    again = load(folder)
    assert state(again) == state(task)
    assert not again.training
    assert {p.name for p in folder.iterdir()} == (
        {"recipe.yaml", "model.safetensors"}
        if recipe.lora is None
        else {"recipe.yaml", "lorgnette.json", "adapter_config.json", "adapter_model.safetensors"}
    )


def test_what_was_saved_replaces_what_was_there(tmp_path: Path):
    save(build(RECIPE), RECIPE, tmp_path)
    task = shaken(RECIPE)
    save(task, RECIPE, tmp_path)
    assert state(load(tmp_path)) == state(task)


def test_a_whole_model_is_the_base_of_the_next_adapter(tmp_path: Path):
    base = shaken(WHOLE)
    save(base, WHOLE, tmp_path / "base")
    recipe = replace(RECIPE, model=superres.Model(encoder="edsr-tiny", base=str(tmp_path / "base")))
    task = build(recipe)
    kept, now = state(base), state(task)
    assert {name: now[name] for name in kept} == kept
    save(task, recipe, tmp_path / "lens")
    save(shaken(replace(WHOLE, train=replace(WHOLE.train, seed=6))), WHOLE, tmp_path / "base")  # another one now
    with pytest.raises(ValueError, match="is for another base"):
        load(tmp_path / "lens")
    assert load(tmp_path / "lens", strict=False) is not None


@pytest.mark.parametrize("recipe", [RECIPE, WHOLE], ids=["adapter", "whole"])
def test_a_task_with_a_compiled_model_is_saved_as_the_plain_one(recipe: superres.Recipe, tmp_path: Path):
    task = shaken(recipe)
    save(task, recipe, tmp_path / "plain")
    task.model.encoder = torch.compile(task.model.encoder, backend="eager")
    task.model = torch.nn.DataParallel(task.model)
    save(task, recipe, tmp_path / "wrapped")
    plain, wrapped = ({f.name: f.read_bytes() for f in (tmp_path / n).iterdir()} for n in ("plain", "wrapped"))
    assert plain == wrapped


def test_recipes_are_plain_text_that_comes_back():
    saved = recipe_to_dict(RECIPE)
    assert list(saved) == ["format_version", "room", "model", "data", "lora", "train"]
    text = yaml.safe_dump(saved)
    assert "!!" not in text
    assert recipe_from_dict(yaml.safe_load(text)) == RECIPE
    assert recipe_from_dict(yaml.safe_load(yaml.safe_dump(recipe_to_dict(WHOLE)))) == WHOLE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 2}, "format_version is 2; this program reads 1"),
        ({"room": "superers"}, "there is no room 'superers' (did you mean 'superres'?)"),
        ({"train": {"lrr": 1}}, "train.lrr"),
        ({"train": {"lr": "fast"}}, "train.lr: 'fast'"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_damaged_recipe_is_refused_in_one_line(change: dict, says: str, tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe_to_dict(RECIPE) | change))
    with pytest.raises(ValueError, match=re.escape(says)) as refusal:
        load_recipe(tmp_path)
    assert "\n" not in str(refusal.value)


def test_folders_without_a_recipe(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no recipe\.yaml"):
        load(tmp_path)
    (tmp_path / "recipe.yaml").write_text("!!python/object/apply:os.mkdir [boom]")
    with pytest.raises(ValueError, match="not valid YAML"):
        load(tmp_path)
    assert not Path("boom").exists()


def test_a_run_is_begun_once(tmp_path: Path):
    run = RunFolder(tmp_path / "run")
    assert run.latest_snapshot() is None
    run.start(RECIPE)
    run.start(RECIPE)  # nothing was learnt yet
    assert load_recipe(run.path) == RECIPE
    run.write_snapshot({"step": 1, "tensor": torch.ones(2)})
    with pytest.raises(ValueError, match="holds a run already; --resume"):
        run.start(RECIPE)
    snapshot = run.latest_snapshot()
    assert snapshot is not None
    assert snapshot["step"] == 1
    assert [file.name for file in run.checkpoints.iterdir()] == ["last.pt"]


def test_snapshots_are_written_every_so_many_steps_and_at_the_end(tmp_path: Path):
    written = []

    class Folder(RunFolder):
        def write_snapshot(self, snapshot):
            written.append(snapshot["step"])

    listener = Checkpoints(Folder(tmp_path), every=3)
    for step in range(1, 8):
        listener(Stepped(step, {}, 1.0, 0.1, 0.1, lambda step=step: {"step": step}))
    listener(Finished(7, "done", {}, {}, 7, True, lambda: {"step": 7}))
    assert written == [3, 6, 7]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = RunFolder(tmp_path)
    run.write_snapshot({"step": 1})
    with small_disk(20_000), pytest.raises(ValueError, match=r"cannot write .*last\.pt .*disk full") as refusal:
        run.write_snapshot({"step": 2, "tensor": torch.zeros(10_000)})
    assert "\n" not in str(refusal.value)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            run.write_snapshot({"step": 3})
    assert run.latest_snapshot() == {"step": 1}
    assert [file.name for file in run.checkpoints.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("recipe", [RECIPE, WHOLE], ids=["adapter", "whole"])
def test_a_full_disk_leaves_the_last_good_weights(recipe: superres.Recipe, tmp_path: Path):
    task = build(recipe)
    save(task, recipe, tmp_path)
    with small_disk(3_000), pytest.raises((ValueError, OSError)) as refusal:
        save(shaken(recipe), recipe, tmp_path)
    assert "\n" not in str(refusal.value)
    assert state(load(tmp_path)) == state(task)


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_damaged_checkpoint_is_one_line(damage: str, tmp_path: Path):
    run = RunFolder(tmp_path)
    run.write_snapshot({"step": 1, "tensor": torch.ones(1000)})
    data = run.snapshot_file.read_bytes()
    run.snapshot_file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"hello")
    with pytest.raises(ValueError, match=r"last\.pt") as refusal:
        run.latest_snapshot()
    assert "\n" not in str(refusal.value)


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for recipe in (RECIPE, WHOLE):
        with pytest.raises(ValueError, match="cannot make the folder"):
            save(build(recipe), recipe, tmp_path / "file" / "lens")


def test_the_folder_of_a_run_stands_for_what_it_has_learnt(tmp_path: Path):
    """In every place that takes the folder of an adapter or of a whole model."""
    task, run = shaken(RECIPE), RunFolder(tmp_path / "run")
    run.start(RECIPE)
    save(task, RECIPE, run.adapter)
    assert state(load(run.path)) == state(task)
    bare = build(replace(RECIPE, lora=None))
    assert not lora.load_adapter(bare.model, run.path).missing
    assert lora.adapter_info(run.path) == lora.adapter_info(run.adapter)
    imported = build(replace(RECIPE, lora=None))
    assert not lora.import_adapter(imported.model, run.path).missing

    whole, run = shaken(WHOLE), RunFolder(tmp_path / "whole")
    run.start(WHOLE)
    save(whole, WHOLE, run.adapter)
    assert state(load(run.path)) == state(whole)
    based = replace(WHOLE, model=replace(WHOLE.model, base=str(run.path)))
    assert state(build(based)) == state(whole)


def test_a_folder_that_holds_an_adapter_is_that_adapter(tmp_path: Path):
    save(shaken(RECIPE), RECIPE, tmp_path)
    (tmp_path / "adapter").mkdir()
    assert lora.adapter_folder(tmp_path) == tmp_path
    assert lora.adapter_folder(tmp_path / "none") == tmp_path / "none"
