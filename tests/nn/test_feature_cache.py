"""The low-rank map and its cache: nothing changes before training, nothing is mixed, nothing grows without bound."""

from __future__ import annotations

import copy
import io
import pickle
from collections import Counter

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lorgnette import lora
from lorgnette.common.store import ENTRY
from lorgnette.nn.feature_cache import FeatureCache
from lorgnette.nn.low_rank_map import LowRankMap
from lorgnette.nn.ss2d import SS2D

HALF = torch.tensor([0.5])


def frames(count: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(*shape, generator=generator) + 0.1 for _ in range(count)]


def test_a_like_map_is_blended_in_and_an_unlike_one_is_not():
    cache = FeatureCache(threshold=0.99)
    first, second = frames(2, 1, 16, 16, 3)
    second[..., 0] = 0
    assert torch.equal(cache.blend(first, "clip", HALF), first)
    near = first + 0.01
    torch.testing.assert_close(cache.blend(near, "clip", HALF), (first + near) / 2)
    assert torch.equal(cache.blend(second, "clip", HALF), second)
    assert cache.statistics == {"entries": 3, "bytes": cache.store.bytes, "hits": 1, "misses": 2}
    assert len(cache) == 3


def test_keys_places_and_sizes_are_never_mixed():
    cache = FeatureCache(threshold=-1)  # anything is alike
    (x,) = frames(1, 2, 8, 8, 3)
    cache.blend(x, "a", HALF)
    for other, key in ((x, "b"), (x.flip(0), None), (x[:, :4], "a"), (x.double(), "a")):
        assert torch.equal(cache.blend(other, key, HALF), other)
    swapped = cache.blend(x.flip(0), "a", HALF)
    torch.testing.assert_close(swapped, (x + x.flip(0)) / 2)  # each item met its own place, not its like


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 3), keys=st.lists(st.integers(0, 4), max_size=25), most=st.integers(1, 9000))
def test_entries_and_bytes_are_bounded_and_counted(size, keys, most):
    cache = FeatureCache(size, max_bytes=most)
    x = torch.rand(2, 4, 4, 2)
    for key in keys:
        cache.blend(x + key, key, HALF)
        held = [(place, sum(tensor.nbytes for tensor in pair)) for (place, _), pair in cache.store.items()]
        assert cache.store.bytes == sum(nbytes + ENTRY for _, nbytes in held) <= most
        assert len(cache) == len(held)
        assert all(count <= size for count in Counter(place for place, _ in held).values())
    assert cache.hits + cache.misses == 2 * len(keys)
    cache.clear()
    assert cache.statistics == {"entries": 0, "bytes": 0, "hits": 0, "misses": 0}


def test_a_copy_starts_empty():
    cache = FeatureCache(2)
    cache.blend(torch.rand(1, 4, 4, 2), "a", HALF)
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert len(other) == 0
        assert other.size == 2
    assert len(cache) == 1


def low_rank_map(**settings: object) -> LowRankMap:
    torch.manual_seed(0)
    return LowRankMap(6, 2, 4, 0.0, FeatureCache(**settings))  # type: ignore[arg-type]


def test_before_training_nothing_changes():
    layer, (x, y) = low_rank_map(threshold=-1).eval(), frames(2, 1, 8, 8, 6)
    assert torch.equal(layer(x, "a"), x)
    assert torch.equal(layer(y, "a"), y)
    assert layer.cache.hits == 1


def test_the_cache_rests_in_training_unless_asked():
    x, y = frames(2, 1, 8, 8, 6)
    layer = low_rank_map(threshold=-1).train()
    layer(x, "a")
    assert len(layer.cache) == 0
    learning = low_rank_map(threshold=-1, in_training=True).train()
    learning(x, "a")
    learning(y, "a").square().sum().backward()
    assert learning.gate.grad is not None
    assert learning.gate.grad.abs() > 0
    assert learning.map_B.grad is not None


def test_new_weights_empty_the_cache_and_files_hold_none():
    ss2d = SS2D(12, 3, use_lora_cache=True).eval()
    assert ss2d.lora_cache is not None
    ss2d(torch.rand(1, 8, 8, 12), cache_key="clip")
    assert len(ss2d.lora_cache.cache) == 1
    buffer = io.BytesIO()
    torch.save(ss2d.state_dict(), buffer)
    added = {name.removeprefix("lora_cache.") for name in ss2d.state_dict() if name.startswith("lora_cache")}
    assert added == {"map_A", "map_B", "gate"}
    ss2d.load_state_dict(ss2d.state_dict())
    assert len(ss2d.lora_cache.cache) == 0


def test_an_untrained_map_is_bit_equal_in_the_block_and_its_tensors_travel_with_the_adapter():
    torch.manual_seed(0)
    plain = SS2D(12, 3).eval()
    torch.manual_seed(0)
    mapped = SS2D(12, 3, use_lora_cache=True).eval()
    answer = mapped.load_state_dict(plain.state_dict(), strict=False)
    assert all(name.startswith("lora_cache.") for name in answer.missing_keys)
    assert answer.unexpected_keys == []
    x = torch.rand(2, 6, 7, 12)
    with torch.no_grad():
        assert torch.equal(mapped(x), plain(x))
        assert torch.equal(mapped(x, cache_key="a"), plain(x))
        assert torch.equal(mapped(x, cache_key="a"), plain(x))  # a hit, at gate 0
    lora.inject_lora(mapped, lora.LoRAConfig(target_modules=["in_proj"], modules_to_save=["lora_cache"]))
    assert {"lora_cache.map_A", "lora_cache.map_B", "lora_cache.gate"} < set(lora.get_lora_state_dict(mapped))
    merged = lora.merge_lora_weights(mapped)
    assert merged.lora_cache is not None  # it cannot be folded in


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"cache_size": 0}, "^cache_size: 0 is not a whole number of at least 1; use_lora_cache=False"),
        ({"cache_size": -3}, "^cache_size: -3 is not"),
        ({"similarity_threshold": 1.5}, "^similarity_threshold: 1.5 is not a cosine"),
        ({"lora_rank": 0}, "^lora_rank: 0 is not a whole number"),
        ({"lora_alpha": float("nan")}, "^lora_alpha: nan is not a positive number"),
        ({"lora_dropout": 1.0}, r"^lora_dropout: 1.0 is not in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_named(settings_, message):
    with pytest.raises(ValueError, match=message):
        SS2D(12, 3, use_lora_cache=True, **settings_)
