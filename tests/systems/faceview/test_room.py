"""The room from end to end: a base first, adapters on it, kept, resumed, federated, used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.systems.faceview.test_faces import write_files

from lorgnette import lora
from lorgnette.checkpoint import load, save
from lorgnette.cli import main
from lorgnette.federate.run import federate
from lorgnette.federate.settings import FederateConfig
from lorgnette.recipe import build
from lorgnette.systems import faceview
from lorgnette.systems.faceview.data import test_batch as held_out_batch
from lorgnette.systems.faceview.task import told_apart
from lorgnette.train.batches import DrawnBatches
from lorgnette.train.config import TrainConfig
from lorgnette.train.events import Stepped
from lorgnette.train.loop import evaluate, fit

WIDTH = 512
SMALL = ["--model.num_layers", "1", "--model.dim_feedforward", "64", "--model.dropout", "0"]
POINTS = ["--data.preset", "points", "--data.people", "30", "--data.views", "4"]
SHORT = ["--train.batch_size", "16", "--train.eval_every", "10", "--train.device", "cpu"]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model with something to keep."""
    recipe = faceview.Recipe(model=faceview.Model(num_layers=1, dim_feedforward=64, dropout=0.0), lora=None)
    task = build(recipe)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in task.model.head.parameters():
            part.add_(0.02 * torch.randn(part.shape, generator=generator))
    return save(task, recipe, tmp_path_factory.mktemp("base"))


def test_a_base_is_trained_first(tmp_path: Path):
    words = ["train", "faceview", "--lora", "null", *POINTS, *SMALL, *SHORT, "--train.steps", "4"]
    assert main([*words, "--out", str(tmp_path / "base")]) == 0
    assert main([*adapting(tmp_path / "base"), "--train.steps", "2", "--out", str(tmp_path / "adapted")]) == 0
    assert lora.is_adapted(load(tmp_path / "adapted"))


def adapting(base: Path, *more: str) -> list[str]:
    """The words of a training of adapters on the base."""
    worn = ["--data.preset", "points-worn", *POINTS[2:]]
    return ["train", "faceview", "--model.base", str(base), *worn, *SMALL, *SHORT, *more]


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("adapted") / "run"
    assert main(adapting(base, "--train.steps", "12", "--data.holdout", "0", "--out", str(run))) == 0
    return run / "adapter"


def test_a_random_base_is_refused(capsys: pytest.CaptureFixture[str]):
    line = refused(capsys, "train", "faceview", *POINTS, *SMALL)
    assert "model.base: 'none' is untrained" in line
    assert "--lora null" in line


def test_another_size_of_base_is_refused(base: Path, capsys: pytest.CaptureFixture[str]):
    other = [word if word != "64" else "32" for word in SMALL]
    line = refused(capsys, "train", "faceview", "--model.base", str(base), *POINTS, *other)
    assert "the base is of other sizes: layers.0.linear1" in line
    assert "lacks" in refused(capsys, *adapting(base, "--model.num_layers", "2"))
    assert "d_model 256" in refused(capsys, *adapting(base, "--model.d_model", "256"))


