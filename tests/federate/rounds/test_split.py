"""How data is dealt out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lorgnette.federate.rounds.split import by_size, dirichlet, evenly, read_manifest, split, write_manifest
from lorgnette.federate.settings import FederateConfig
from lorgnette.train.batches import Draw, DrawnBatches


@given(
    n=st.integers(10, 120),
    clients=st.integers(1, 10),
    classes=st.integers(1, 12),
    concentration=st.floats(0.01, 100),
    min_size=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_every_sample_goes_to_one_client(n, clients, classes, concentration, min_size, seed):
    if n < clients * min_size:
        return
    labels = np.arange(n) % classes
    for parts in (
        dirichlet(labels, clients, concentration, min_size, seed),
        evenly(n, clients, min_size, seed),
        by_size(n, clients, concentration, min_size, seed),
    ):
        assert len(parts) == clients
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))
        assert min(map(len, parts)) >= min_size


def test_the_split_is_a_function_of_the_seed():
    labels = np.arange(200) % 5
    one, same, other = (dirichlet(labels, 6, 0.3, seed=seed) for seed in (1, 1, 2))
    assert all(map(np.array_equal, one, same))
    assert not all(map(np.array_equal, one, other))


def test_concentration_says_how_unlike_clients_are():
    labels = np.arange(4000) % 10

    def share_of_the_largest(concentration: float) -> float:
        parts = dirichlet(labels, 8, concentration, seed=0)
        return float(np.mean([np.bincount(labels[part], minlength=10).max() / len(part) for part in parts]))

    assert share_of_the_largest(0.1) > 0.4
    assert share_of_the_largest(100) < 0.2


def test_auto_takes_labels_where_there_are_some():
    labels = np.arange(60) % 3
    assert all(map(np.array_equal, split("auto", 60, labels, 4, 0.3, 1, 0), dirichlet(labels, 4, 0.3, 1, 0)))
    assert all(map(np.array_equal, split("auto", 60, None, 4, 0.3, 1, 0), evenly(60, 4, 1, 0)))
    with pytest.raises(ValueError, match="needs labels and this data has none; iid or sizes work"):
        split("dirichlet", 60, None, 4, 0.3, 1, 0)
    with pytest.raises(
        ValueError, match="clients: 60 with at least 2 samples each need 120, and there are 100, enough for 50"
    ):
        split("iid", 100, None, 60, 0.3, 2, 0)


def test_the_manifest_comes_back(tmp_path: Path):
    parts = {"a": np.array([0, 2]), "b": np.array([1])}
    write_manifest(tmp_path / "split.json", parts, 3)
    back = read_manifest(tmp_path / "split.json", 3)
    assert {name: part.tolist() for name, part in back.items()} == {"a": [0, 2], "b": [1]}
    with pytest.raises(ValueError, match="splits 3 samples; the data has 4 now"):
        read_manifest(tmp_path / "split.json", 4)
    for text in ("[]", '{"format_version": 1}', '{"format_version": 1, "samples": 2, "clients": {"a": [[0]]}}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.json"):
            read_manifest(tmp_path / "bad.json", 2)


def test_a_part_draws_from_its_own_samples():
    class Numbers:
        def __len__(self) -> int:
            return 10

        def __getitem__(self, draw: Draw) -> int:
            return draw.index

    batches = DrawnBatches(Numbers(), 3).part([3, 5, 8], seed=1)
    stream = batches.starting_at(0)
    assert {int(i) for _ in range(4) for i in next(stream)} == {3, 5, 8}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"clients": 0}, "clients: 0 is too small"),
        ({"fraction": 0.0}, "fraction: 0.0 is outside"),
        ({"quorum": 1.5}, "quorum: 1.5"),
        ({"deadline": 0.0}, "deadline: 0.0 is not a positive number"),
        ({"noise": 1.0}, "noise: 1.0 is in multiples of clip"),
        ({"ranks": (4, 0)}, "ranks"),
        ({"server_optimizer": "adam"}, "momentum works with it, adam with fedavg, ffa, alternating"),
        ({"server_momentum": 1.0}, "server_momentum"),
        ({"proximal": float("nan")}, "proximal: nan"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(given, says):
    with pytest.raises(ValueError, match=r".") as refusal:
        FederateConfig(**given)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
