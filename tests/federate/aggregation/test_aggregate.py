"""Aggregation against dense arithmetic, and mutants that the same check must catch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.federate.layers import adapted, base_model, weights, worst_error
from torch import nn

from lorgnette import lora
from lorgnette.federate.aggregation import factors
from lorgnette.federate.aggregation.adapter_state import Adapter, AdapterState
from lorgnette.federate.aggregation.aggregate import ClientUpdate, Global, aggregate, aggregation_error
from lorgnette.federate.aggregation.factors import Product
from lorgnette.federate.aggregation.schemes import SCHEMES, Combined, Layer, Scheme
from lorgnette.federate.aggregation.server_optimizer import ServerOptimizer

EXACT = [name for name, scheme in SCHEMES.items() if scheme.exact]


@st.composite
def clients(draw: st.DrawFn) -> tuple[list[int], list[float], list[float]]:
    count = draw(st.integers(2, 16))
    ranks = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    alphas = draw(st.lists(st.floats(0.5, 20), min_size=count, max_size=count))
    sizes = draw(st.lists(st.floats(1, 500), min_size=count, max_size=count))
    return ranks, alphas, sizes


def test_the_table_says_which_are_exact():
    assert set(EXACT) == {"ffa", "stack", "residual", "alternating"}


@pytest.mark.parametrize(("scheme", "round"), [(s, r) for s in EXACT for r in ((1, 2) if s == "alternating" else (1,))])
@given(who=clients())
@settings(max_examples=6, deadline=None)
def test_exact_schemes_reproduce_the_weighted_mean(scheme: str, round: int, who):
    """Every kind of layer, 2 to 16 clients, unequal in size, rank and strength."""
    assert worst_error(scheme, *who, round=round) < 1e-5


def test_svd_is_exact_where_its_rank_suffices():
    ranks = [2, 1, 9]  # 12 together, above what most of the layers have
    assert worst_error("svd", [*ranks[:2], 30], [1, 5, 9], [3, 1, 1]) < 1e-5


def test_fedavg_is_not_exact_and_says_so():
    found = worst_error("fedavg", [4, 4, 4], [8, 8, 8], [1, 1, 1])
    assert found > 0.3


# ---------------------------------------------------------------------------------- what the check above must catch


def mutant(name: str, combine) -> Scheme:
    return replace(SCHEMES[name], combine=combine)


def transposed_residual(layer: Layer) -> Combined:
    """The residual of a layer as wide as high, added the wrong way round, as published code does it."""
    right = SCHEMES["residual"].combine(layer)
    assert right.folded is not None
    A, B = right.folded
    return Combined(right.after, Product(B.mT, A.mT) if A.shape[-1] == B.shape[-2] else right.folded)


def dropped_client(name: str):
    def combine(layer: Layer) -> Combined:
        kept = layer.clients[:-1]
        weights = [w / sum(layer.weights[:-1]) for w in layer.weights[:-1]]
        return SCHEMES[name].combine(layer._replace(clients=kept, weights=weights, target=factors.total(kept, weights)))

    return combine


def first_client_alone(layer: Layer) -> Combined:
    """Every client's tensors overwritten by the next, as a published baseline has it."""
    mean = factors.total(layer.clients[:1], layer.weights[:1])
    return Combined(factors.padded(mean, layer.before.rank))


def forgotten_weights(name: str):
    def combine(layer: Layer) -> Combined:
        equal = [1 / len(layer.clients)] * len(layer.clients)
        return SCHEMES[name].combine(layer._replace(weights=equal, target=factors.total(layer.clients, equal)))

    return combine


