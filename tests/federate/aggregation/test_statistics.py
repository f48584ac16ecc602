"""Statistics that travel with an adapter are averaged as what they are, whatever moves the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lorgnette import lora
from lorgnette.federate.aggregation.adapter_state import Adapter, AdapterState
from lorgnette.federate.aggregation.aggregate import ClientUpdate, Global, aggregate
from lorgnette.federate.aggregation.factors import Product
from lorgnette.federate.aggregation.schemes import SCHEMES
from lorgnette.federate.aggregation.server_optimizer import ServerOptimizer
from lorgnette.federate.rounds.round_journal import RoundJournal, Saved
from lorgnette.federate.settings import LINEAR_SCHEMES
from lorgnette.federate.wire.messages import Local, decode_work, encode_work

WAYS = [(scheme, "momentum") for scheme in SCHEMES] + [(scheme, "adam") for scheme in LINEAR_SCHEMES]
MARKED = frozenset({"norm.centre"})


def state(value: float, seen: int) -> AdapterState:
    tensors = {
        "norm.running_var": torch.full((3,), value),
        "norm.running_mean": torch.full((3,), -value),
        "norm.centre": torch.full((2,), value),
        "norm.num_batches_tracked": torch.tensor(seen),
        "norm.weight": torch.full((3,), value),
    }
    return AdapterState({"fc": Product(torch.ones(2, 4), torch.zeros(3, 2))}, tensors, MARKED)


@pytest.mark.parametrize(("scheme", "kind"), WAYS)
def test_statistics_are_the_mean_and_weights_are_moved(scheme: str, kind):
    optimizer, now = ServerOptimizer(kind), Global(state(10.0, 0))
    for round in range(1, 6):
        updates = [ClientUpdate("a", 1, state(1.0, 5 * round)), ClientUpdate("b", 3, state(2.0, 8 * round))]
        now = aggregate(scheme, now, updates, round, 0, optimizer).after
        tensors = now.adapter.tensors
        for name, wanted in (("running_var", 1.75), ("running_mean", -1.75), ("centre", 1.75)):
            assert torch.allclose(tensors[f"norm.{name}"], torch.tensor(wanted)), name
        assert tensors["norm.num_batches_tracked"].item() == round * 29 // 4 + (round * 29 % 4 > 2)
        assert now.adapter.statistics == MARKED
    assert (tensors["norm.weight"] - 1.75).abs().min() > 0.1  # on its way, or beyond
    assert not [name for name in optimizer.state if "norm.weight" not in name and name.startswith("norm.")]


def test_a_variance_that_noise_made_negative_stays_what_it_was():
    before = Global(state(0.5, 0))
    updates = [ClientUpdate("a", 1, state(-3.0, 1)), ClientUpdate("b", 1, state(1.0, 1))]
    after = aggregate("svd", before, updates).after.adapter.tensors
    assert after["norm.running_var"].tolist() == [0.5] * 3
    assert after["norm.centre"].tolist() == [-1.0] * 2


class Shifted(nn.Module):
    """A layer with a statistic of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("centre", torch.zeros(4))


def test_what_no_optimiser_trains_is_known_and_stays_known(tmp_path: Path):
    model = nn.ModuleDict({"fc": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4), "shift": Shifted()})
    lora.inject_lora(model, lora.LoRAConfig(r=2, target_modules=["fc"], modules_to_save=["norm", "shift"]))
    adapter = Adapter(model)
    made = adapter.read()
    wanted = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "shift.centre"}
    assert made.statistics == wanted
    assert set(made.tensors) == wanted | {"norm.weight", "norm.bias", "shift.weight"}
    for same in (made.at(1), made.best_at(1), AdapterState().updated(made), Global(made).whole()):
        assert same.statistics == wanted
    assert made.only(["shift.centre"]).statistics == {"shift.centre"}
    assert made.without(["shift.centre"]).statistics == wanted - {"shift.centre"}
    work = decode_work(encode_work(1, "svd", "fp32", None, Local(), adapter.base, made, {}), made, adapter.base)
    assert work.state.statistics == wanted
    RoundJournal(tmp_path).commit(Saved(1, Global(made), {"round": 1}))
    kept = RoundJournal(tmp_path).latest()
    assert kept is not None
    assert kept.state.adapter.statistics == wanted
