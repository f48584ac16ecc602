"""LM-LTE against the published network, and as a function of any point of any image."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.systems.superres.goldens import fill, golden
from torch import Tensor, nn

from lorgnette.systems.superres.coords import axis_coords, make_coord
from lorgnette.systems.superres.encoders import EDSR, ENCODERS, make_encoder
from lorgnette.systems.superres.model import LMLTE, LMMLP, MLP, NUDGE, TRAINED_SCALE, render_cell


@pytest.fixture(scope="module")
def published() -> LMLTE:
    model = LMLTE(make_encoder("edsr-baseline")).eval()
    fill(model)
    return model.requires_grad_(False)


@pytest.fixture
def small() -> LMLTE:
    """A network of little depth, with lively weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LMLTE(EDSR(1, 6), hidden_dim=8, imnet_dim=4, imnet_depth=2).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5 / math.sqrt(max(1, parameter[0].numel())))
    return model.requires_grad_(False)


def picture(*size: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def whole(model: LMLTE, inp: Tensor, size: tuple[int, int]) -> Tensor:
    """By `forward`: (B, 3, H, W)."""
    coord = make_coord(size).expand(len(inp), -1, -1)
    cell = render_cell(inp, size).expand(*coord.shape)
    return model(inp, coord, cell).transpose(1, 2).reshape(len(inp), 3, *size)


# ------------------------------------------------------------------------------------------ the published network


@pytest.mark.parametrize("name", ["edsr_x2", "edsr_x3.3", "edsr_asym_x2_x3"])
def test_outputs_are_those_of_the_published_code(name: str, published: LMLTE):
    data = golden(name)
    meta = data["meta"]
    size = meta["H"], meta["W"]
    inp = torch.from_numpy(data["image"])[None] * 2 - 1
    with torch.no_grad():
        rendered = published.render(inp, size)[0].permute(1, 2, 0).numpy()
        feat = published.encoder(inp)
        mod = published.modulations(feat, render_cell(inp, size)[None])[0]
        asked = whole(published, inp, size)[0].permute(1, 2, 0).numpy()
    for out in (rendered, asked):
        assert out.shape == (*size, 3)
        assert np.abs(out - data["out"]).max() < 5e-4
        assert np.abs(out - data["out"]).mean() < 2e-5
    np.testing.assert_allclose(feat[0, :8, :4, :4].numpy(), data["feat_slice"], atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(mod[:4, :4].permute(2, 0, 1).numpy(), data["mod_slice"], atol=2e-5, rtol=1e-5)
    # Not a bilinear enlargement with a whisper on top: the tolerance would see any part that is missing.
    plain = F.interpolate(inp, size, mode="bilinear")[0].permute(1, 2, 0).numpy()
    assert np.abs(plain - data["out"]).mean() > 0.05


def test_double_precision_gives_the_published_double(published: LMLTE):
    data = golden("edsr_asym_x2_x3")
    model = LMLTE(make_encoder("edsr-baseline")).eval().double()
    model.load_state_dict(published.state_dict())
    inp = torch.from_numpy(data["image"])[None].double() * 2 - 1
    coord = make_coord((40, 72))[None].double()
    with torch.no_grad():
        out = model(inp, coord, render_cell(inp, (40, 72)).double().expand(*coord.shape))[0]
    assert out.dtype == torch.float64
    difference = np.abs(out.numpy().reshape(40, 72, 3) - data["out64"])
    assert difference.max() < 1e-4
    assert difference.mean() < 1e-6


def test_bfloat16_stays_near(published: LMLTE):
    inp = torch.from_numpy(golden("edsr_asym_x2_x3")["image"])[None] * 2 - 1
    with torch.no_grad():
        exact = published.render(inp, (40, 72))
        with torch.autocast("cpu", torch.bfloat16):
            rough = published.render(inp, (40, 72))
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() < 0.03
    assert not torch.equal(rough, exact)


# --------------------------------------------------------------------------------------------- one image, any size


@pytest.mark.parametrize("size", [(14, 18), (7, 9), (21, 27), (23, 30), (40, 9), (10, 100), (5, 4), (1, 1)])
def test_forward_and_render_agree_at_any_size(size: tuple[int, int], small: LMLTE):
    inp = picture(7, 9, batch=2)
    rendered = small.render(inp, size)
    assert rendered.shape == (2, 3, *size)
    torch.testing.assert_close(rendered, whole(small, inp, size), atol=2e-6, rtol=0)
    torch.testing.assert_close(small.render(inp, size, chunk=7), rendered, atol=2e-6, rtol=0)


def test_each_image_of_a_batch_stands_alone(small: LMLTE):
    """Also with cells of its own."""
    inp, coord = picture(6, 5, batch=3), torch.rand(3, 11, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    cell = torch.tensor([[0.1, 0.1], [0.2, 0.05], [0.03, 0.3]])[:, None].expand(3, 11, 2)
    together = small(inp, coord, cell)
    for k in range(3):
        torch.testing.assert_close(small(inp[k : k + 1], coord[k : k + 1], cell[k : k + 1])[0], together[k])
    assert (small(inp, coord, cell.flip(0)) - together).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [2, 3, 3.3])
def test_a_window_is_a_window_of_the_whole(scale: float, small: LMLTE):
    """With a halo as wide as the network sees; and that width is needed."""
    inp = picture(32, 30)
    size = round(32 * scale), round(30 * scale)
    full = small.render(inp, size)
    centre = (
        (torch.arange(size[0]).double() + 0.5) / size[0] * 32,
        (torch.arange(size[1]).double() + 0.5) / size[1] * 30,
    )

    def window(halo: int) -> Tensor:
        rows, columns = (torch.nonzero((c >= 12.5) & (c <= 18.5)).flatten() for c in centre)
        low, high = 12 - halo, 19 + halo
        y, x = (
            ((c[index] - low) / (high - low) * 2 - 1).float() for c, index in zip(centre, (rows, columns), strict=True)
        )
        cell = render_cell(inp, size) * torch.tensor([32, 30]) / (high - low)
        crop = small.render_window(inp[..., low:high, low:high], y, x, cell)
        return (crop - full[..., rows, :][..., columns]).abs().max()

    assert small.receptive_radius == 6
    assert window(small.receptive_radius) < 2e-5
    assert window(2) > 1e-3


def test_the_receptive_radius_is_what_can_be_seen(small: LMLTE):
    inp = picture(25, 25).requires_grad_()
    at = torch.tensor([[[0.04, -0.03]]])  # within a pixel of the centre
    small(inp, at, torch.full((1, 1, 2), 0.04)).sum().backward()
    assert inp.grad is not None
    rows = torch.nonzero(inp.grad.abs().sum((0, 1, 3))).flatten()
    assert 12 - rows.min() <= small.receptive_radius >= rows.max() - 12
    assert max(12 - rows.min(), rows.max() - 12) >= small.receptive_radius - 1


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 5)])
def test_smallest_images(shape: tuple[int, int], small: LMLTE):
    for size in (shape, (5, 7), (31, 31), (1, 1)):
        assert torch.isfinite(small.render(picture(*shape), size)).all()


