"""Rendering at several scales: the published result, exactness where nothing is saved, and tables made and kept."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from tests.systems.superres.goldens import fill, golden
from torch import Tensor, nn

from lorgnette.common.identity import lasting_identity
from lorgnette.images.file import Image, read_image
from lorgnette.systems.superres import cmsr, enhance, read_tables, write_tables
from lorgnette.systems.superres.coords import axis_coords, make_coord
from lorgnette.systems.superres.decoders import LIIF, LMLTE
from lorgnette.systems.superres.encoders import EDSR, SwinIR
from lorgnette.systems.superres.levels import Axis, Levels, Table, colours_of, compose, render_levels, shifts
from lorgnette.systems.superres.model import make_network, render_cell
from lorgnette.systems.superres.recipe import Model
from lorgnette.systems.superres.tables import Tables
from lorgnette.systems.superres.task import SuperResolution
from lorgnette.systems.superres.weights import load_base
from lorgnette.tiles.cache import TileCache

INF = math.inf


def network(encoder: Any = None) -> LMLTE:
    """Of little depth, with lively weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LMLTE(encoder or EDSR(1, 6), hidden_dim=8, imnet_dim=4, imnet_depth=2).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.7 / math.sqrt(parameter[0].numel()))
    return model.requires_grad_(False)


MODEL = network()


def picture(*size: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def rendered(model: LMLTE, inp: Tensor, size: tuple[int, int], table: Table) -> tuple[Tensor, int]:
    """The whole picture by a table."""
    y, x = map(axis_coords, size)
    scales = size[0] / inp.shape[-2], size[1] / inp.shape[-1]
    return render_levels(model, inp, y, x, render_cell(inp, size), scales, table)


def middle(model: LMLTE, inp: Tensor, size: tuple[int, int], share: float = 0.5) -> float:
    """The shift that so many latent pixels do not reach."""
    cell = render_cell(inp, size).expand(len(inp), 2)
    return float(shifts(model, model.modulations(model.encoder(inp), cell)).quantile(share))


def test_the_published_result():
    """With the published handling of edges, and the published weights of the four neighbours.

    Those are normalised together: on a pixel's centre at the right or lower edge all four areas vanish, and the
    published code mixes in a neighbour that is two pixels away. `ContinuousImage` does not.
    """
    data = golden("edsr_cmsr_x6")
    meta, inp = data["meta"], torch.from_numpy(data["image"])[None] * 2 - 1
    h, w, size = meta["h"], meta["w"], (meta["H"], meta["W"])
    model = make_network(meta["method"], meta["encoder"]).eval()
    fill(model)
    table = Table(6, tuple((float(level), high) for level, high in meta["cmsr"]["6"].items()))
    with torch.no_grad():
        mod = model.modulations(model.encoder(inp), render_cell(inp, size)[None])

    def colours(y: Axis, x: Axis, cell: Tensor, here: Tensor) -> Tensor:
        grid, bounds = torch.meshgrid(y.centres, x.centres, indexing="ij"), torch.tensor([h, w])
        coord = torch.stack(grid, -1).flatten(0, 1)
        own, areas = [], []
        for step in product((-1, 1), repeat=2):
            near = (coord + torch.tensor(step) / bounds + 1e-6).clamp(1e-6 - 1, 1 - 1e-6)
            index = (((near + 1) * bounds - 1) / 2).round().long()
            rel = (coord - ((2 * index + 1) / bounds - 1)) * bounds
            own.append(model._render(mod[0, index[:, 0], index[:, 1]], rel, cell * bounds))
            areas.append(rel.prod(-1).abs() + 1e-9)
        weights = torch.stack(areas[::-1]) / sum(areas)
        skip = F.grid_sample(inp, coord.flip(-1)[None, None], padding_mode="border", align_corners=False)[0, :, 0].T
        return ((torch.stack(own) * weights[..., None]).sum(0) + skip).T.view(1, 3, *grid[0].shape)

    y, x = map(axis_coords, size)
    with torch.no_grad():
        out, points = compose(inp, shifts(model, mod), y, x, (6.0, 6.0), table, colours, edges=False)
        ours, own_points = rendered(model, inp, size, table)  # pyright: ignore[reportArgumentType]
    difference = np.abs(out[0].permute(1, 2, 0).numpy() - data["out"])
    assert difference.mean() < 1e-4
    assert (difference.max(-1) > 5e-3).mean() < 0.005
    # Away from the edges ours is the same.
    inner = np.abs(ours[0].permute(1, 2, 0).numpy() - data["out"])[12:-18, 12:-18]
    assert (inner.max(-1) > 5e-3).mean() < 0.005
    assert points == own_points < 0.31 * size[0] * size[1]


@pytest.mark.parametrize("size", [(48, 64), (20, 27), (12, 64), (66, 9)])
def test_a_table_that_saves_nothing_changes_nothing(size: tuple[int, int]):
    """At each axis's own scale."""
    inp = picture(6, 8, batch=2)
    out, points = rendered(MODEL, inp, size, Table(12, ((2, -1), (4, -1), (12, INF))))
    assert points == 2 * size[0] * size[1]
    torch.testing.assert_close(out, MODEL.render(inp, size), atol=2e-6, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.floats(0, 1), st.floats(0, 1)), st.tuples(st.integers(5, 60), st.integers(5, 60)))
