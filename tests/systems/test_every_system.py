"""The one contract that every room keeps. A room is in the table of contents, and has a `tiny()`."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.checkpoint import load, load_recipe, save
from lorgnette.cli import VERBS
from lorgnette.recipe import build, recipe_from_dict, recipe_to_dict
from lorgnette.systems import ROOMS, option_files, preparing, room, room_name, verb_of
from lorgnette.systems.protocol import Enhances, OptionFiles, Prepares, Room, undeclared, without_own
from lorgnette.train.config import TrainConfig
from lorgnette.train.events import Finished
from lorgnette.train.loop import evaluate, fit
from lorgnette.train.task import Task

PROTOCOL = sorted(name for name in vars(Room) if not name.startswith("_"))

if TYPE_CHECKING:  # what the type checker holds each room to
    from lorgnette.systems import clip, faceview, mesh, restore, superres

    _superres: Room[superres.Recipe, superres.Data] = superres
    _restore: Room[restore.Recipe, restore.Data] = restore
    _clip: Room[clip.Recipe, clip.Data] = clip
    _mesh: Room[mesh.Recipe, mesh.Data] = mesh
    _faceview: Room[faceview.Recipe, faceview.Data] = faceview
    _enhance: tuple[Enhances, ...] = (superres, restore)
    _prepares: Prepares = mesh
    _option_files: OptionFiles[restore.Recipe] = restore

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.parametrize("name", ROOMS)


class Trained(NamedTuple):
    recipe: Any
    task: Task
    test: list[Any]
    before: Task
    end: Finished


_trained: dict[str, Trained] = {}


def trained(name: str) -> Trained:
    """The room's miniature, trained once for all tests; what they change has to be a copy."""
    if name not in _trained:
        recipe, batches, test = room(name).tiny()
        task = build(recipe)
        before = copy.deepcopy(task)
        end = fit(task, batches, recipe.train, test=test)
        _trained[name] = Trained(recipe, task, test, before, end)
    return _trained[name]


