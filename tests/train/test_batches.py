"""Batches are a pure function of (seed, step), whoever loads them."""

from __future__ import annotations

import atexit
import signal
import threading
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lorgnette.train.batches import Draw, DrawnBatches, ListedBatches, derived_seed


class Numbers:
    """Samples that tell everything about their making."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, draw: Draw) -> dict[str, object]:
        return {
            "draw": torch.tensor([draw.seed, draw.step, draw.slot, draw.index]),
            "own": torch.from_numpy(draw.rng().random(3)),
            "shared": torch.from_numpy(draw.batch_rng().random(2)),
            "worker": torch.utils.data.get_worker_info() is not None,
            "deaf": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        }


def indices(batches: DrawnBatches, steps: range, rank: int = 0, processes: int = 1) -> list[int]:
    return [draw.index for step in steps for draw in batches.draws(step, rank, processes)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 23), st.integers(1, 7), st.integers(0, 3))
def test_every_epoch_is_a_permutation_of_its_own(n: int, batch_size: int, seed: int):
    batches = DrawnBatches(Numbers(n), batch_size, seed)
    seen = indices(batches, range(3 * n // batch_size + 3))
    epochs = [tuple(seen[k * n : (k + 1) * n]) for k in range(3)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    if n > 10:
        assert len(set(epochs)) == 3
        assert indices(DrawnBatches(Numbers(n), batch_size, seed + 1), range(n)) != seen[: n * batch_size]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 23), st.integers(1, 4), st.integers(1, 4), st.integers(0, 50))
def test_processes_share_the_batch_of_a_single_one(n: int, batch_size: int, processes: int, step: int):
    """Draws and not indices alone: crops and scales do not depend on the number of processes either."""
    shared = [DrawnBatches(Numbers(n), batch_size, 3).draws(step, rank, processes) for rank in range(processes)]
    assert list(chain(*shared)) == DrawnBatches(Numbers(n), batch_size * processes, 3).draws(step)


def test_any_number_of_workers_gives_the_same_batches_from_any_step_on():
    wanted = list(islice(DrawnBatches(Numbers(5), 2, seed=7).starting_at(0), 7))
    assert not any(batch["worker"].any() for batch in wanted)
    for step, workers in ((3, 0), (3, 2)):
        stream = DrawnBatches(Numbers(5), 2, 7, workers).starting_at(step)
        for batch, reference in zip(islice(stream, 4), wanted[step:], strict=True):
            assert batch["worker"].all() == bool(workers)
            # Ctrl-C reaches all processes of a terminal: a worker that died of it would take the step with it.
            assert batch["deaf"].all() == bool(workers)
            for name in ("draw", "own", "shared"):
                assert torch.equal(batch[name], reference[name])
        del stream
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Tidying:
    """Samples whose worker would leave a mark if Python tidied up at its end."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __len__(self) -> int:
        return 5

    def __getitem__(self, draw: Draw) -> dict[str, torch.Tensor]:
        atexit.register(self.mark.touch)
        return {"image": torch.zeros(2)}


def test_workers_of_a_dropped_stream_end_at_once(tmp_path: Path):
    """Python's tidying up would unwind the thread that sends tensors, inside C++: now and then the worker aborts."""
    stream = DrawnBatches(Tidying(tmp_path / "tidied"), 2, 7, workers=2).starting_at(0)
    next(stream)
    workers = list(stream._workers)  # pyright: ignore[reportAttributeAccessIssue]  of PyTorch's iterator
    del stream
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert not (tmp_path / "tidied").exists()


def test_randomness_belongs_to_the_draw_and_to_nothing_else():
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    draw = Draw(seed=1, step=2, slot=3, index=4)
    own = draw.rng().random()
    assert own == Draw(1, 2, 3, 4).rng().random()
    others = [Draw(2, 2, 3, 4), Draw(1, 3, 3, 4), Draw(1, 2, 4, 4)]
    assert own not in [other.rng().random() for other in others]
    assert draw.batch_rng().random() == Draw(1, 2, 9, 9).batch_rng().random()
    assert draw.batch_rng().random() not in [own, *(other.batch_rng().random() for other in others[:2])]
    next(DrawnBatches(Numbers(5), 2).starting_at(0))
    assert np.array_equal(np.random.get_state()[1], legacy)
    # (A DataLoader asks torch's global generator for a seed; `fit` puts that state back.)
    torch.set_rng_state(state)


def test_derived_seeds_are_fixed_for_ever():
    """Runs that started with an earlier version go on with the same numbers."""
    assert derived_seed(0, 0, 0) == 7896617691693857887
    assert derived_seed(1, 2, 3) == 6498626229777268288
    assert len({derived_seed(a, b, c) for a in range(5) for b in range(5) for c in range(5)}) == 125
    assert Draw(0, 0, 0, 0).rng().integers(10**9) == 393985660
    assert indices(DrawnBatches(Numbers(6), 3, 1), range(4)) == [4, 0, 2, 1, 5, 3, 1, 4, 0, 3, 2, 5]


def test_a_stream_can_start_in_another_thread():
    """Signals are the main thread's alone."""
    found = []
    stream = threading.Thread(target=lambda: found.append(next(DrawnBatches(Numbers(3), 3).starting_at(0))))
    stream.start()
    stream.join()
    assert sorted(found[0]["draw"][:, 3].tolist()) == [0, 1, 2]


def test_listed_batches_go_round_and_processes_take_turns():
    batches = ListedBatches("abc")
    assert "".join(islice(batches.starting_at(0), 7)) == "abcabca"
    assert "".join(islice(batches.starting_at(4), 3)) == "bca"
    assert ["".join(islice(batches.starting_at(1, rank, 2), 3)) for rank in (0, 1)] == ["cba", "acb"]


def test_no_data_is_refused():
    with pytest.raises(ValueError, match="training data is empty"):
        DrawnBatches(Numbers(0), 2)
    with pytest.raises(ValueError, match="training data is empty"):
        ListedBatches([])
