"""Windows that did not change are not computed again, and nothing else is left out."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.common.store import ENTRY, BoundedStore
from lorgnette.nn.swin import SwinTransformerBlock
from lorgnette.nn.window_cache import WindowCache

WINDOW = 4


class Stack(nn.Module):
    """Blocks with and without a shift, all on one cache."""

    def __init__(self, cache: WindowCache | None = None, depth: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            SwinTransformerBlock(8, 2, WINDOW, WINDOW // 2 * (number % 2), window_cache=cache)
            for number in range(depth)
        )
        for block in self.blocks:
            nn.init.normal_(block.attn.relative_position_bias_table)
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor, key: object = None) -> Tensor:
        for block in self.blocks:
            x = block(x, key)
        return x


def frame(b: int = 1, h: int = 16, w: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(b, h, w, 8, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 2),
    st.sampled_from([(4, 4), (8, 4), (16, 20)]),
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 19), st.integers(1, 6)), min_size=1, max_size=4),
    st.sampled_from([1, 20_000, 2**30]),
)
def test_the_result_is_that_without_a_cache(b, size, changes, room):
    cache = WindowCache(max_bytes=room)
    stack, x = Stack(cache), frame(b, *size)
    for y, left, side in changes:
        x = x.clone()
        x[-1, y : y + side, left : left + side] += 1
        torch.testing.assert_close(stack(x, "clip"), stack(x), atol=1e-5, rtol=1e-5)
        assert cache.statistics["bytes"] <= room


def test_only_changed_windows_are_computed():
    cache = WindowCache()
    stack, x = Stack(cache), frame()
    first = stack(x, "clip")
    assert cache.statistics["misses"] == 40  # 20 windows in either block
    assert torch.equal(stack(x, "clip"), first)
    assert cache.statistics["hits"] == 40
    changed = x.clone()
    changed[0, 5, 6, 0] += 0.5
    out = stack(changed, "clip")
    assert cache.statistics["misses"] == 40 + 1 + 4  # its own window, and those of the shifted block that meet it
    untouched = torch.ones(16, 20, dtype=torch.bool)
    untouched[2:10, 2:10] = False
    assert torch.equal(out[0, untouched], first[0, untouched])
    assert not torch.equal(out, first)


def test_what_belongs_elsewhere_is_never_met():
    cache = WindowCache()
    stack, x = Stack(cache), frame()

    def hits(x: Tensor = x, key: str = "clip") -> int:
        before = cache.hits
        stack(x, key)
        return cache.hits - before

    assert hits() == 0
    assert hits() == 40
    assert hits(key="another") == 0
    assert hits(frame(seed=1)) == 0  # a cut
    assert hits(frame(2)) == 0
    assert hits(frame(1, 8, 20)) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert hits() == 0
    stack.blocks[0].mlp.fc1.weight.data[0, 0] += 0.5
    assert hits() <= 20  # the second block sees other inputs wherever it matters
    lora.inject_lora(stack, lora.LoRAConfig(r=1, target_modules=["qkv"]))
    for block in stack.blocks:
        nn.init.ones_(block.attn.qkv.lora_B)
    hits()
    with lora.disabled(stack):
        assert hits() == 0
    stack.double()
    assert hits(x.double()) == 0


def test_training_and_gradients_go_around_it():
    cache = WindowCache()
    block = SwinTransformerBlock(8, 2, WINDOW, 2, window_cache=cache)
    x = frame().requires_grad_()
    block(x, "clip").sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        block(x, "clip")
        block.eval()(x)
    assert len(cache) == 0
    with torch.no_grad():
        block(x, "clip")
    assert len(cache) == 1


def test_near_windows_and_no_drift():
    """Each frame is near the one before; the difference to what was computed stays below the tolerance."""
    cache = WindowCache(tolerance=0.1)
    stack, x = Stack(cache, depth=1), frame()
    outputs = [stack(x + 0.04 * number, "clip") for number in range(9)]
    computed = [not torch.equal(a, b) for a, b in itertools.pairwise(outputs)]
    assert computed == [False, False, True, False, False, True, False, False]


def test_copies_start_empty_and_settings_are_checked():
    cache = WindowCache(0.5, 1000)
    cache.through(torch.zeros(2, 3, 4), "key", lambda windows, _: windows)
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert (len(other), other.tolerance, other.max_bytes) == (0, 0.5, 1000)
    cache.clear()
    assert cache.statistics == {"entries": 0, "bytes": 0, "hits": 0, "misses": 0}
    with pytest.raises(ValueError, match="tolerance"):
        WindowCache(-1)
    with pytest.raises(ValueError, match="max_bytes"):
        WindowCache(max_bytes=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4000)), max_size=30), st.integers(1, 6000))
def test_a_store_keeps_what_was_used_last(puts, room):
    store, order = BoundedStore(room), []
    for key, nbytes in puts:
        store.put(key, nbytes, nbytes)
        order = [k for k in order if k != key] + ([key] if nbytes + ENTRY <= room else [])
        held = {k: store._kept[k][1] for k in store._kept}
        assert store.bytes == sum(held.values()) <= room
        assert list(held) == order[len(order) - len(held) :]
        if store.get(0) is not None:
            order = [k for k in order if k != 0] + [0]
    store.clear()
    assert (len(store), store.bytes, store.get(0)) == (0, 0, None)


def test_threads_share_a_store():
    store = BoundedStore(20 * (ENTRY + 10))

    def work(start: int) -> None:
        for number in range(3000):
            store.put((start + number) % 37, number, 10)
            store.get(number % 37)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.bytes == len(store) * (ENTRY + 10) <= store.max_bytes
