"""Tiled equals untiled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor

from lorgnette.tiles.plan import Tile, plan_tiles, process_in_tiles

lengths = st.integers(1, 90)


def sample(image: Tensor, y: np.ndarray, x: np.ndarray) -> Tensor:
    """Bilinear values at coordinates in [-1, 1]: a network that asks where its pixels lie."""
    rows, columns = (torch.from_numpy(axis).to(image) for axis in (y, x))
    grid = torch.stack([columns.expand(len(rows), -1), rows[:, None].expand(-1, len(columns))], -1)
    grid = grid.expand(len(image), -1, -1, -1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def render(crop: Tensor, tile: Tile) -> Tensor:
    return sample(crop, tile.y.coordinates(), tile.x.coordinates())


def picture(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    lengths,
    lengths,
    lengths,
    st.floats(0.3, 5),
    st.floats(0.3, 5),
    st.integers(0, 9),
    st.integers(0, 20),
    st.integers(1, 9),
)
def test_weights_sum_to_one_and_crops_cover_what_is_rendered(h, w, tile, sy, sx, halo, blend, align):
    out_size = max(1, round(h * sy)), max(1, round(w * sx))
    total = np.zeros(out_size)
    for part in plan_tiles((h, w), out_size, tile, halo, blend, align):
        weights = part.y.weights()[:, None] * part.x.weights()
        assert weights.shape == part.size
        assert weights.min() > 0
        total[part.target] += weights
        for span in (part.y, part.x):
            start, stop = span.source
            assert 0 <= start < stop <= span.n_in
            assert start % align == 0
            # Two neighbours on either side are at hand, and the halo beyond, unless the image ends there.
            assert start <= max(0, np.floor(span.positions()[0]) - halo)
            assert stop - 1 >= min(span.n_in - 1, np.ceil(span.positions()[-1]) + halo)
            assert span.cell * (stop - start) == pytest.approx(2 * span.n_in / span.n_out)
    np.testing.assert_allclose(total, 1, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(lengths, lengths, lengths, st.floats(0.3, 5), st.floats(0.3, 5), st.integers(0, 9))
def test_any_scale_gives_the_untiled_pixels(h, w, tile, sy, sx, blend):
    image = picture(1, 2, h, w)
    out_size = max(1, round(h * sy)), max(1, round(w * sx))
    tiled = process_in_tiles(image, render, out_size, tile, halo=1, blend=blend)
    untiled = F.interpolate(image, size=out_size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(tiled.double(), untiled, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("tile", [7, 16, 1000])
def test_a_convolution_with_a_sufficient_halo(tile: int, scale: int):
    """Zero padding counts at the image's own border only, as without tiles."""
    weight = picture(3, 3, 5, 5).float() - 0.5
    image = picture(2, 3, 31, 44).float()

    def network(x: Tensor) -> Tensor:
        x = F.conv2d(F.conv2d(x, weight, padding=2).relu(), weight, padding=2)
        return F.interpolate(x, scale_factor=scale, mode="nearest")

    def tiled(halo: int) -> Tensor:
        return process_in_tiles(
            image, lambda crop, part: part.cut(network(crop)), (31 * scale, 44 * scale), tile, halo, blend=2
        )

    torch.testing.assert_close(tiled(halo=4), network(image), atol=2e-5, rtol=0)
    if tile < 31:
        assert (tiled(halo=0) - network(image)).abs().max() > 0.01


def test_a_step_at_a_boundary_is_blended():
    """Tiles that disagree by 1 fade into each other without a jump."""
    tiles = plan_tiles((4, 40), (8, 80), tile=20, halo=0, blend=5)
    values = {tile: float(number) for number, tile in enumerate(tiles)}
    result = process_in_tiles(
        torch.zeros(1, 3, 4, 40),
        lambda _, part: torch.full((1, 1, *part.size), values[part]),
        (8, 80),
        20,
        0,
        5,
    )[0, 0]
    assert result[0, 0] == 0
    assert result[0, -1] == 1
    torch.testing.assert_close(result[0].diff().max().item(), 1 / 20)
    assert (result[0].diff() >= 0).all()


def test_out_progress_and_types():
    image = picture(1, 3, 20, 30).bfloat16()
    seen = []

    def progress(tiles: list[Tile]):
        for tile in tiles:
            seen.append(tile)
            yield tile

    out = torch.full((1, 3, 20, 30), torch.nan, dtype=torch.float16)
    result = process_in_tiles(image, lambda x, part: part.cut(x), (20, 30), 10, 2, 2, out=out, progress=progress)
    assert result is out
    torch.testing.assert_close(result.float(), image.float(), atol=2e-3, rtol=0)
    assert len(seen) == 6
    assert not process_in_tiles(image.float().requires_grad_(), render, (5, 5), halo=2).requires_grad


def test_memory_is_the_output_and_one_tile():
    """The crop is a view, and no tile is larger than asked for."""
    image = torch.zeros(1, 1, 300, 400)
    sizes = []

    def watch(crop: Tensor, part: Tile) -> Tensor:
        assert crop.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()
        sizes.append(crop.shape[-1])
        return crop.new_zeros(1, 1, *part.size)

    process_in_tiles(image, watch, (600, 800), tile=64, halo=8, blend=4)
    assert max(sizes) <= 64 + 2 * (8 + 4 + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile": 0}, "tile=0"),
        ({"halo": -1}, "halo=-1"),
        ({"blend": -1}, "blend=-1"),
        ({"out_size": (0, 5)}, "sizes must be at least 1"),
        ({"out": torch.zeros(1, 3, 4, 4)}, "out must be floating point of shape"),
        ({"out": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "out must be floating point"),
        ({"render": lambda crop, part: crop}, "render gave"),
        ({"render": lambda crop, part: part.cut(crop), "out_size": (9, 9)}, "whole-number scale"),
    ],
)
def test_wrong_settings(change: dict, message: str):
    arguments = {"render": render, "out_size": (8, 8), "tile": 3} | change
    with pytest.raises(ValueError, match=message):
        process_in_tiles(torch.zeros(1, 3, 4, 4), **arguments)
