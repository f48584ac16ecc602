"""What is kept on disk: adapter folders, whole models, and the folder of a run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file

from lorgnette import lora
from lorgnette.common.files import atomic_write, make_folder, write_text
from lorgnette.common.hub import is_hub, pinned
from lorgnette.common.parts import FILE as PARTS_FILE, Parts
from lorgnette.common.tensors import read_tensors
from lorgnette.lora.wrappers import unwrapped
from lorgnette.recipe import FORMAT_VERSION, build, recipe_from_dict, recipe_to_dict
from lorgnette.settings import read_yaml
from lorgnette.systems import room_of
from lorgnette.systems.protocol import RoomRecipe
from lorgnette.train.batches import Batches, HeldOut
from lorgnette.train.events import Event, Finished, Stepped
from lorgnette.train.listeners.record import finite
from lorgnette.train.task import Task

RECIPE_FILE = "recipe.yaml"
MODEL_FILE = "model.safetensors"
LEARNT_FILE = "training.json"


def save(
    task: Task, recipe: RoomRecipe, folder: str | os.PathLike[str], learnt: Mapping[str, Any] | None = None
) -> Path:
    """Keep what a task has learnt.

    With an adapter: a folder in PEFT's layout with our own file and `recipe.yaml`. Without one
    (`recipe.lora` is None): all weights as `model.safetensors`, with `recipe.yaml` and what the room adds.

    Args:
        task: with or without an adapter.
        recipe: that it was built by.
        folder: made if need be.
        learnt: how it was trained and what that brought (`what_was_learnt`), kept as `training.json` for
            `lorgnette info`.

    Returns:
        The folder.

    Raises:
        ValueError: the folder cannot be written to.
    """
    folder = make_folder(folder)
    recipe = task.completed(recipe)
    notes = {} if learnt is None else {LEARNT_FILE: json.dumps({"format_version": FORMAT_VERSION, **learnt}, indent=2)}
    if learnt is None:
        (folder / LEARNT_FILE).unlink(missing_ok=True)  # of what was here before
    if recipe.lora is None:
        file = folder / MODEL_FILE
        with _one_line(file), atomic_write(file) as temporary, unwrapped(task.model) as plain:
            # Contiguous: safetensors keeps no memory format.
            save_file({name: t.contiguous() for name, t in plain.state_dict().items()}, temporary)
        for name, text in (task.companions() | notes).items():
            write_text(folder / name, text)
        write_text(folder / RECIPE_FILE, recipe_text(recipe))
    else:
        # Together, so that a killed save leaves an adapter and its own recipe.
        lora.save_adapter(task.model, folder, recipe.lora, files={RECIPE_FILE: recipe_text(recipe), **notes})
    return folder


def what_was_learnt(end: Finished, batches: Batches, test: HeldOut, seconds: float) -> dict[str, Any]:
    """How a training went, for `save`: on how much, how long, and the scores before and after it."""
    return {
        "samples": len(batches),
        "held_out": test.pictures,
        "steps": end.step,
        "best_step": end.best_step,
        "reason": end.reason,
        "seconds": round(seconds, 1),
        "before": finite(end.first),
        "after": finite(end.best),
        "improved": end.improved,
    }


def load(folder: str | os.PathLike[str], strict: bool = True, *, revision: str | None = None) -> Task:
    """The task that `save` kept, in eval mode on the CPU.

    Args:
        folder: an adapter folder or the folder of a whole model; or the folder of the run that made it; or
            `hub:user/name`, what somebody shared.
        strict: also refuse an adapter that was trained on other base weights.
        revision: of what is shared: a branch, a tag or a commit. Unset: the main branch, as it is now.

    Raises:
        FileNotFoundError: no such folder, or no recipe in it.
        ValueError: tensors that do not fit, or another base, in one line.
    """
    folder = lora.adapter_folder(folder, revision)
    recipe = load_recipe(folder)
    if recipe.lora is None:  # the folder itself is the base
        return build(_with_base(recipe, str(folder)))
    task = build(replace(recipe, lora=None))
    lora.load_adapter(task.model, folder, strict=strict)  # the adapter's own files say which layers it has
    return task.eval()


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """torch and safetensors have errors of their own for a full disk."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"cannot write {path} ({str(error).splitlines()[0]}): is the disk full?") from None


def recipe_text(recipe: RoomRecipe) -> str:
    """A recipe as YAML; a base on the hub is named with its commit."""
    if is_hub(recipe.model.base):
        recipe = _with_base(recipe, pinned(recipe.model.base))
    return yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False, allow_unicode=True)


def _with_base(recipe: Any, base: str) -> Any:
    return replace(recipe, model=replace(recipe.model, base=base))


def load_recipe(folder: str | os.PathLike[str]) -> Any:
    """The recipe in a run, adapter or model folder."""
    path = lora.current_file(folder, RECIPE_FILE)
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {RECIPE_FILE}: it is no run, adapter or model of this program")
    return recipe_from_dict(read_yaml(path), str(path))


def load_data(recipe: RoomRecipe, run: str | os.PathLike[str] | None = None) -> tuple[Batches, HeldOut]:
    """Training and held-out batches of a recipe, by its room.

    Args:
        recipe: a `Recipe` of any room.
        run: the folder of a run that goes on: what it learnt from and what it held out stay so, whatever has become of
            the folders of data since.
    """
    before = None if run is None else Parts.read(Path(run) / PARTS_FILE)
    loaders: Any = room_of(recipe).loaders
    return loaders(recipe.data, recipe.train, *([] if before is None else [before]))


class RunFolder:
    """The folder of one training run, and where things are in it."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.adapter = self.path / "adapter"
        self.samples = self.path / "samples"
        self.metrics_file = self.path / "metrics.jsonl"
        self.report = self.path / "report.html"
        self.checkpoints = self.path / "checkpoints"

    def start(self, recipe: RoomRecipe, parts: Parts | None = None) -> None:
        """Make the folder and write the recipe, and what is learnt from: from here on the run can be resumed."""
        if self.snapshot_file.exists():
            raise ValueError(f"{self.path} holds a run already; --resume {self.path} goes on with it")
        make_folder(self.path)
        if parts is not None:
            parts.write(self.path / PARTS_FILE)
        write_text(self.path / RECIPE_FILE, recipe_text(recipe))

    @property
    def snapshot_file(self) -> Path:
        return self.checkpoints / "last.pt"

    def write_snapshot(self, snapshot: dict[str, Any]) -> None:
        """Replace the latest snapshot; a full disk leaves the one before."""
        self.write(self.snapshot_file, snapshot)

    def write(self, path: Path, content: Any) -> None:
        """Write tensors and plain containers as `torch.load(weights_only=True)` reads them; whole or not at all."""
        with _one_line(path), atomic_write(path) as temporary:
            torch.save(content, temporary)

    def latest_snapshot(self) -> dict[str, Any] | None:
        """What to resume from; None where nothing was saved yet."""
        return dict(read_tensors(self.snapshot_file)) if self.snapshot_file.exists() else None


class Checkpoints:
    """A listener that writes a snapshot every `every` steps and at the end."""

    def __init__(self, folder: RunFolder, every: int):
        self.folder, self.every = folder, every

    def __call__(self, event: Event) -> None:
        match event:
            case Stepped() if event.step % self.every == 0:
                self.folder.write_snapshot(event.snapshot())
            case Finished():
                self.folder.write_snapshot(event.snapshot())
