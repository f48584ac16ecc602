"""What is reused is what would have been computed, and nothing else."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.common.identity import identity
from lorgnette.images.file import Image
from lorgnette.recipe import build
from lorgnette.systems import restore, superres
from lorgnette.tiles.cache import ExactReuse, TileCache
from lorgnette.tiles.near import NearReuse
from lorgnette.tiles.plan import Tile, Tiling, process_in_tiles
from lorgnette.tiles.render import Rendering

TILING = Tiling(tile=16, halo=3, blend=2)


class Counted(nn.Module):
    """A convolution that counts its calls, as a renderer."""

    def __init__(self, scale: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.scale, self.calls, self.shapes = nn.Conv2d(3, 3, 5, padding=2), scale, [], set()

    def render(self, crop: Tensor, part: Tile) -> Tensor:
        self.calls.append(part)
        out = self.conv(crop).sigmoid()
        return part.cut(out.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2))

    def forward(
        self, image: Tensor, cache: TileCache | None = None, stream: str = "", tiling: Tiling = TILING
    ) -> Tensor:
        self.calls.clear()
        h, w = image.shape[-2:]
        size = h * self.scale, w * self.scale
        return Rendering(cache=cache, stream=stream).tensor(self, image, self.render, size, tiling, 32, corrected=True)


class ReusingFrames:
    """Frames through a cache, as `Rendering` has it, without a model."""

    def __init__(self, cache: TileCache) -> None:
        self.cache = cache

    def __call__(self, image: Tensor, stream: str) -> None:
        size = image.shape[-2], image.shape[-1]

        def render(crop: Tensor, part: Tile) -> Tensor:
            return part.cut(crop * 2)

        if self.cache.mode == "near":
            NearReuse(self.cache, render, stream, corrected=False).frame(image, size, TILING, 16, stream, iter)
        else:
            exact = ExactReuse(self.cache, render, stream)
            process_in_tiles(image, exact, size, *TILING)
            exact.count(stream)

    def held(self) -> int:
        """Bytes of all tensors that can be reached."""
        values = [value for _, value in self.cache.store.items()]
        anchors = [anchor for value in values if isinstance(value, tuple) for anchor in value]
        tensors = [value for value in values if isinstance(value, Tensor)]
        tensors += [tensor for anchor in anchors for tensor in (anchor.input, anchor.output, *anchor.means)]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def picture(h: int = 48, w: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------------------------- exact mode


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([1, 2, 3]),
    st.lists(st.tuples(st.integers(0, 69), st.integers(0, 69), st.integers(1, 30)), min_size=1, max_size=4),
    st.integers(1, 200_000),
)
def test_exact_is_bit_for_bit_the_same_tiling(h, w, scale, changes, room):
    """Whatever changes, and however little is kept."""
    model, cache, frame = Counted(scale), TileCache(room), picture(h, w)
    for y, x, side in changes:
        frame = frame.clone()
        frame[..., y : y + side, x : x + side] = 0.5
        with torch.no_grad():
            assert torch.equal(model(frame, cache), model(frame))
        statistics = cache.statistics()
        assert statistics["bytes"] <= room
    assert statistics["frames"] == len(changes)


def test_only_tiles_that_see_the_change_are_computed():
    model, cache, frame = Counted(), TileCache(), picture()
    model(frame, cache)
    assert len(model.calls) == 12
    model(frame, cache)
    assert model.calls == []
    changed = frame.clone()
    changed[0, 0, 20, 20] += 1e-7  # the least change there is
    assert not torch.equal(changed, frame)
    model(changed, cache)
    assert len(model.calls) == 4  # its own tile, and three that have it in their margins
    expected = np.ones((3, 4))
    expected[:2, :2] = 0
    np.testing.assert_array_equal(cache.reuse_map(), expected)
    np.testing.assert_allclose(cache.reuse_map(mean=True), (expected + 1) / 3)
    statistics = cache.statistics()
    assert (statistics["hits"], statistics["misses"], statistics["frames"]) == (20, 16, 3)


def test_equal_tiles_of_one_image_are_computed_once():
    """An empty page: nine tiles differ by the borders that they touch, and no more are computed."""
    model, cache = Counted(2), TileCache()
    blank = torch.ones(1, 3, 112, 128)
    with torch.no_grad():
        assert torch.equal(model(blank, cache), model(blank))
        model(torch.zeros_like(blank), cache)
    assert len(model.calls) == 9


def test_what_belongs_elsewhere_is_never_met():
    model, cache, frame = Counted(), TileCache(), picture()
    model.conv.weight.requires_grad_(False)

    def computed(image: Tensor = frame, **how: object) -> bool:
        before = cache.statistics()["hits"]
        model(image, cache, **how)
        hits = cache.statistics()["hits"] - before
        assert (hits == 0) == (len(model.calls) == 12 or how.get("tiling") is not None)
        return hits == 0

    assert computed()
    assert not computed()
    assert computed(picture(seed=1))  # a cut
    assert not computed()
    assert computed(stream="another")
    assert computed(tiling=Tiling(16, 4, 2))
    assert computed(frame[..., :40, :])
    model.conv.weight.data[0, 0, 0, 0] += 1e-6  # past the counter of changes
    assert computed()
    model.conv.weight[0].neg_()
    assert computed()
    model.conv.weight[0].neg_()
    assert not computed()
    model.double()
    assert computed(frame.double())
    model.float()
    lora.inject_lora(model, lora.LoRAConfig(r=1, target_modules=["conv"]))
    torch.nn.init.ones_(model.conv.lora_B)
    assert computed()
    with lora.disabled(model):
        assert computed()
    model.conv.lora_alpha *= 2
    assert computed()


def test_the_identity_of_a_model():
    """All that changes outputs changes it: values, their order, sign and dtype, settings of layers."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    seen = {identity(model)}
    changes = [
        lambda: model[0].weight.data.neg_(),
        lambda: model[0].weight.data.copy_(model[0].weight.data.flip(0)),
        lambda: model[0].weight.data[0].copy_(model[0].weight.data[1].clone()),
        lambda: model[1].running_mean.add_(1),
        lambda: setattr(model[1], "eps", 1e-3),
        lambda: model.half(),
        lambda: model.append(nn.ReLU()),
    ]
    for change in changes:
        change()
        assert identity(model) not in seen
        seen.add(identity(model))
    assert identity(model.train()) == identity(model.eval())  # a renderer is always in eval mode


