"""The low-rank map and its cache: nothing changes before training, nothing is mixed, nothing grows without bound."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lorgnette import lora
from lorgnette.common.store import ENTRY
from lorgnette.nn.feature_cache import FeatureCache
from lorgnette.nn.low_rank_map import LowRankMap
from lorgnette.nn.ss2d import SS2D
from lorgnette.systems.restore.model import MambaIR

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
        held = [sum(tensor.nbytes for tensor in pair) for _, pair in cache.store.items()]
        assert cache.store.bytes == sum(nbytes + ENTRY for nbytes in held) <= most
        assert len(cache) == len(held) <= size
    assert cache.hits + cache.misses == 2 * len(keys)
    cache.clear()
    assert cache.statistics == {"entries": 0, "bytes": 0, "hits": 0, "misses": 0}


def test_every_image_with_a_key_of_its_own_leaves_no_more_than_the_cache_s_size():
    model = MambaIR(embed_dim=30, depths=(1, 1), d_state=2, upscale=1, use_lora_cache=True, cache_size=5).eval()
    with torch.no_grad():
        for number, x in enumerate(frames(12, 2, 3, 8, 8)):
            model(x, cache_key=f"inference_{number}")
    sizes = [len(module.cache) for _, module in model.named_modules() if getattr(module, "cache", None) is not None]
    assert sizes == [5, 5]


def test_the_oldest_goes_first_however_often_it_was_found():
    cache = FeatureCache(2, threshold=-1)
    (x,) = frames(1, 1, 8, 8, 3)
    for key in ("a", "b", "a"):  # the first 'a' was found just now
        cache.blend(x, key, HALF)
    cache.blend(x, "b", HALF)
    assert cache.statistics["hits"] == 2


def test_bytes_bound_the_whole_network():
    settings = {"embed_dim": 30, "depths": (2, 1), "d_state": 2, "mlp_ratio": 1.0, "upscale": 1}
    one_map = 4 * (16 * 16 * 30 + 2 * 2 * 30) + ENTRY
    for room, kept in ((3 * 2 * one_map, 2), (3 * one_map, 1), (3 * one_map - 3, 0)):
        model = MambaIR(**settings, use_lora_cache=True, max_bytes=room).eval()
        with torch.no_grad():
            for x in frames(4, 1, 3, 16, 16):
                model(x, cache_key="clip")
        caches = [m.cache for m in model.modules() if isinstance(m, LowRankMap)]
        assert [len(cache) for cache in caches] == [kept] * 3
        assert sum(cache.statistics["bytes"] for cache in caches) <= room
    assert SS2D(12, 3, use_lora_cache=True, max_bytes=77).lora_cache.cache.max_bytes == 77  # type: ignore[union-attr]


@pytest.mark.parametrize("training", [False, True])
def test_a_block_that_is_computed_again_meets_the_maps_of_the_first_time(training: bool):
    x, y = frames(2, 1, 3, 8, 8)
    results = []
    for flag in (False, True):
        torch.manual_seed(0)
        settings = {"embed_dim": 30, "depths": (2,), "d_state": 2, "upscale": 1, "drop_path_rate": 0.0}
        model = MambaIR(**settings, use_lora_cache=True, use_checkpoint=flag, similarity_threshold=-1,
                        cache_in_training=True).train(training)  # fmt: skip
        for module in model.modules():
            if isinstance(module, LowRankMap):
                torch.nn.init.ones_(module.gate)
        (model(x, "clip").square().sum() + model(y, "clip").square().sum()).backward()
        sizes = [m.cache.statistics for m in model.modules() if isinstance(m, LowRankMap)]
        results.append(({name: p.grad for name, p in model.named_parameters()}, sizes))
    assert results[0][1] == results[1][1]
    for name, grad in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], grad, rtol=1e-5, atol=1e-7, msg=name)


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
    with torch.no_grad():  # nobody trains
        layer(x, "a")
    assert len(layer.cache) == 1
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
    lora.inject_lora(mapped, lora.LoRAConfig(target_modules=["in_proj"]))
    assert {"lora_cache.map_A", "lora_cache.map_B", "lora_cache.gate"} < set(lora.get_lora_state_dict(mapped))
    merged = lora.merge_lora_weights(mapped)
    assert merged.lora_cache is not None  # it cannot be folded in


def trained_map(gate: float = 0.5) -> SS2D:
    torch.manual_seed(0)
    ss2d = SS2D(12, 3, use_lora_cache=True, similarity_threshold=-1).eval()
    lora.inject_lora(ss2d, lora.LoRAConfig(r=2, target_modules=["in_proj"]))
    with torch.no_grad():
        for parameter in lora.get_lora_params(ss2d):
            parameter.add_(torch.randn_like(parameter) * 0.1)
        ss2d.lora_cache.gate.fill_(gate)  # type: ignore[union-attr]
    return ss2d


def test_the_map_is_an_adapter_to_all_that_deal_with_adapters(tmp_path: Path):
    ss2d, x = trained_map(), torch.rand(2, 6, 7, 12)
    torch.manual_seed(0)
    base = SS2D(12, 3, use_lora_cache=True).eval()
    own = 2 * 16 * 24 + 1
    assert lora.count_parameters(base).lora == own
    assert lora.count_parameters(ss2d) == (lora.count_parameters(base).total + 120, own + 120, own + 120)
    assert {id(p) for p in base.lora_cache.parameters()} == {id(p) for p in lora.get_lora_params(base)}
    lora.freeze_base_params(base)
    assert {name for name, p in base.named_parameters() if p.requires_grad} == {
        "lora_cache.map_A", "lora_cache.map_B", "lora_cache.gate"
    }  # fmt: skip
    planned = lora.plan(base, lora.LoRAConfig(r=2, target_modules=["in_proj"]))
    assert (planned.parameters, planned.parts) == (own + 120, own)
    assert f"of these {own:,} in parts" in str(planned)
    with torch.no_grad():
        adapted = ss2d(x)
        with lora.disabled(ss2d):
            assert torch.equal(ss2d(x), base(x))
            assert torch.equal(ss2d(x, cache_key="a"), ss2d(x, cache_key="a"))
        assert not torch.equal(adapted, base(x))
        lora.save_adapter(ss2d, tmp_path)
        torch.manual_seed(0)
        again = SS2D(12, 3, use_lora_cache=True, similarity_threshold=-1).eval()
        lora.load_adapter(again, tmp_path)
        assert torch.equal(again(x), adapted)
        assert again.lora_cache.gate.requires_grad  # type: ignore[union-attr]
        merged = lora.merge_lora_weights(ss2d, inplace=False)
        torch.testing.assert_close(merged(x), adapted, rtol=1e-4, atol=1e-6)
        lora.set_adapter(ss2d, None)
        assert torch.equal(ss2d(x), base(x))
        lora.set_adapter(ss2d, "default")
        assert torch.equal(ss2d(x), adapted)
        assert torch.equal(lora.unload_lora(ss2d)(x), base(x))


def test_an_adapter_from_before_the_map_belonged_to_it_still_loads(tmp_path: Path):
    ss2d, x = trained_map(), torch.rand(2, 6, 7, 12)
    ss2d.lora_cache.reset()  # type: ignore[union-attr]
    for module in ss2d.modules():
        vars(module).pop("_lora_trained", None)
    ss2d.lora_cache.requires_grad_(False)  # type: ignore[union-attr]
    lora.save_adapter(ss2d, tmp_path)
    assert lora.adapter_info(tmp_path)["trained"] == []
    again = copy.deepcopy(lora.unload_lora(copy.deepcopy(ss2d)))
    again.load_state_dict(
        {name: t for name, t in ss2d.state_dict().items() if ".lora_A" not in name and ".lora_B" not in name}
    )
    lora.load_adapter(again, tmp_path)
    assert torch.equal(again(x), ss2d(x))


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
