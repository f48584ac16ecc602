"""Rendering without gathers: each latent pixel colours its window, by torch or by a compiled kernel."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.systems.superres.test_model import whole
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.systems.superres.coords import axis_coords
from lorgnette.systems.superres.decoders import LMLTE, lte
from lorgnette.systems.superres.decoders.windows import axis_windows
from lorgnette.systems.superres.encoders import EDSR
from lorgnette.systems.superres.model import render_cell

pytest.importorskip("numba", reason="needs the extra fast")


def lively(**settings: bool) -> LMLTE:
    """A network of the published render network's width, whose weights let everything show."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LMLTE(EDSR(1, 6), hidden_dim=8, imnet_dim=16, imnet_depth=3, **settings).eval()
        for name, parameter in model.named_parameters():
            std = 0.8 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.3
            nn.init.normal_(parameter, std=std * (0.3 if name.startswith("hypernet") else 1))
    return model.requires_grad_(False)


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    from lorgnette.systems.superres.decoders import kernel

    calls: list[int] = []
    plain = kernel.colours
    monkeypatch.setattr(kernel, "colours", lambda *given: calls.append(1) or plain(*given))
    return calls


def picture(*size: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
FACTORS = [(1.0, 1.0), (2.0, 3.0), (4.0, 4.0), (33.0, 1.0)]
SCALES = st.tuples(st.floats(1, 9), st.floats(1, 9)) | st.sampled_from(FACTORS)
MODEL = lively()


@settings(max_examples=30, deadline=None)
@given(SIZES, SCALES)
def test_any_size_is_rendered_as_point_by_point(size: tuple[int, int], scale: tuple[float, float]):
    inp = picture(*size, batch=2)
    wanted = (round(size[0] * scale[0]), round(size[1] * scale[1]))
    points = whole(MODEL, inp, wanted)
    with torch.no_grad():
        torch.testing.assert_close(MODEL.render(inp, wanted), points, atol=1e-4, rtol=1e-4)  # the kernel
    double = lively().double()
    y, x = (axis_coords(n, torch.device("cpu")) for n in wanted)
    by_torch = double.render_window(inp.double(), y.double(), x.double(), render_cell(inp, wanted).double(), chunk=50)
    torch.testing.assert_close(by_torch.float(), points, atol=1e-4, rtol=1e-4)


@given(st.integers(1, 12), st.integers(1, 90), st.booleans())
def test_the_shares_of_a_row_add_up_to_one(n: int, rows: int, ensemble: bool):
    windows = axis_windows(axis_coords(rows, torch.device("cpu")), n, ensemble)
    total = torch.zeros(rows + 1)
    for i in range(n):
        for k, share in enumerate(windows.weight[i].tolist()):
            assert 0 <= share <= 1
            if share:
                total[int(windows.start[i]) + k] += share
                assert abs(windows.rel[i, k]) <= (2 if ensemble else 1) + 1e-4
    torch.testing.assert_close(total[:rows], torch.ones(rows))


@torch.no_grad()
def test_threads_change_nothing(kernel_calls: list[int]):
    inp, before = picture(7, 9), torch.get_num_threads()
    torch.set_num_threads(1)
    one = MODEL.render(inp, (23, 31))
    try:
        torch.set_num_threads(3)
        assert torch.equal(MODEL.render(inp, (23, 31)), one)
    finally:
        torch.set_num_threads(before)
    assert kernel_calls == [1, 1]


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"dynamic_rank": True}, {"lora_dropout": 0.5}])
def test_an_adapter_of_the_render_network_counts(options: dict[str, object], kernel_calls: list[int]):
    model, inp = lively(), picture(5, 6)
    lora.inject_lora(model, lora.LoRAConfig(r=2, lora_alpha=4, target_modules=r"imnet\.layers\..*", **options))
    model.eval()
    with torch.no_grad():
        before = model.render(inp, (13, 14))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        rendered = model.render(inp, (13, 14))
        assert (rendered - before).abs().max() > 1e-2
        torch.testing.assert_close(rendered, whole(model, inp, (13, 14)), atol=1e-4, rtol=1e-4)
    assert len(kernel_calls) == (0 if "dynamic_rank" in options else 2)


def test_hooks_and_training_go_through_the_layers(kernel_calls: list[int]):
    model, inp, seen = lively(), picture(4, 4), []
    handle = model.imnet.layers[2].register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        model.render(inp, (9, 9))
        assert seen
        handle.remove()
        plain = model.render(inp, (9, 9))
        assert len(kernel_calls) == 1
        torch.testing.assert_close(model.train().render(inp, (9, 9)), plain, atol=1e-5, rtol=1e-5)
    assert len(kernel_calls) == 1


def test_gradients_are_those_of_points():
    inp = picture(4, 5)
    found = []
    for way in (lambda m: m.render(inp, (9, 11)), lambda m: whole(m, inp, (9, 11))):
        model = lively().requires_grad_(True)
        way(model).square().sum().backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        if gradient is not None:
            torch.testing.assert_close(gradient, found[1][name], atol=1e-3, rtol=1e-3, msg=name)


@torch.no_grad()
def test_without_numba_it_is_the_same(monkeypatch: pytest.MonkeyPatch, kernel_calls: list[int]):
    inp = picture(6, 7)
    rendered = MODEL.render(inp, (19, 25))
    monkeypatch.setattr(lte, "NUMBA", False)
    torch.testing.assert_close(MODEL.render(inp, (19, 25)), rendered, atol=2e-5, rtol=1e-5)
    assert kernel_calls == [1]


@pytest.mark.parametrize("turns", [0.0, 0.5, -1.25, 1000.3, -77.77])
def test_sines(turns: float):
    from lorgnette.systems.superres.decoders.kernel import sinpi

    t = torch.tensor(turns).numpy()[()]
    assert sinpi(t) == pytest.approx(math.sin(math.pi * float(t)), abs=2e-7)