def test_cells_are_never_finer_than_in_training():
    inp = torch.zeros(1, 3, 10, 20)
    assert render_cell(inp, (20, 40)).tolist() == pytest.approx([2 / 20, 2 / 40])
    finest = [2 / (10 * TRAINED_SCALE), 2 / (20 * TRAINED_SCALE)]
    assert render_cell(inp, (40, 80)).tolist() == pytest.approx(finest)
    assert render_cell(inp, (300, 80)).tolist() == pytest.approx(finest)  # each axis by itself
    assert render_cell(inp, (20, 600)).tolist() == pytest.approx([2 / 20, finest[1]])


# ------------------------------------------------------------------------------------------- points, and between


@pytest.mark.parametrize("n", [3, 7, 48, 101])
@pytest.mark.parametrize("scale", [1, 3, 5])
def test_points_on_pixel_centres_are_finite_and_continuous(n: int, scale: int, small: LMLTE):
    """At odd scales every middle point has its neighbours at distances 0 and 1."""
    inp = picture(n, 4)
    y, x = axis_coords(n * scale), axis_coords(4 * scale)
    cell = render_cell(inp, (n * scale, 4 * scale))
    exact = small.render_window(inp, y, x, cell)
    assert torch.isfinite(exact).all()
    step = 1e-4 / n  # of a pixel: 5e-5
    moves = ((step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step), (step, -step), (-NUDGE, -NUDGE), (-NUDGE, NUDGE))
    for dy, dx in moves:  # (at 101, a step is a nudge)
        near = small.render_window(inp, (y + dy).clamp(-1, 1), (x + dx).clamp(-1, 1), cell)
        assert (near - exact).abs().max() < 5e-3
    # On a pixel's centre the answer is that pixel's alone.
    centre = small.render_window(inp, axis_coords(n), axis_coords(4), cell)
    torch.testing.assert_close(exact[..., scale // 2 :: scale, scale // 2 :: scale], centre, atol=1e-3, rtol=0)


def test_nothing_jumps_along_a_line(small: LMLTE):
    """Where one pixel's neighbourhood ends and the next begins, both sides agree."""
    inp = picture(6, 6)
    fine = torch.linspace(-1, 1, 6001)
    line = small.render_window(inp, torch.tensor([0.1234]), fine, render_cell(inp, (24, 24)))
    assert line.diff(dim=-1).abs().max() < 0.02
    assert line.std() > 0.1
    edges = small.render_window(inp, torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0]), render_cell(inp, (24, 24)))
    assert torch.isfinite(edges).all()