MUTANTS = {
    "residual, transposed": (mutant("residual", transposed_residual), 1),
    "one client only": (mutant("stack", first_client_alone), 1),
    **{f"{n}, a client dropped": (mutant(n, dropped_client(n)), 1) for n in EXACT},
    **{f"{n}, sizes forgotten": (mutant(n, forgotten_weights(n)), 1) for n in EXACT},
    "alternating, a client dropped from A": (mutant("alternating", dropped_client("alternating")), 2),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str):
    """Not only by this suite: the error that is logged every round tells of them as well."""
    scheme, round = MUTANTS[name]
    who = [4, 4, 4], [8.0, 8.0, 8.0], [1.0, 2.0, 3.0]
    assert worst_error(scheme, *who, round=round) > 0.05
    base = base_model()
    models = [Adapter(adapted(base, 4, 8, seed)).read() for seed in range(3)]
    updates = [ClientUpdate(str(i), i + 1.0, state) for i, state in enumerate(models)]
    assert aggregate(scheme, Global(models[0]), updates, round).error > 0.05


# ------------------------------------------------------------------------------------------------------- products


@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    rank=st.integers(1, 40),
    keep=st.integers(1, 12),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_the_core_s_svd_equals_the_dense_one(shape: tuple[int, int], rank: int, keep: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    m, n = shape
    product = Product(
        torch.randn(2, rank, n, generator=generator).double(), torch.randn(2, m, rank, generator=generator).double()
    )
    dense = product.dense()
    U, S, Vh = torch.linalg.svd(dense, full_matrices=False)
    ours = factors.singular(product)
    k = ours[1].shape[-1]
    scale = float(S.max())
    assert torch.allclose(ours[1], S[..., :k], atol=1e-10 * scale)
    assert S[..., k:].abs().sum() < 1e-9 * scale
    kept = min(keep, k)
    best = (U[..., :kept] * S[..., None, :kept]) @ Vh[..., :kept, :]
    assert torch.allclose(factors.truncated(product, keep).dense(), best, atol=1e-9 * scale)
    assert factors.norm(product) == pytest.approx(float(dense.norm()), rel=1e-9)
    assert factors.distance(product, product) < 1e-12 * float(dense.norm())


def test_truncation_leaves_rows_to_learn_with():
    """Of a product of rank one, cut to four: three columns of B are zero, and no row of A is."""
    A, B = factors.truncated(factors.padded(Product(torch.randn(1, 9), torch.randn(7, 1)), 6), 4)
    assert torch.allclose(A @ A.mT, torch.eye(4, dtype=A.dtype), atol=1e-10)
    assert B[:, 1:].abs().max() < 1e-10


def test_the_error_is_that_of_dense_arithmetic():
    generator = torch.Generator().manual_seed(0)

    def random(r: int) -> Product:
        return Product(torch.randn(r, 12, generator=generator), torch.randn(7, r, generator=generator))

    parts, weights, after = [random(2), random(3), random(1)], [3.0, 1.0, 2.0], random(2)
    mean = sum(w / 6 * p.B.double() @ p.A.double() for p, w in zip(parts, weights, strict=True))
    wanted = float((after.B.double() @ after.A.double() - mean).norm() / mean.norm())
    assert aggregation_error(after, parts, weights) == pytest.approx(wanted, rel=1e-9)


# ------------------------------------------------------------------------------------------------------ aggregate


def updates_of(ranks: list[int], size: float = 1.0) -> tuple[Global, list[ClientUpdate]]:
    base = base_model()
    before = Global(Adapter(adapted(base, max(ranks), 4, 50)).read())
    states = [Adapter(adapted(base, r, 4, seed, size)).read() for seed, r in enumerate(ranks)]
    return before, [ClientUpdate(f"c{i}", i + 1.0, state) for i, state in enumerate(states)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_order_of_the_clients_does_not_count(scheme: str):
    before, updates = updates_of([3, 2, 4])
    one, other = aggregate(scheme, before, updates), aggregate(scheme, before, updates[::-1])
    for name, product in one.after.adapter.factors.items():
        assert torch.equal(product.A, other.after.adapter.factors[name].A)
        assert torch.equal(product.B, other.after.adapter.factors[name].B)
    assert one.error == other.error


@pytest.mark.parametrize("scheme", SCHEMES)
def test_many_rounds_keep_the_sizes(scheme: str):
    """Ranks stay those of the server; what is folded never has more than the full rank."""
    before, updates = updates_of([3, 2, 4])
    shapes = {name: (p.A.shape, p.B.shape) for name, p in before.adapter.factors.items()}
    state = before
    for round in range(1, 6):
        state = aggregate(scheme, state, updates, round).after
        assert {name: (p.A.shape, p.B.shape) for name, p in state.adapter.factors.items()} == shapes
        assert all(product.rank <= product.full_rank or product.rank <= 30 for product in state.folded.values())
        assert all(product.rank <= product.full_rank for product in state.folded.values() if round > 3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_error_of_a_round_is_that_of_dense_arithmetic(scheme: str):
    """Over all layers: Frobenius norms are added as squares."""
    before, updates = updates_of([3, 2, 4])
    result = aggregate(scheme, before, updates)
    missed, wanted = [], []
    for name, old in before.adapter.factors.items():
        clients = [update.state.factors[name] for update in updates]
        if SCHEMES[scheme].sends == "B" or SCHEMES[scheme].trains(1) == "B":
            mean = factors.total(clients, [1 / 6, 2 / 6, 3 / 6]).dense()
        else:
            mean = sum(update.weight / 6 * p.dense().double() for update, p in zip(updates, clients, strict=True))
        now = result.after.adapter.factors[name].dense().double()
        if name in result.after.folded:
            now = now + result.after.folded[name].dense().double()
        missed.append(float((now - mean).norm()))
        wanted.append(float(mean.norm()))
        assert result.errors[name] == pytest.approx(missed[-1] / wanted[-1], rel=1e-4, abs=1e-6), (name, old.rank)
    whole = (sum(m**2 for m in missed) / sum(w**2 for w in wanted)) ** 0.5
    assert result.error == pytest.approx(whole, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("scheme", ["svd", "stack"])
def test_rows_that_a_scheme_makes_are_as_long_as_those_that_were_trained(scheme: str):
    """Else the learning rate would mean something else in every round. `stack` makes its rows of random numbers."""
    before, updates = updates_of([3, 4, 4], size=7.0)
    longer = {name: Product(7 * p.A, p.B) for name, p in before.adapter.factors.items()}
    before = Global(replace(before.adapter, factors=longer))
    after = aggregate(scheme, before, updates).after
    for name, product in after.adapter.factors.items():
        trained = torch.cat([update.state.factors[name].A for update in updates], -2)
        like = trained if scheme == "svd" else before.adapter.factors[name].A
        size, wanted = (float(rows.double().square().sum(-1).mean().sqrt()) for rows in (product.A, like))
        assert size == pytest.approx(wanted, rel=1e-4 if scheme == "svd" else 0.7), name


def test_svd_goes_on_learning_in_every_row():
    """After a round in which no client learnt anything (B is zero) the rows of A are as long as they were."""
    base = base_model()
    model = adapted(base, 4, 4, 0)
    for layer in lora.adapted_layers(model).values():
        layer.lora_B.data.zero_()
    state = Adapter(model).read()
    after = aggregate("svd", Global(state), [ClientUpdate("a", 1, state), ClientUpdate("b", 1, state)]).after
    for name, product in after.adapter.factors.items():
        assert product.B.abs().max() < 1e-6
        assert (product.A.norm(dim=-1) > 0.1).all(), name


def test_unfrozen_tensors_are_averaged_by_size_and_counters_rounded():
    tensors = [{"bias": torch.tensor([v]), "seen": torch.tensor(s)} for v, s in ((1.0, 10), (4.0, 13))]
    updates = [
        ClientUpdate(str(i), w, AdapterState({}, t)) for i, (w, t) in enumerate(zip((1, 2), tensors, strict=True))
    ]
    after = aggregate("svd", Global(AdapterState({}, tensors[0])), updates).after.adapter.tensors
    assert after["bias"].item() == pytest.approx(3.0)
    assert after["seen"].item() == 12
    assert after["seen"].dtype == torch.int64


def test_momentum_of_products_is_that_of_dense_matrices():
    """Three rounds of svd with rank enough, against momentum on the matrices themselves."""
    generator = torch.Generator().manual_seed(1)

    def state() -> AdapterState:
        return AdapterState(
            {"w": Product(torch.randn(6, 6, generator=generator), torch.randn(5, 6, generator=generator))}
        )

    now, optimizer = Global(state()), ServerOptimizer("momentum", lr=0.7, momentum=0.6)
    dense, velocity = now.adapter.factors["w"].dense().double(), torch.zeros(5, 6).double()
    for round in range(1, 4):
        updates = [ClientUpdate("a", 1, state()), ClientUpdate("b", 3, state())]
        mean = sum(u.weight / 4 * u.state.factors["w"].dense().double() for u in updates)
        velocity = 0.6 * velocity + (mean - dense)
        dense = dense + 0.7 * velocity
        now = aggregate("svd", now, updates, round, optimizer=optimizer).after
        assert torch.allclose(now.adapter.factors["w"].dense().double(), dense, atol=1e-4)


def test_adam_of_the_server_is_fedadam():
    optimizer = ServerOptimizer("adam", lr=0.1, momentum=0.9)
    old, mean = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])
    m, v = 0.1 * 1.0, 0.01 * 1.0
    moved = optimizer.tensor("x", old, mean)
    assert moved[0].item() == pytest.approx(0.1 * m / (v**0.5 + 1e-3))
    assert moved[1].item() == 1.0


# ------------------------------------------------------------------------------------------------- adapters of models


def test_an_adapter_that_does_not_add_up_is_refused():
    for extra in ({"use_dora": True}, {"init_lora_weights": "pissa"}):
        model = nn.Sequential(nn.Linear(5, 4))
        lora.inject_lora(model, lora.LoRAConfig(r=2, target_modules=["0"], **extra))
        with pytest.raises(ValueError, match="does not add up"):
            Adapter(model)
    with pytest.raises(ValueError, match="no adapter"):
        Adapter(nn.Linear(2, 2))


def test_folding_can_be_taken_back_bit_for_bit():
    base = base_model()
    model = adapted(base, 3, 2, 0)
    adapter = Adapter(model)
    state, before = adapter.read(), base_weights(model)
    adapter.write(state, {name: Product(p.A * 2, p.B) for name, p in state.factors.items()})
    assert not torch.equal(base_weights(model)["wide.weight"], before["wide.weight"])
    adapter.write(state)
    assert all(torch.equal(value, before[name]) for name, value in base_weights(model).items())


def base_weights(model: nn.ModuleDict) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items() if "lora" not in name}


def test_other_ranks_are_written_to_layers_that_share_a_weight():
    model = nn.Module()
    model.a, model.b = nn.Linear(6, 5, bias=False), nn.Linear(6, 5, bias=False)
    model.b.weight = model.a.weight
    lora.inject_lora(model, lora.LoRAConfig(r=4, lora_alpha=2, target_modules=["a", "b"]))
    adapter = Adapter(model)
    name = next(iter(adapter.read().factors))
    adapter.write(AdapterState({name: Product(torch.randn(2, 6), torch.randn(5, 2))}))
    assert model.a.lora_A is model.b.lora_A
    assert model.a.r == 2
    assert model.a.scaling == model.b.scaling == 0.5


def test_whole_is_all_that_differs_from_the_base():
    base = base_model()
    before, updates = updates_of([3, 2, 4])
    for scheme in ("stack", "residual"):
        after = aggregate(scheme, before, updates).after
        models = [adapted(base, 4, 9, 7), adapted(base, 4, 9, 8)]
        Adapter(models[0]).write(after.adapter, after.folded)
        Adapter(models[1]).write(after.whole())
        one, other = map(weights, models)
        for name, weight in one.items():
            assert torch.allclose(weight, other[name], rtol=1e-4, atol=1e-4), name
