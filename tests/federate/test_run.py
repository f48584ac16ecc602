"""Whole federations of rooms in miniature."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lorgnette import build, evaluate, load, lora
from lorgnette.cli import main
from lorgnette.federate.aggregation.adapter_state import Adapter
from lorgnette.federate.aggregation.aggregate import Global
from lorgnette.federate.rounds.client import LocalClient, Place, Places, Proximal
from lorgnette.federate.rounds.loop import Outcome, Rounds
from lorgnette.federate.rounds.split import read_manifest
from lorgnette.federate.rounds.transport import Cancelled, InProcess
from lorgnette.federate.run import FederationFolder, Server, federate
from lorgnette.federate.settings import FederateConfig
from lorgnette.federate.wire.messages import Local, encode_work
from lorgnette.systems import room

SMALL = FederateConfig(clients=2, rounds=2, local_steps=2)


def miniature(name: str) -> tuple[Any, tuple[list[Any], list[Any]]]:
    recipe, batches, test = room(name).tiny()
    return recipe, (list(batches), list(test))


def run(folder: Path, name: str = "superres", config: FederateConfig = SMALL) -> tuple[Outcome, Server]:
    recipe, loaded = miniature(name)
    return federate(recipe, config, folder, loaded)


def flat(outcome: Outcome) -> dict[str, torch.Tensor]:
    return {f"{n}.{k}": getattr(p, k) for n, p in outcome.last.adapter.factors.items() for k in "AB"} | dict(
        outcome.last.adapter.tensors
    )


@pytest.mark.parametrize(
    ("name", "scheme"), [("superres", "svd"), ("superres", "residual"), ("restore", "stack"), ("restore", "ffa")]
)
def test_a_room_is_federated_and_its_adapter_is_an_ordinary_one(
    name: str, scheme: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = replace(SMALL, scheme=scheme, local_steps=5)
    outcome, _ = run(tmp_path, name, config)
    recipe, (_, test) = miniature(name)
    before, after = evaluate(build(recipe), test)["psnr"], outcome.saved.best["psnr"]
    assert after > before + 0.1
    loaded = load(tmp_path / "adapter")
    assert evaluate(loaded, test)["psnr"] == pytest.approx(after, abs=2e-3)
    assert lora.is_adapted(loaded)
    learnt = json.loads((tmp_path / "adapter" / "training.json").read_text())
    assert (learnt["rounds"], learnt["clients"], learnt["after"]["psnr"]) == (2, 2, pytest.approx(after))
    assert main(["info", str(tmp_path / "adapter")]) == 0
    said = capsys.readouterr().out
    assert "2 rounds of 2 holders of data" in said
    assert "psnr  " in said
    for file in ("journal.jsonl", "report.html", "split.json", "federation.yaml", "recipe.yaml"):
        assert (tmp_path / file).is_file()
    parts = read_manifest(tmp_path / "split.json", 6)
    assert sorted(index for part in parts.values() for index in part) == list(range(6))
    assert FederationFolder(tmp_path).settings() == (recipe, config)


def test_sharing_a_task_leaks_nothing_from_client_to_client():
    """Clients that train one after another on one task give what clients with a task each give."""
    recipe, (batches, _) = miniature("superres")
    recipe = replace(recipe, lora=replace(recipe.lora, lora_dropout=0.2))
    config = FederateConfig(clients=3, rounds=2, local_steps=2, scheme="stack", ranks=(2, 4, 1), precision="int8")
    outcomes = []
    for shared in (True, False):
        one = Places(lambda: build(recipe))
        clients = {
            f"c{i}": LocalClient(
                f"c{i}", one if shared else Places(lambda: build(recipe)), batches[i::3], 8, recipe.train
            )
            for i in range(3)
        }
        place = Place(build(recipe))
        outcomes.append(Rounds(config, Global(place.made), place.adapter.base).run(InProcess(clients)))
    assert all(torch.equal(value, flat(outcomes[1])[name]) for name, value in flat(outcomes[0]).items())


def test_personal_layers_stay_at_home(tmp_path: Path):
    config = replace(SMALL, personal=("imnet", "encoder.body.0.body.0"))
    outcome, _ = run(tmp_path, config=config)
    names = {*outcome.last.adapter.factors, *outcome.last.adapter.tensors}
    assert names
    assert not any(name.startswith("imnet") or name == "encoder.body.0.body.0" for name in names)
    homes = [FederationFolder(tmp_path).store(client).before(99) for client in ("client-1", "client-2")]
    assert homes[0].keys() == homes[1].keys()
    assert "home:encoder.body.0.body.0.lora_B" in homes[0]
    assert any(name.startswith("home:imnet") for name in homes[0])
    assert all(not torch.equal(value, homes[1][name]) for name, value in homes[0].items())
    whole, _ = run(tmp_path / "whole")
    assert outcome.saved.record["bytes_up"] < whole.saved.record["bytes_up"]
    scored = []
    recipe, (_, test) = miniature("superres")
    for client in ("client-1", "client-2"):
        own = load(tmp_path / "adapters" / client)
        mine = FederationFolder(tmp_path).store(client).before(99)["home:encoder.body.0.body.0.lora_B"]
        assert torch.allclose(Adapter(own.model).read().factors["encoder.body.0.body.0"].B, mine, atol=1e-6)
        scored.append(evaluate(own, test)["psnr"])
    told = outcome.saved.record["metrics"]["psnr"]  # the clients' own, each with its own layers
    assert told == pytest.approx(sum(scored) / 2, abs=0.02)
    assert told > evaluate(build(recipe), test)["psnr"] + 0.05


def test_a_personal_layer_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="personal: 'imnett' matches nothing"):
        run(tmp_path, config=replace(SMALL, personal=("imnett",)))
    assert not list(tmp_path.iterdir())


def test_the_proximal_term_is_that_of_fedprox():
    recipe, (batches, _) = miniature("superres")
    task = build(recipe)
    held = Proximal(task, 0.5)
    plain = task(batches[0])["loss"]
    assert torch.equal(held(batches[0])["loss"], plain)
    with torch.no_grad():
        moved = [p for p in task.parameters() if p.requires_grad]
        for p in moved:
            p.add_(0.001)
    losses = held(batches[0])
    count = sum(p.numel() for p in moved)
    assert losses["proximal"].item() == pytest.approx(0.25 * 1e-6 * count, rel=1e-3)
    assert losses["loss"].item() == pytest.approx((task(batches[0])["loss"] + losses["proximal"]).item(), rel=1e-6)


def test_what_holds_clients_back_does(tmp_path: Path):
    def norms(folder: str, **settings: Any) -> list[float]:
        outcome, _ = run(tmp_path / folder, config=replace(SMALL, rounds=1, local_steps=4, **settings))
        sent.append(sum(tensor.numel() for tensor in flat(outcome).values()))
        return [entry["update_norm"] for entry in outcome.saved.record["clients"].values()]

    sent: list[int] = []
    free = norms("free")
    assert max(norms("proximal", proximal=1e3)) < 0.7 * min(free)
    assert norms("clip", clip=0.25) == pytest.approx([0.25, 0.25], rel=1e-3)
    noisy, again = (norms(folder, clip=0.25, noise=0.5) for folder in ("noise", "again"))
    assert noisy == again
    # Each of the numbers sent has noise of a deviation of 0.5 x 0.25, which drowns an update of norm 0.25.
    assert noisy == pytest.approx([0.125 * sent[-1] ** 0.5] * 2, rel=0.05)
    reports = {folder: (tmp_path / folder / "report.html").read_text() for folder in ("clip", "noise")}
    assert "epsilon (delta 1e-05)" in reports["noise"]
    assert "epsilon" not in reports["clip"]


def test_a_client_stops_at_its_next_step_when_nobody_waits():
    recipe, (batches, _) = miniature("superres")
    places = Places(lambda: build(recipe))
    client = LocalClient("a", places, batches, 8, recipe.train)
    place = Place(build(recipe))
    work = encode_work(1, "svd", "fp32", None, Local(steps=10**6), place.adapter.base, place.made, {})
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        client.train(1, work, cancelled)
    assert client.store.before(99) == {}
    with pytest.raises(ValueError, match="round 1 came in round 2"):
        client.train(2, work)


def test_another_recipe_is_refused_by_the_client():
    recipe, (batches, _) = miniature("superres")
    place = Place(build(recipe))
    work = encode_work(1, "svd", "fp32", None, Local(steps=1), place.adapter.base, place.made, {})
    other = replace(recipe, model=replace(recipe.model, encoder="edsr-baseline"))
    with pytest.raises(ValueError, match="another base model"):
        LocalClient("a", Places(lambda: build(other)), batches, 8, other.train).train(1, work)


@pytest.mark.parametrize("name", ["scheme", "weights", "precision", "schedule", "server_optimizer", "split"])
def test_a_word_that_a_setting_does_not_take_is_refused(name: str):
    with pytest.raises(ValueError, match=rf"^{name}: 'other' does not work"):
        FederateConfig(**{name: "other"})


def test_whole_networks_and_other_settings_are_refused(tmp_path: Path):
    recipe, loaded = miniature("superres")
    with pytest.raises(ValueError, match="a federation needs an adapter"):
        federate(replace(recipe, lora=None), SMALL, tmp_path / "a", loaded)
    federate(recipe, replace(SMALL, rounds=1), tmp_path / "b", loaded)
    with pytest.raises(ValueError, match="holds a federation with other settings"):
        federate(recipe, SMALL, tmp_path / "b", loaded)