def test_transposing_the_axes_of_everything_transposes_the_answer(small: LMLTE):
    """y is rows and x is columns throughout: weights that are symmetric see no difference between the two."""
    for name, parameter in small.named_parameters():
        if parameter.ndim == 4:
            parameter.copy_((parameter + parameter.mT) / 2)
        if name in ("phase.weight", "imphase.weight"):
            parameter.copy_(parameter.mean(1, keepdim=True).expand_as(parameter))
    pairs = [small.freq.weight, small.freq.bias]
    for tensor in pairs:  # (y, x) pairs of frequencies
        tensor.view(-1, 2, *tensor.shape[1:]).copy_(tensor.view(-1, 2, *tensor.shape[1:]).mean(1, keepdim=True))
    last = small.hypernet.layers[2]
    for tensor in (last.weight, last.bias):
        f = tensor[-4:].view(-1, 2, *tensor.shape[1:])
        f.copy_(f.mean(1, keepdim=True).clone())
    inp = picture(6, 6)
    torch.testing.assert_close(small.render(inp.mT, (26, 13)), small.render(inp, (13, 26)).mT, atol=2e-6, rtol=0)
    assert (small.render(inp.mT, (13, 26)) - small.render(inp, (13, 26))).abs().max() > 0.1


def test_coordinates():
    assert axis_coords(4).tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert make_coord((2, 4))[:5].tolist() == [[-0.5, -0.75], [-0.5, -0.25], [-0.5, 0.25], [-0.5, 0.75], [0.5, -0.75]]


def test_an_untrained_network_can_start_as_bilinear():
    model = LMLTE(make_encoder("edsr-tiny"))
    inp = picture(6, 8)
    assert (model.render(inp, (15, 20)) - F.interpolate(inp, (15, 20), mode="bilinear")).abs().max() > 1e-3
    model.start_as_bilinear()
    torch.testing.assert_close(model.render(inp, (15, 20)), F.interpolate(inp, (15, 20), mode="bilinear"))


# ----------------------------------------------------------------------------------------------- parts, gradients


def test_the_render_network_modulates_each_hidden_layer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = LMMLP(3, 2, hidden_dim=4, hidden_depth=2)
        x, scale, shift = torch.randn(5, 3), torch.randn(5, 8), torch.randn(5, 8)
    h = F.relu(net.layers[0](x) * (1 + scale[:, :4]) + shift[:, :4])
    h = F.relu(net.layers[2](h) * (1 + scale[:, 4:]) + shift[:, 4:])
    torch.testing.assert_close(net(x, scale, shift), net.layers[4](h))


def test_gradients(small: LMLTE):
    """Of the whole network in double precision, by every parameter and by the image."""
    model = small.double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        coord = torch.rand(1, 5, 2, dtype=torch.float64) * 1.8 - 0.9
        cell = torch.full((1, 5, 2), 0.2, dtype=torch.float64)
        inp = torch.rand(1, 3, 3, 3, dtype=torch.float64) * 2 - 1
    names = [name for name, _ in model.named_parameters() if "_mean." not in name]
    values = [model.get_parameter(name).detach().clone().requires_grad_() for name in names]

    def call(inp: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (inp, coord, cell))

    assert torch.autograd.gradcheck(call, (inp.requires_grad_(), *values), fast_mode=True)


def test_every_parameter_learns(small: LMLTE):
    small.requires_grad_(True)
    coord = make_coord((9, 9))[None]
    small(picture(4, 4), coord, torch.full_like(coord, 0.2)).square().mean().backward()
    idle = [name for name, p in small.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == [f"encoder.{mean}.{kind}" for mean in ("sub_mean", "add_mean") for kind in ("weight", "bias")]


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name: str):
    with torch.device("meta"):
        encoder = make_encoder(name)
        assert encoder(torch.empty(2, 3, 7, 5)).shape == (2, encoder.out_dim, 7, 5)
        model = LMLTE(encoder)
    counted: Callable[[nn.Module], int] = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    published = {"edsr-baseline": 1_220_440, "rdn": 21_973_952, "swinir": 11_603_044}
    if name in published:
        assert counted(encoder) == published[name]
        assert counted(model) - counted(encoder) == 270_467


def test_residual_branches_are_scaled():
    encoder = EDSR(2, 4, res_scale=0.1)
    block = encoder.body[0]
    x = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(x), x + 0.1 * block.body(x))


def test_an_unknown_encoder_is_refused():
    with pytest.raises(ValueError, match=r"model\.encoder: 'edsr-large' is not known; there is edsr, edsr-baseline"):
        make_encoder("edsr-large")


def test_plain_layers():
    net = MLP(3, [5], 2)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x), net.layers[2](F.relu(net.layers[0](x))))