@pytest.mark.parametrize("mode", ["exact", pytest.param("near", marks=pytest.mark.slow)])
def test_ten_thousand_frames_stay_within_bounds(mode):
    cache, frame, noise = TileCache(max_bytes=300_000, mode=mode), picture(8, 8), torch.rand(1, 3, 8, 8)
    reuse = ReusingFrames(cache)
    for number in range(10_000):
        reuse(frame + noise * (number / 5_000), stream=f"clip {number % 1000}")
        if number % 500 == 0:
            assert reuse.held() <= cache.statistics()["bytes"] <= 300_000
    assert cache.statistics()["entries"] == len(cache) <= 300_000 // (8 * 8 * 3 * 4)
    assert len(cache._maps) <= 256


@pytest.mark.parametrize("mode", ["exact", "near"])
def test_threads_share_a_cache(mode):
    """Each gets what it would get alone, and the counts add up."""
    cache, wrong = TileCache(max_bytes=400_000, mode=mode), []
    frames = [picture(seed=number % 3) for number in range(12)]

    def work(stream: str) -> None:
        model = Counted()
        for frame in frames:
            with torch.no_grad():
                if not torch.allclose(model(frame, cache, stream), model(frame), atol=1e-6):
                    wrong.append(stream)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    statistics = cache.statistics()
    assert statistics["hits"] + statistics["misses"] == 3 * 12 * 12
    held = sum(nbytes for _, nbytes in cache.store._kept.values())
    assert held == statistics["bytes"] <= 400_000


@pytest.mark.parametrize(
    ("setting", "value"), [("max_bytes", 0), ("mode", "fuzzy"), ("tolerance", float("nan")), ("refresh", 0)]
)
def test_settings_that_do_not_work(setting, value):
    with pytest.raises(ValueError, match=rf"^{setting}: {value!r} .*; .*$"):
        TileCache(**{setting: value})


# --------------------------------------------------------------------------------------------------- both rooms


@pytest.mark.parametrize(("room", "scale"), [(restore, None), (superres, 2), (superres, 1.7)])
def test_both_rooms_reuse_frames(room, scale):
    torch.manual_seed(0)
    task = build(room.tiny()[0]).train()
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.rand_like(parameter) * 0.1)
    cache, pixels = TileCache(), picture(36, 40)[0].permute(1, 2, 0).numpy().copy()

    def enhance(**how: object) -> np.ndarray:
        return room.enhance(task, Image(pixels, grey=False, bits=8), scale, tile=16, halo=4, **how).pixels

    for number in range(3):
        pixels[2 * number : 2 * number + 2, 10:12] = 0.7
        np.testing.assert_array_equal(enhance(cache=cache, stream="clip"), enhance())
    assert 0.3 < cache.statistics()["hit_rate"] < 0.67
    before = cache.statistics()["hits"]
    enhance(cache=cache, stream="another")
    enhance(cache=cache, stream="clip", precision="bf16")
    assert cache.statistics()["hits"] == before
    assert task.training  # as it was


def test_a_cached_picture_is_near_the_whole_one():
    """The tiling that comes with a cache: small tiles, narrow margins, on the weights as shipped.

    Rounding to 8 bits alone is 59 dB.
    """
    pixels = picture(40, 48)[0].permute(1, 2, 0).numpy()
    pixels = np.repeat(np.repeat(pixels[::4, ::4], 8, 0), 8, 1)  # edges
    for room, least in ((restore, 45), (superres, 70)):
        task = build(room.Recipe(lora=None))
        frame = Image(np.ascontiguousarray(pixels), grey=False, bits=8)
        cached, whole = (room.enhance(task, frame, cache=cache).pixels for cache in (TileCache(), None))
        assert -10 * np.log10(np.square(cached - whole).mean()) > least
