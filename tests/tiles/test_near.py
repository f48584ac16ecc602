"""What is near enough is reused, what is not is computed, and small changes do not add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor

from lorgnette.common.store import ENTRY
from lorgnette.tiles.cache import TileCache
from lorgnette.tiles.near import NearReuse, enlarged, least_cosine, noise_power
from lorgnette.tiles.plan import Tile, Tiling, covering, joined, plan_tiles, process_in_tiles

TILING, LARGEST = Tiling(16, 3, 2), 96
WEIGHT = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(0)) - 0.5


class Network:
    """A convolution and an enlargement that see two pixels far; frames go through a cache."""

    def __init__(self, scale: int = 1, corrected: bool = False, **how: object) -> None:
        self.cache = TileCache(mode="near", **how)  # type: ignore[arg-type]
        self.scale, self.corrected, self.regions = scale, corrected, []

    def render(self, crop: Tensor, part: Tile) -> Tensor:
        self.regions.append(part)
        out = F.conv2d(crop, WEIGHT / 20, padding=2) + crop
        return part.cut(F.interpolate(out, scale_factor=self.scale, mode="bilinear"))

    def size(self, image: Tensor) -> tuple[int, int]:
        return image.shape[-2] * self.scale, image.shape[-1] * self.scale

    def whole(self, image: Tensor) -> Tensor:
        return process_in_tiles(image, self.render, self.size(image), *TILING._replace(tile=LARGEST))

    def __call__(self, image: Tensor, stream: str = "") -> Tensor:
        self.regions.clear()
        reuse = NearReuse(self.cache, self.render, stream, self.corrected)
        return reuse.frame(image, self.size(image), TILING, LARGEST, stream, iter)

    def hits(self) -> int:
        return int(self.cache.statistics()["hits"])


def picture(h: int = 64, w: int = 80, seed: int = 0) -> Tensor:
    coarse = torch.rand(1, 3, h // 4 + 2, w // 4 + 2, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, scale_factor=4, mode="bilinear")[..., :h, :w] * 0.6 + 0.2


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([1, 2]),
    st.lists(st.tuples(st.integers(0, 69), st.integers(0, 69), st.integers(1, 40)), min_size=1, max_size=4),
    st.integers(1000, 900_000),
)
def test_what_changed_much_is_computed(h, w, scale, changes, room):
    """The result is that of whole frames, whatever changes and however little is kept."""
    network, frame = Network(scale, max_bytes=room), picture(h, w)
    for y, x, side in changes:
        frame = frame.clone()
        frame[..., y : y + side, x : x + side] = 0.9
        torch.testing.assert_close(network(frame), network.whole(frame), atol=1e-5, rtol=0)
        assert network.cache.statistics()["bytes"] <= room


def test_neighbours_are_computed_together():
    network, frame = Network(), picture(96, 96)
    network(frame)
    assert network.regions == plan_tiles(
        (96, 96), (96, 96), *TILING._replace(tile=LARGEST)
    )  # all is new: the whole frame
    assert network.cache.statistics()["whole_frames"] == 1
    frame[..., 20:44, 24:60] = 0.9
    network(frame)
    assert len(network.regions) == 1
    expected = np.ones((6, 6))
    expected[0:4, 1:5] = 0
    np.testing.assert_array_equal(network.cache.reuse_map(), expected)
    frame[..., 2:4, 2:4] = 0.9
    frame[..., 90:92, 90:92] = 0.9
    network(frame)
    assert len(network.regions) == 2  # far apart


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**30 - 1), st.integers(40, 200))
def test_rectangles_cover_what_is_wanted_and_cost_no_more(bits, largest):
    tiles = plan_tiles((80, 96), (80, 96), *TILING)
    wanted = np.array([bits >> k & 1 for k in range(30)], dtype=bool).reshape(5, 6)
    covered, cost = np.zeros_like(wanted), 0
    for rows, columns in covering(wanted, tiles, largest):
        region = joined(tiles[rows.start * 6 + columns.start], tiles[(rows.stop - 1) * 6 + columns.stop - 1])
        covered[rows, columns] = True
        sides = [axis.source[1] - axis.source[0] for axis in (region.y, region.x)]
        assert max(sides) <= largest
        cost += sides[0] * sides[1]
        inside = tiles[rows.start * 6 + columns.start]
        numbers = torch.arange(80 * 96).view(80, 96)
        assert torch.equal(numbers[inside.target], numbers[region.target][inside.within(region)])
    assert not (wanted & ~covered).any()
    apart = [t for t, w in zip(tiles, wanted.flat, strict=True) if w]
    assert cost <= sum((t.y.source[1] - t.y.source[0]) * (t.x.source[1] - t.x.source[0]) for t in apart)


def test_small_changes_are_near_and_do_not_add_up():
    """A slow fade: each frame is near the one before; the anchor is what counts."""
    network, start = Network(tolerance=30, refresh=1000), picture(32, 32)
    network(start)
    step = 10 ** (-30 / 20) / 4  # of the tolerance
    before = 0
    for number in range(1, 20):
        frame = start + number * step
        worst = (network(frame) - network.whole(frame)).abs().max()
        assert worst <= 5 * step
        before += network.hits() > before
    assert network.cache.statistics()["misses"] < 5 * 20  # and yet most were reused


def test_a_tile_is_computed_anew_after_so_many_frames():
    network, frame = Network(refresh=3), picture(16, 16)
    computed = []
    for _ in range(9):
        network(frame)
        computed.append(bool(network.regions))
    assert computed == [True, False, False, False] * 2 + [True]


def test_what_blinks_is_found_again():
    network, on = Network(), picture(16, 16)
    off = on.clone()
    off[..., 4:8, 4:6] = 0
    for frame in (on, off):
        network(frame)
    for frame in (on, off, on, off):
        torch.testing.assert_close(network(frame), network.whole(frame), atol=1e-6, rtol=0)
    assert network.hits() == 4


def test_the_worst_block_counts():
    """A small change in a large still tile is seen, and so is a pattern that turns into its opposite."""
    network, frame = Network(tolerance=36), torch.full((1, 3, 16, 16), 0.5)
    network(frame)
    changed = frame.clone()
    changed[..., 3:5, 3:5] += 0.1
    network(changed)
    assert network.hits() == 0
    faint = frame + 2.5 / 255 * (torch.arange(16) % 4 // 2 * 2 - 1)
    turned = 1 - faint
    assert (faint - turned).square().mean() < 10 ** (-34 / 10)
    for cosine, hits in ((0.0, 0), (-1.0, 1)):
        network = Network(tolerance=34, cosine=cosine)
        network(faint)
        network(turned)
        assert network.hits() == hits


def test_cosine_knows_patterns_not_brightness():
    x = picture(24, 20)
    assert least_cosine(x, x + 0.3) == pytest.approx(1, abs=1e-4)
    assert least_cosine(x, 1 - x) < -0.9
    flat = torch.full_like(x, 0.4)
    assert least_cosine(flat, flat + 0.2 / 255 * torch.randn(x.shape)) > 0.9  # far below a level


def test_residual_correction_carries_over_what_changed():
    """Of a frame that is darker and slightly moved, most is set right; noise would be put back as well."""
    start = picture(32, 32)
    frame = start - 0.012 + 0.01 * F.pad(start[..., 1:], (0, 1))
    errors = []
    for corrected in (False, True):
        network = Network(2, corrected, tolerance=30)
        network(start)
        errors.append((network(frame) - network.whole(frame)).square().mean())
        assert network.hits() == 4
        assert torch.equal(network(start), network(start))
    assert errors[1] < errors[0] / 10


@pytest.mark.parametrize("out_size", [(48, 60), (77, 40), (24, 30)])
def test_enlarging_a_difference_is_seamless(out_size):
    """Tile by tile as at once, away from where a crop ends."""
    image = picture(24, 30)
    whole = F.interpolate(image, size=out_size, mode="bicubic", align_corners=False)
    result = process_in_tiles(image, lambda crop, part: enlarged(crop, part), out_size, 8, 3, 2)
    torch.testing.assert_close(result, whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sigma", [0.0, 5.0, 25.0])
def test_noise_is_not_taken_for_change(sigma):
    """A still scene in noise is reused by what takes noise off; what moves in it, or is new, is not."""
    generator = torch.Generator().manual_seed(0)

    def noisy(image: Tensor) -> Tensor:
        return image + sigma / 255 * torch.randn(image.shape, generator=generator)

    scene = picture(80, 96)
    assert 0.8 * sigma <= 255 * noise_power(noisy(scene)) ** 0.5 <= 1.2 * sigma + 2
    network = Network(refresh=1000)
    network(noisy(scene))
    for _ in range(4):
        network(noisy(scene))
    assert network.hits() >= 0.7 * 4 * 30
    moved = scene.roll(4, -1)
    moved[..., 30:38, 30:38] += 0.2
    before = network.hits()
    network(noisy(moved))
    assert network.hits() - before <= (0 if sigma < 25 else 4)
    strict = Network(corrected=True)  # what keeps noise takes it for change
    strict(noisy(scene))
    strict(noisy(scene))
    assert strict.hits() == (30 if sigma == 0 else 0)


def test_noise_is_measured_where_there_is_little_else():
    """In a part of the rows, or of the columns."""
    calm, noise = picture(80, 96), torch.randn(1, 3, 40, 96, generator=torch.Generator().manual_seed(0))
    calm[..., 40:, :] += 25 / 255 * noise
    assert all(255 * noise_power(turned) ** 0.5 <= 2 for turned in (calm, calm.mT))


def test_a_frame_may_be_changed_in_place():
    """A pattern that leaves all means as they were: only pixels of its own tell an anchor from it."""
    network, frame = Network(corrected=True), picture(48, 48)
    network(frame)
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    frame += 0.1 * ((y + x) % 2 * 2 - 1)
    torch.testing.assert_close(network(frame), network.whole(frame), atol=1e-5, rtol=0)


def test_the_difference_that_is_added_does_not_leave_the_range():
    cache = TileCache(mode="near")
    reuse = NearReuse(cache, lambda crop, part: part.cut((crop * 1.01).clamp(0, 1)), "", corrected=True)
    for level in (0.99, 0.995, 0.985):
        out = reuse.frame(torch.full((1, 3, 32, 32), level), (32, 32), TILING, LARGEST, "", iter)
        assert 0.98 < float(out.min()) <= float(out.max()) <= 1 + 1e-6
    assert cache.statistics()["hits"] == 8


def test_what_is_kept_is_the_tile_alone_and_two_anchors_of_it():
    """Not the memory of the frame or region that it was cut from."""
    network = Network()
    for level in (0.2, 0.5, 0.8):
        frame = picture(96, 96)
        frame[..., 20:44, 24:60] = level
        network(frame)
    kept = [anchors for _, anchors in network.cache.store.items()]
    assert max(map(len, kept)) == 2
    for anchor in (anchor for anchors in kept for anchor in anchors):
        assert anchor.output.untyped_storage().nbytes() == anchor.output.nbytes
        assert anchor.input.untyped_storage().nbytes() == anchor.input.nbytes


def test_what_is_kept_is_counted_whole():
    network = Network()
    for level in (0.2, 0.5):
        frame = picture(96, 96)
        frame[..., 20:44, 24:60] = level
        network(frame)
    kept = [anchor for _, anchors in network.cache.store.items() for anchor in anchors]
    tensors = [tensor for anchor in kept for tensor in (anchor.input, anchor.output, *anchor.means)]
    assert network.cache.store.bytes == sum(t.nbytes for t in tensors) + ENTRY * len(network.cache.store)


def test_an_error_is_that_of_a_block_over_all_colours():
    """A pattern without a mean, in one block of four, is as large there as it is."""
    frame = torch.full((1, 3, 16, 16), 0.5)
    changed = frame.clone()
    changed[..., :8, :8] += 0.1 * (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).mul(2).sub(1)
    for share, hits in ((0.6, 0), (1.5, 1)):
        network = Network(tolerance=-10 * np.log10(share * 0.1**2), cosine=-1.0)
        network(frame)
        network(changed)
        assert network.hits() == hits