def test_what_is_shifted_most_is_exact_and_points_are_saved(shares: tuple[float, float], size: tuple[int, int]):
    inp = picture(5, 7)
    low, high = sorted(middle(MODEL, inp, size, share) for share in shares)
    out, points = rendered(MODEL, inp, size, Table(12, ((2, low), (4, high), (12, INF))))
    exact = MODEL.render(inp, size)
    assert out.shape == exact.shape
    shift = shifts(MODEL, MODEL.modulations(MODEL.encoder(inp), render_cell(inp, size)[None]))
    scale = max(size[0] / 5, size[1] / 7)
    above = shift > (high if scale > 4 else low if scale > 2 else -1)
    places = [(((axis_coords(n) + 1) * m - 1) / 2).round().long() for n, m in zip(size, (5, 7), strict=True)]
    untouched = above[:, places[0]][:, :, places[1]][:, None].expand_as(exact)
    torch.testing.assert_close(out[untouched], exact[untouched], atol=2e-6, rtol=0)
    assert points <= size[0] * size[1] + 4 * 35 * (min(4, size[0] / 5) + 1) * (min(4, size[1] / 7) + 1)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("size", [(12, 16), (18, 24), (21, 29), (48, 9)])
def test_what_is_asked_for_is_right(size: tuple[int, int], kernel: bool):
    """Near some latent pixels alone, compiled or not, also where points lie halfway between two."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LMLTE(EDSR(1, 6), hidden_dim=8, imnet_depth=2).eval().requires_grad_(False) if kernel else MODEL
    inp = picture(6, 8)
    mod = model.modulations(model.encoder(inp), render_cell(inp, size)[None])
    assert model._has_kernel(mod) == kernel or not kernel
    colours = colours_of(model, inp, mod)
    (y, x), cell = (Axis(-1, axis_coords(n)) for n in size), render_cell(inp, size)
    whole = colours(y, x, cell, torch.ones(1, 6, 8, dtype=torch.bool))
    torch.testing.assert_close(whole, model.render(inp, size), atol=1e-5, rtol=0)
    here = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(2)) < 0.3
    part = colours(y, x, cell, here)
    rows, columns = (
        (((to.centres + 1) * n - 1) / 2).round().long().clamp(0, n - 1) for to, n in zip((y, x), (6, 8), strict=True)
    )
    chosen = here[:, rows][:, :, columns][:, None].expand_as(part)
    torch.testing.assert_close(part[chosen], whole[chosen], atol=1e-5, rtol=0)
    assert (part - whole).abs().max() > 1e-3  # the rest was not worked out


def test_levels_are_told_apart():
    """Points of a level are rendered there, and nothing else is."""
    inp, size = picture(6, 8), (48, 64)
    threshold = middle(MODEL, inp, size)
    below = int((shifts(MODEL, MODEL.modulations(MODEL.encoder(inp), render_cell(inp, size)[None])) <= threshold).sum())
    _, points = rendered(MODEL, inp, size, Table(8, ((2, threshold), (8, INF))))
    assert points == below * 4 + (48 - below) * 64
    out, points = rendered(MODEL, inp, size, Table(8, ((2, INF), (8, INF))))
    assert points == 48 * 4
    mod = MODEL.modulations(MODEL.encoder(inp), render_cell(inp, size)[None])
    coarse = MODEL._query(mod, make_coord((12, 16))[None], torch.tensor([[2 / 12, 2 / 16]])).mT.view(1, 3, 12, 16)
    coarse += F.interpolate(inp, (12, 16), mode="bilinear")
    torch.testing.assert_close(out, F.interpolate(coarse, size, mode="bilinear"), atol=2e-6, rtol=0)


def test_each_image_of_a_batch_stands_alone():
    inp, size = picture(6, 8, batch=3), (48, 64)
    table = Table(8, ((2, middle(MODEL, inp, size, 0.3)), (4, middle(MODEL, inp, size, 0.7)), (8, INF)))
    together, points = rendered(MODEL, inp, size, table)
    alone = [rendered(MODEL, inp[k : k + 1], size, table) for k in range(3)]
    torch.testing.assert_close(together, torch.cat([out for out, _ in alone]), atol=1e-6, rtol=0)
    assert points == sum(count for _, count in alone)


@pytest.mark.parametrize("windows", [False, True])
def test_tiles_fit_together(windows: bool):
    """And what lies around a tile is not rendered with it."""
    task = SuperResolution(network(SwinIR(12, (1,), 2, num_feat=6)) if windows else MODEL)
    image = Image(np.random.default_rng(0).random((60, 44, 3), dtype=np.float32))
    inp = torch.from_numpy(image.pixels).permute(2, 0, 1)[None] * 2 - 1
    table = Table(
        6, ((2, middle(task.model, inp, (300, 220))), (4, middle(task.model, inp, (300, 220), 0.8)), (6, INF))
    )
    whole, tiled = Levels([table]), Levels([table])
    a = enhance(task, image, 5, tile=1000, cmsr=whole).pixels
    b = enhance(task, image, 5, tile=16, cmsr=tiled).pixels
    assert np.abs(a - b).max() < 0.2 / 255
    exact = enhance(task, image, 5).pixels
    assert 0.001 < np.abs(a - exact).mean() < 0.1
    assert 0.2 < whole.rendered / whole.exact < 0.9
    assert tiled.rendered / tiled.exact < whole.rendered / whole.exact + 0.25


def test_where_no_table_fits_it_is_exact_and_said():
    task = SuperResolution(MODEL)
    image = Image(np.random.default_rng(0).random((9, 8, 3), dtype=np.float32))
    costly = Table(8, ((2, INF), (8, INF)), loss=0.05, queries=0.1)
    for levels, scale, said in (
        (Levels([]), 5, "no table for x5 with a loss of at most 0.02 dB"),
        (Levels([costly]), 5, "no table for x5"),
        (Levels([costly], 0.1), 4, "no table for x4"),
        (Levels([costly], 0.1), 8.5, "no table for x8.5"),
        (Levels([costly], 0.1, "another"), 5, "the tables are for other weights"),
    ):
        assert np.array_equal(enhance(task, image, scale, cmsr=levels).pixels, enhance(task, image, scale).pixels)
        assert said in str(levels)
        assert str(levels).startswith("cmsr: 100% of the points rendered; exactly where ")
    levels = Levels([costly], 0.1)
    assert not np.array_equal(enhance(task, image, 5, cmsr=levels).pixels, enhance(task, image, 5).pixels)
    assert str(levels) == "cmsr: 16% of the points rendered"
    liif = SuperResolution(LIIF(EDSR(1, 6), hidden=(8,)).eval())
    enhance(liif, image, 5, cmsr=levels)
    assert "LIIF has no modulations" in str(levels)


def test_the_quickest_table_within_the_loss_is_taken():
    tables = [Table(s, ((2, 1.0),), loss, q) for s in (6, 8) for loss, q in ((0.01, 0.5), (0.02, 0.4), (0.3, 0.1))]
    found = Levels(tables, 0.02).table(5.5)
    assert found is not None
    assert (found.scale, found.queries) == (6, 0.4)  # the nearest scale above
    assert Levels(tables, 0.005).table(5.5) is None
    assert Levels([Table(8, ((2, 1.0),))], 0).table(8) is not None  # of nobody knows what it costs
    for wrong in (-0.1, math.nan):
        with pytest.raises(ValueError, match=r"max-loss: .* does not work; a number of dB"):
            Levels(tables, wrong)


# ----------------------------------------------------------------------------------------------- making and keeping


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth in places, busy in others."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in "abc":
        coarse = rng.integers(60, 200, (6, 8, 3), dtype=np.uint8)
        pixels = np.asarray(PIL.Image.fromarray(coarse).resize((96, 120), PIL.Image.Resampling.BICUBIC)).copy()
        pixels[:60, :48] = rng.integers(0, 255, (60, 48, 3))
        PIL.Image.fromarray(pixels).save(folder / f"{name}.png")
    PIL.Image.new("RGB", (14, 14)).save(folder / "small.png")
    return folder


@pytest.fixture(scope="module")
def made(photos: Path) -> Tables:
    with pytest.warns(match="small is left out at x6"):
        return cmsr(SuperResolution(MODEL), photos, [4.0, 6.0])


def test_tables_say_what_they_cost_and_save(made: Tables, photos: Path):
    assert {table.scale for table in made.tables} == {4, 6}
    assert made.pictures == 4
    for scale in (4, 6):
        own = [table for table in made.tables if table.scale == scale]
        assert [t.loss for t in own] == sorted(t.loss or 0 for t in own)
        assert [t.queries for t in own] == sorted((t.queries or 0 for t in own), reverse=True)
        assert own[-1].queries is not None
        assert own[-1].queries < 0.9
    # Rendering by a table costs and saves what it says.
    from lorgnette.images.evaluation import image_scores
    from lorgnette.systems.superres.data import TestImages

    table = made.tables[-1]
    costs, points, all_points = [], 0, 0
    for batch in TestImages([(None, file) for file in sorted(photos.glob("?.png"))], [6.0]):
        inp, size = batch["lq"] * 2 - 1, batch["gt"].shape[-2:]
        out, count = rendered(MODEL, inp, size, table)
        exact = MODEL.render(inp, size)
        scores = [image_scores((one * 0.5 + 0.5).clamp(0, 1), batch)["psnr"] for one in (exact, out)]
        costs.append(scores[0] - scores[1])
        points, all_points = points + count, all_points + size[0] * size[1]
    assert np.mean(costs) == pytest.approx(table.loss, abs=2e-4)
    assert points / all_points == pytest.approx(table.queries, abs=1e-3)


def test_the_tables_that_ship_are_for_the_weights_that_ship():
    shipped = read_tables()
    assert shipped.network == lasting_identity(load_base(Model()))
    assert {table.scale for table in shipped.tables} == {6, 8, 12}
    for scale in (4, 6, 8, 12):
        table = shipped.levels(0.02).table(scale)
        assert table is not None
        assert (table.loss or 0) <= 0.02
        assert (table.queries or 1) < 0.6


def test_one_threshold_gives_one_table(photos: Path):
    task = SuperResolution(MODEL)
    with pytest.warns(match="left out"):
        strict, loose = (cmsr(task, photos, [6.0], mse_threshold=error).tables for error in (1e-5, 1e-2))
    assert len(strict) == len(loose) == 1
    assert (strict[0].queries or 0) > (loose[0].queries or 0)


def test_tables_are_kept(made: Tables, tmp_path: Path):
    file = write_tables(tmp_path / "cmsr.yaml", made)
    assert read_tables(file) == read_tables(tmp_path) == made
    (tmp_path / "published.yaml").write_text("6: {1: 0.12, 2: 0.15, 4: 0.215, 6: 1}\n12: {1: 0.1, 4: 1}\n")
    published = read_tables(tmp_path / "published.yaml")
    assert published.tables[0] == Table(6, ((1, 0.12), (2, 0.15), (4, 0.215), (6, 1)))
    assert [step.scale for step in published.tables[1].steps(12)] == [1, 4]  # a threshold of 1 means all
    assert published.levels(0.0).table(10) == published.tables[1]


@pytest.mark.parametrize(
    "text",
    [
        "6: 1",
        "{}",
        "tables: 1",
        "format_version: 1\nnetwork: a\npictures: 1\ntables: [{scale: 8}]",
        "format_version: 2\nnetwork: a\npictures: 1\ntables: []",
        "6: {}",
        "6: {0: 1}",
        "6: {2: .nan}",
        "640: {2: 1}",
        "a: {b: c}",
        "[1, 2]",
        "!!python/object/apply:os.getcwd []",
    ],
)
def test_what_is_no_table(text: str, tmp_path: Path):
    (tmp_path / "cmsr.yaml").write_text(text)
    if text == "{}":
        assert read_tables(tmp_path).tables == []
        return
    with pytest.raises(ValueError, match=r"cmsr\.yaml") as refusal:
        read_tables(tmp_path)
    assert "\n" not in str(refusal.value)


def test_what_no_tables_are_made_for(photos: Path, tmp_path: Path):
    liif = SuperResolution(LIIF(EDSR(1, 6), hidden=(8,)).eval())
    with pytest.raises(ValueError, match="LIIF has no modulations to go by"):
        cmsr(liif, photos)
    with pytest.raises(ValueError, match="scales: 2 does not work; numbers above 2, to 32, do"):
        cmsr(SuperResolution(MODEL), photos, [2.0])
    with pytest.raises(FileNotFoundError):
        cmsr(SuperResolution(MODEL), tmp_path / "nowhere")
    PIL.Image.new("RGB", (9, 9)).save(tmp_path / "tiny.png")
    with pytest.raises(ValueError, match="tiny is left out at x6"):
        cmsr(SuperResolution(MODEL), tmp_path, [6.0])
    with pytest.raises(ValueError, match="cmsr: does not go with a cache"):
        enhance(SuperResolution(MODEL), read_image(tmp_path / "tiny.png"), cmsr=Levels([]), cache=TileCache(2**20))