def test_resumed_is_bit_identical(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    dropping = [*adapting(base), "--lora.lora_dropout", "0.2", "--model.prior", "0.1", "--train.save_every", "3"]
    assert main([*dropping, "--train.steps", "8", "--out", str(whole)]) == 0

    def killed(event: object) -> None:
        if isinstance(event, Stepped) and event.step == 5:
            raise OSError("killed")

    monkeypatch.setattr("lorgnette.train.listeners.run_listeners", lambda folder: [killed])
    assert main([*dropping, "--train.steps", "8", "--out", str(broken)]) == 2
    monkeypatch.undo()
    assert main(["train", "faceview", "--resume", str(broken)]) == 0  # from step 3 on
    one, two = (load(run / "adapter").state_dict() for run in (whole, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_scored_from_the_command_line(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = write_files(tmp_path / "faces", faceview.invented(8, 5, seed=21))
    assert main(["eval", str(adapter), "--data", str(folder), "--json", str(tmp_path / "e.json")]) == 0
    rows = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert list(rows) == ["as they are", "base", "adapted"]
    assert {"tar@1e-3", "eer", "rank-1", "far@1e-3 45-65"} < rows["adapted"].keys()
    with_ends = ["--data", str(folder), "--intervals", "20", "--json", str(tmp_path / "e.json")]
    assert main(["eval", str(adapter), *with_ends]) == 0
    row = json.loads((tmp_path / "e.json").read_text())["rows"]["adapted"]
    assert row["tar@1e-3 45-65 low"] <= row["tar@1e-3 45-65"] <= row["tar@1e-3 45-65 high"]
    assert "no such folder" in refused(capsys, "eval", str(adapter), "--data", str(tmp_path / "none"))


def test_rotate(adapter: Path):
    task, batch = load(adapter), held_out_batch(faceview.invented(5, 3, seed=22))
    wanted = task.predict(batch)
    given = batch["src"] * 20, batch["angles"]
    mapped = faceview.rotate(task, *given, keypoints=batch["keypoints"] * 3 + 1)  # of any length, size and place
    assert torch.allclose(mapped, wanted, atol=1e-5)
    assert torch.allclose(mapped.norm(dim=1), torch.ones(len(mapped)))
    one = faceview.rotate(task, given[0][2].numpy(), given[1][2].numpy(), keypoints=batch["keypoints"][2])
    assert one.shape == (WIDTH,)
    assert torch.allclose(one, mapped[2], atol=1e-5)
    degrees = torch.rad2deg(given[1])
    in_degrees = faceview.rotate(task, given[0], degrees, keypoints=batch["keypoints"], angle_unit="deg")
    assert torch.allclose(in_degrees, mapped, atol=1e-5)
    aside = faceview.rotate(task, *given, target_pose=[0, 0.9, 0], keypoints=batch["keypoints"])
    assert not torch.allclose(aside, mapped, atol=1e-5)


def test_what_is_frontal_stays(adapter: Path):
    task, batch = load(adapter), held_out_batch(faceview.invented(20, 1, seed=23))
    ahead = batch["angles"][:, 1].abs() < np.deg2rad(8)
    assert ahead.any()
    mapped = task.predict(batch)
    assert (mapped * batch["src"]).sum(1)[ahead].min() > 0.999


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"embedding": np.full(WIDTH, np.nan)}, "embedding: not all are finite numbers"),
        ({"embedding": np.zeros(WIDTH)}, "all zero"),
        ({"embedding": np.ones(128)}, r"embedding: shape \(1, 128\) does not work; \(N, 512\) does"),
        ({"pose": [0, 65, 0]}, r"pose: 65 is beyond 2 pi radians"),
        ({"pose": [0, 1]}, r"pose: shape \(1, 2\)"),
        ({"target_pose": [0, 90, 0]}, "target_pose: 90 is beyond"),
        ({"keypoints": None}, "keypoints: missing"),
        ({"keypoints": np.ones((4, 3))}, r"\(1, 5, 3\) or \(1, 68, 3\) does"),
        ({"keypoints": np.ones((5, 3))}, "in one place"),
    ],
)
def test_what_rotate_refuses(adapter: Path, changed: dict, message: str):
    given = {"embedding": np.ones(WIDTH), "pose": [0, 1, 0], "keypoints": np.eye(5)[:, :3]}
    with pytest.raises(ValueError, match=message) as refusal:
        faceview.rotate(load(adapter), **given | changed)
    assert "\n" not in str(refusal.value)


def test_rotate_from_the_command_line(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    person = next(iter(faceview.invented(1, 4, seed=24).values()))
    file, out = str(tmp_path / "video_a.npz"), str(tmp_path / "front_a.npz")
    arrays = {
        "embedding": person.video.embedding,
        "pose": np.rad2deg(person.video.pose),
        "kps3d": person.video.keypoints,
    }
    np.savez(file, **arrays)
    words = ["rotate", file, out, "--adapter", str(adapter), "--unit", "deg"]
    assert main(words) == 0
    with np.load(out) as found:
        expected = faceview.rotate(load(adapter), person.video.embedding, person.video.pose, keypoints=arrays["kps3d"])
        assert np.allclose(found["embedding"], expected.numpy(), atol=1e-5)
        assert not found["pose"].any()
    assert "there already" in refused(capsys, *words)
    assert "beyond 2 pi radians" in refused(capsys, *words[:-2], "--overwrite")
    assert main([*words, "--overwrite", "--target", "0", "40", "0"]) == 0
    with np.load(out) as found:
        assert np.allclose(found["pose"], np.deg2rad([0, 40, 0]))
    np.savez(file, embedding=arrays["embedding"])
    assert "has no array 'pose'" in refused(capsys, *words, "--overwrite")
    (tmp_path / "video_a.npz").write_bytes(b"PK\x03\x04")
    assert "no intact .npz file" in refused(capsys, *words, "--overwrite")
    assert "no such file" in refused(capsys, "rotate", "none.npz", out, "--adapter", str(adapter), "--overwrite")
    assert "an .npz file is written" in refused(capsys, "rotate", file, "out.npy", "--adapter", str(adapter))


def test_other_persons_are_told_apart():
    vectors = torch.eye(4)
    person = torch.tensor([0, 0, 1, 2])
    logits = torch.eye(4) / 0.1
    logits[0, 1] = logits[1, 0] = -torch.inf
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(4))
    assert torch.allclose(told_apart(vectors, vectors, person, 0.1), expected)
    same = vectors[[0, 0, 2, 3]]  # two views of one person are no strangers
    assert float(told_apart(same, same, person, 0.1)) < 1e-3