def tensors(value: Any) -> Iterator[Tensor]:
    """Those in a prediction."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif dataclasses.is_dataclass(value):
        yield from tensors(vars(value))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)


@torch.no_grad()
def answers(task: Task, batches: list[Any], bf16: bool = False) -> list[Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = [tensor.clone() for batch in batches for tensor in tensors(task.eval().predict(batch))]
    assert found
    return found


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


def hashes(task: Task) -> dict[str, bytes]:
    return {name: t.detach().contiguous().numpy().tobytes() for name, t in task.state_dict().items()}


def shake(task: nn.Module, what: str) -> None:
    """Random values for the base or the adapters: an untrained base may hide everything behind a zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(task.named_parameters()):
            if ("lora_" in name) == (what == "adapters"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def test_every_name_of_the_protocol_is_there(name: str):
    module = room(name)
    assert isinstance(module, ModuleType)
    for public in PROTOCOL:
        assert public in module.__all__
        assert getattr(module, public) is not None
    assert {
        "Recipe",
        "Model",
        "Data",
        "make_task",
        "loaders",
        "default_steps",
        "evaluation",
        "from_upstream",
        "tiny",
    } < {*PROTOCOL}
    fields = {field.name: field for field in dataclasses.fields(module.Recipe)}
    assert list(fields) == ["model", "data", "lora", "train"]
    recipe = module.Recipe()  # every setting has a default
    assert isinstance(recipe.model, module.Model)
    assert isinstance(recipe.data, module.Data)
    assert isinstance(recipe.lora, lora.LoRAConfig)
    assert type(recipe.train) is TrainConfig
    assert isinstance(recipe.model.base, str)  # where `load` puts the folder of a whole model
    assert 200 <= module.default_steps(1, recipe) <= module.default_steps(10**6, recipe)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.train = TrainConfig()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_what_a_room_says_of_itself_is_so(name: str):
    module = room(name)
    about = module.ABOUT
    assert about.name == name
    for verb in about.verbs:
        assert verb in VERBS
        assert callable(verb_of(name, verb))
    taken = inspect.signature(module.evaluation).parameters
    assert {"progress", *about.test_options} <= taken.keys()
    if about.crop:
        assert taken["crop"].default == 0
        assert about.crop in {field.name for field in dataclasses.fields(module.Data)}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert not about.extra or about.extra in extras
    if about.prepares:
        assert callable(preparing(name).prepare)
    if about.option_files:
        assert option_files(name).read_options


def test_no_path_of_this_machine_is_sent(name: str, tmp_path: Path):
    """Each setting that takes any text is said to be a path or not; the paths are left out."""
    data = room(name).Data
    assert undeclared(data) == []
    kept = dataclasses.asdict(data())
    assert {*data.OWN} <= kept.keys()
    secret = str(tmp_path / "secret")
    for own in data.OWN:
        some = data()
        object.__setattr__(some, own, secret)  # whatever goes with it
        assert secret not in json.dumps(dataclasses.asdict(without_own(some)))


def test_data_that_all_is_held_out(name: str):
    data = room(name).Data
    assert data().all_held_out() is None  # nothing named: no proof, and no error
    mine = data(root="somewhere").all_held_out()
    assert mine is not None
    assert mine.test == mine.root == "somewhere"
    theirs = data(root="somewhere", test="elsewhere").all_held_out()
    assert theirs is not None
    assert theirs.test == "elsewhere"


def test_settings_import_no_torch(name: str):
    code = (
        f"import sys; from lorgnette.systems import room; m = room({name!r}); r = m.Recipe(m.Model(), m.Data()); "
        "from lorgnette.recipe import recipe_from_dict, recipe_to_dict; "
        "assert recipe_from_dict(recipe_to_dict(r)) == r; assert 'torch' not in sys.modules"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr


def test_a_recipe_survives_being_written(name: str):
    recipe, _, _ = room(name).tiny()
    assert room_name(recipe) == name
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    assert recipe_to_dict(recipe)["room"] == name


def test_building_is_seeded_and_leaves_the_process_alone(name: str):
    recipe, _, _ = room(name).tiny()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build(recipe)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert hashes(first) == hashes(build(recipe))
    other = hashes(build(replace(recipe, train=replace(recipe.train, seed=recipe.train.seed + 1))))
    for factor in (key for key in other if key.endswith("lora_A")):
        assert other[factor] != hashes(first)[factor]
    assert not first.training
    adapters = {id(p) for p in lora.get_lora_params(first)}
    saved = {id(t) for t in lora.trained_tensors(first).values()}
    assert adapters
    learning = {id(p) for p in first.parameters() if p.requires_grad}
    assert adapters <= learning
    assert len(learning) <= len(adapters) + len(saved)
    assert len(learning) < len(list(first.parameters()))
    whole = build(replace(recipe, lora=None))
    assert not lora.is_adapted(whole)
    assert any(p.requires_grad for p in whole.parameters())


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_a_fresh_adapter_changes_no_bit(name: str, bf16: bool):
    recipe, _, test = room(name).tiny()
    base, adapted = build(replace(recipe, lora=None)), build(recipe)
    shake(base, "base")
    adapted.load_state_dict(base.state_dict(), strict=False)
    before = answers(base, test, bf16)
    assert equal(answers(adapted, test, bf16), before)
    shake(adapted, "adapters")
    assert not equal(answers(adapted, test, bf16), before)  # the adapters do count
    with lora.disabled(adapted):
        assert equal(answers(adapted, test, bf16), before)


def test_a_checkpoint_of_the_base_loads_after_injection(name: str):
    recipe, _, _ = room(name).tiny()
    base, adapted = build(replace(recipe, lora=None)).model, build(recipe).model
    answer = adapted.load_state_dict(base.state_dict(), strict=False)
    expected = {f"{layer}.{factor}" for layer in lora.adapted_layers(adapted) for factor in ("lora_A", "lora_B")}
    assert set(answer.missing_keys) == expected
    assert answer.unexpected_keys == []


def test_the_miniature_learns(name: str):
    run = trained(name)
    assert run.end.improved
    assert run.task.objective(run.end.best) > run.task.objective(run.end.first)
    assert run.end.first == evaluate(run.before, run.test)
    assert run.end.best == evaluate(run.task, run.test)
    assert all(isinstance(value, float) for value in run.end.best.values())


def test_training_is_deterministic(name: str):
    recipe, batches, test = room(name).tiny()
    recipe = replace(recipe, train=replace(recipe.train, steps=3))
    states = []
    for _ in range(2):
        task = build(recipe)
        fit(task, batches, recipe.train, test=test)
        states.append(hashes(task))
        torch.rand(5)
    assert states[0] == states[1]


def test_training_leaves_the_base_as_it_was(name: str):
    run = trained(name)
    skip = lora.trained_tensors(run.task.model).keys()
    before, after = lora.fingerprint(run.before.model), lora.fingerprint(run.task.model)
    assert before.difference(after, skip) == ""
    assert len(after.tensors) > len(skip)
    frozen = {key for key, p in run.task.named_parameters() if not p.requires_grad}
    old, new = hashes(run.before), hashes(run.task)
    assert all(old[key] == new[key] for key in frozen)
    assert all(old[key] != new[key] for key in new if key.endswith("lora_B"))


def test_every_adapter_reaches_the_answer(name: str):
    run = trained(name)
    task = copy.deepcopy(run.task)
    report = lora.verify(task, run.test[0], forward=lambda task, batch: task.predict(batch))
    assert report.ok, str(report)
    assert set(report.checked) == set(lora.adapted_layers(task))


def test_saved_and_loaded_scores_the_same(name: str, tmp_path: Path):
    run = trained(name)
    folder = save(run.task, run.recipe, tmp_path / "lens")
    again = load(folder)
    assert evaluate(again, run.test) == run.end.best
    assert load_recipe(folder) == run.recipe
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000


def test_another_base_is_refused(name: str, tmp_path: Path):
    run = trained(name)
    other = build(replace(run.recipe, lora=None)).model
    shake(other, "base")
    folder = save(run.task, run.recipe, tmp_path / "lens")
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(ValueError, match="is for another base") as refusal:
        lora.load_adapter(other, folder)
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert not lora.is_adapted(other)


def test_merged_equals_adapted(name: str):
    run = trained(name)
    task = copy.deepcopy(run.task)
    wanted = answers(task, run.test)
    copied = lora.merge_lora_weights(task.model, inplace=False)
    assert lora.is_adapted(task)
    assert not lora.is_adapted(copied)
    assert lora.merge_lora_weights(task.model) is task.model
    assert not lora.is_adapted(task)
    merged = answers(task, run.test)
    for a, b in zip(merged, wanted, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()
    assert task.state_dict().keys() == build(replace(run.recipe, lora=None)).state_dict().keys()
    task.model = copied
    assert equal(answers(task, run.test), merged)


def test_a_whole_model_can_be_trained_kept_and_adapted(name: str, tmp_path: Path):
    recipe, batches, test = room(name).tiny()
    whole = replace(recipe, lora=None, train=replace(recipe.train, steps=2))
    task = build(whole)
    end = fit(task, batches, whole.train, test=test)
    save(task, whole, tmp_path)
    assert evaluate(load(tmp_path), test) == end.best
    assert equal(answers(load(tmp_path), test), answers(task, test))
    on_top = build(replace(recipe, model=replace(recipe.model, base=str(tmp_path))))
    assert equal(answers(on_top, test), answers(task, test))


def test_the_loop_gets_what_it_asks_for(name: str):
    """Losses are scalars with one called `loss`; pictures are small uint8 images."""
    run = trained(name)
    task = copy.deepcopy(run.task)
    _, batches, _ = room(name).tiny()
    losses = task(batches[0])
    assert losses["loss"].ndim == 0
    assert losses["loss"].requires_grad
    assert all(torch.isfinite(value).all() for value in losses.values())
    for batch in run.test:
        prediction = task.eval().predict(batch)
        for picture in task.pictures(prediction, batch).values():
            assert picture.dtype.name == "uint8"
            assert picture.ndim == 3
            assert picture.shape[-1] == 3
    with pytest.raises(ValueError, match="data") as refusal:  # without a word about the data there is nothing to load
        room(name).loaders(room(name).Data())
    assert "\n" not in str(refusal.value)