def test_the_prior_of_adapters_and_of_a_whole_training(base: Path):
    recipe = faceview.Recipe(
        model=faceview.Model(base=str(base), num_layers=1, dim_feedforward=64, dropout=0.0, prior=1.0),
        data=faceview.Data(preset="points-worn", people=20, views=4),
        train=TrainConfig(steps=4, batch_size=16, lr=1e-2, warmup_steps=0, device="cpu"),
    )
    for adapted in (recipe, replace(recipe, lora=None)):
        task, (batches, _) = build(adapted), faceview.loaders(recipe.data, recipe.train)
        batch = next(batches.starting_at(0))
        assert float(task(batch)["prior"].detach()) == pytest.approx(0, abs=1e-5)
        fit(task, batches, recipe.train)
        assert float(task(batch)["prior"].detach()) > 1e-3
        assert not [name for name in task.state_dict() if "teacher" in name]
    without = build(replace(recipe, lora=None, model=replace(recipe.model, base="none")))
    with pytest.raises(ValueError, match=r"model\.prior: there is no base to keep"):
        without(batch)


def test_a_replay_is_what_the_prior_is_asked_on(base: Path, tmp_path: Path):
    write_files(tmp_path)
    data = faceview.Data(preset="points-worn", people=20, views=4, replay=str(tmp_path))
    model = faceview.Model(base=str(base), num_layers=1, dim_feedforward=64, dropout=0.0, prior=1.0)
    train = TrainConfig(steps=3, batch_size=8, lr=1e-2, warmup_steps=0, device="cpu")
    recipe = faceview.Recipe(model=model, data=data, train=train)
    task, (batches, _) = build(recipe), faceview.loaders(data, recipe.train)
    fit(task, batches, recipe.train)
    batch = next(batches.starting_at(0))
    changed = batch | {"replay_src": batch["replay_src"].roll(1, 0)}
    assert float(task(batch)["prior"].detach()) != float(task(changed)["prior"].detach())
    assert float(task(batch)["cosine"].detach()) == float(task(changed)["cosine"].detach())


def test_three_holders_train_one(base: Path, tmp_path: Path):
    recipe = faceview.Recipe(
        model=faceview.Model(base=str(base), num_layers=1, dim_feedforward=64, dropout=0.0),
        data=faceview.Data(preset="points-worn", people=24, views=3),
        train=TrainConfig(batch_size=8, lr=1e-2, device="cpu", warmup_steps=0),
    )
    batches, test = faceview.loaders(recipe.data, recipe.train)
    config = FederateConfig(clients=3, rounds=2, local_steps=3)
    outcome, server = federate(recipe, config, tmp_path / "here", (batches, list(test)))
    assert outcome.reason == "done"
    assert evaluate(load(server.folder.adapter), test) == pytest.approx(server.evaluate(outcome.best), rel=1e-6)
    words = ["federate", "faceview", "--model.base", str(base), *SMALL, *POINTS, "--clients", "3", "--rounds", "1"]
    assert main([*words, "--local-steps", "2", "--out", str(tmp_path / "there")]) == 0


def test_from_upstream_deduces_the_sizes(base: Path, tmp_path: Path):
    model = faceview.from_upstream(base / "model.safetensors", gate="dream")
    assert (model.d_model, len(model.layers), model.num_tokens) == (WIDTH, 1, 4)
    batch = held_out_batch(faceview.invented(3, 2, seed=30))
    inputs = batch["src"], batch["angles"], batch["keypoints"]
    assert torch.equal(model(*inputs), load(base).model(*inputs))
    torch.save({"model_state_dict": model.state_dict(), "epoch": 3}, tmp_path / "best.pth")
    assert torch.equal(faceview.from_upstream(tmp_path / "best.pth", gate="dream")(*inputs), model(*inputs))
    with pytest.raises(ValueError, match="holds no face mapping"):
        faceview.from_upstream({"weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="nhead: 7 does not divide 512"):
        faceview.from_upstream(base / "model.safetensors", nhead=7)


def test_views_without_keypoints(base: Path, tmp_path: Path):
    """A network that wants none takes data that has none."""
    write_files(tmp_path)
    for file in tmp_path.glob("*kps3d*"):
        file.unlink()
    model = faceview.Model(num_layers=1, dim_feedforward=32, keypoints=False)
    recipe = faceview.Recipe(model=model, data=faceview.Data(root=str(tmp_path), holdout=0.34), lora=None)
    batches, test = faceview.loaders(recipe.data)
    task = build(recipe)
    assert isinstance(batches, DrawnBatches)
    assert torch.isfinite(task(next(batches.starting_at(0)))["loss"])
    assert evaluate(task, test)["cosine"] > 0
    folder = save(task, recipe, tmp_path / "kept")
    assert evaluate(load(folder), test) == evaluate(task, test)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nhead": 7}, r"model\.nhead: 7 does not divide model\.d_model 512"),
        ({"num_tokens": 0}, r"model\.num_tokens: 0 is too small"),
        ({"dropout": 1.0}, r"model\.dropout: 1\.0 is not in"),
        ({"voxel_resolution": 1}, r"model\.voxel_resolution: 1 is outside 2 to 64"),
        ({"prior": -1}, r"model\.prior: -1 is no weight"),
        ({"temperature": 0}, r"model\.temperature: 0 is not positive"),
        ({"projection": True, "keypoints": False}, r"model\.projection: needs model\.keypoints"),
        ({"gate": "deram"}, r"model\.gate: 'deram' does not work"),
    ],
)
def test_settings_that_do_not_work(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        faceview.Model(**settings)
