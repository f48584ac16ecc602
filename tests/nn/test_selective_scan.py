"""Every way to compute the scan gives what the formula says, and its gradients."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from lorgnette.nn import selective_scan as package
from lorgnette.nn.selective_scan import selective_scan
from lorgnette.nn.selective_scan.reference import pixel_order

pytest.importorskip("numba")
SOURCE = Path(__file__).parents[2] / "src"
ORDERS = [(0,), (3,), (1, 2), (2, 0, 1), (0, 1, 2, 3), (3, 1, 0, 2)]


def inputs(
    batch: int, size: tuple[int, int], d: int, k: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    length = size[0] * size[1]
    shapes = [(batch, length, d), (batch, length, k, d), (k, d, n), (batch, length, k, n), (batch, length, k, n)]
    u, dt, A, B, C, D, bias = (torch.randn(s, generator=generator, dtype=dtype) for s in [*shapes, (k, d), (k, d)])
    return [u, dt - 1, -A.exp(), B, C, D, bias]


def with_gradients(tensors: list[Tensor], size: tuple[int, int], order: tuple[int, ...], way: str) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    y = selective_scan(*leaves, size, order, way)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)
    (y * weights).sum().backward()
    # of a single pixel no state is carried, and one way does not even ask for the rates
    return [y.detach(), *(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves)]


def close(mine: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for name, a, b in zip("y u dt A B C D dt_bias".split(), mine, wanted, strict=True):
        assert (a.double() - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-3), name


@settings(max_examples=25, deadline=None)
@given(
    way=st.sampled_from(["numba", "blocked", "doubling", "looped", "unrolled"]),
    batch=st.integers(1, 3),
    h=st.integers(1, 9),
    w=st.integers(1, 11),
    d=st.sampled_from([1, 5, 32, 33, 70]),
    n=st.integers(1, 20),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 99),
)
def test_every_way_gives_the_formula(way, batch, h, w, d, n, order, seed):
    exact = inputs(batch, (h, w), d, len(order), n, seed)
    given_ = [x.float() for x in exact] if way == "numba" else exact
    wanted = with_gradients(exact, (h, w), order, "reference")
    close(with_gradients(given_, (h, w), order, way), wanted, 1e-5 if way == "numba" else 1e-10)


@pytest.mark.parametrize("way", ["numba", "blocked"])
def test_more_pixels_than_a_chunk(way):
    size = (37, 11)
    exact = inputs(1, size, 40, 4, 6)
    given_ = [x.float() for x in exact] if way == "numba" else exact
    wanted = with_gradients(exact, size, (0, 1, 2, 3), "reference")
    close(with_gradients(given_, size, (0, 1, 2, 3), way), wanted, 1e-5 if way == "numba" else 1e-10)


def test_directions_are_read_as_they_are_named():
    assert pixel_order((2, 3), 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert pixel_order((2, 3), 1).tolist() == [0, 3, 1, 4, 2, 5]
    assert pixel_order((2, 3), 2).tolist() == [5, 4, 3, 2, 1, 0]
    assert pixel_order((2, 3), 3).tolist() == [5, 2, 4, 1, 3, 0]
    # a step that forgets everything (dt large) leaves y = C B step u + D u, whatever the direction
    tensors = inputs(1, (3, 4), 2, 4, 2)
    tensors[1] = torch.full_like(tensors[1], 1e3)
    tensors[6] = torch.zeros_like(tensors[6])
    u, _, _, B, C, D, _ = tensors
    local = sum((C[:, :, k] * B[:, :, k]).sum(-1, keepdim=True) * 1e3 * u + D[k] * u for k in range(4))
    y = selective_scan(*tensors, (3, 4), way="blocked")
    torch.testing.assert_close(y, local, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", ["blocked", "numba"])
def test_channels_beyond_a_block_have_rates_of_their_own(way):
    exact = inputs(1, (4, 3), 300, 2, 2)
    exact[2] = exact[2] * torch.linspace(0.1, 3, 300, dtype=torch.float64)[:, None]
    wanted = with_gradients(exact, (4, 3), (0, 3), "reference")
    given_ = [x.float() for x in exact] if way == "numba" else exact
    close(with_gradients(given_, (4, 3), (0, 3), way), wanted, 1e-5 if way == "numba" else 1e-10)


@pytest.mark.parametrize("way", ["blocked", "doubling", "looped", "unrolled"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_up_in_float32(way, dtype):
    """Hundreds of small steps: a state kept in half precision would lose most of them."""
    half = [x.to(dtype) for x in inputs(1, (24, 24), 3, 1, 2)]
    half[1] = torch.full_like(half[1], -4.0)  # steps of 0.018
    wanted = selective_scan(*[x.double() for x in half], (24, 24), (0,), way="reference")
    mine = selective_scan(*half, (24, 24), (0,), way)
    assert mine.dtype == dtype
    error = (mine.double() - wanted).abs().max() / wanted.abs().max()
    assert error < torch.finfo(dtype).eps  # that of rounding once, in the end


@pytest.mark.parametrize("way", ["blocked", "doubling", "looped", "unrolled"])
def test_gradcheck(way):
    leaves = [x.requires_grad_() for x in inputs(1, (3, 2), 3, 2, 2)]
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, (3, 2), (1, 2), way), leaves)


@pytest.mark.parametrize("way", ["numba", "blocked"])
@pytest.mark.parametrize("bias", [-80.0, 80.0, -20.0, 20.0])
def test_step_sizes_of_any_size(way, bias):
    exact = inputs(1, (4, 5), 6, 4, 3)
    exact[6] = exact[6] + bias
    wanted = with_gradients(exact, (4, 5), (0, 1, 2, 3), "reference")
    mine = with_gradients([x.float() for x in exact], (4, 5), (0, 1, 2, 3), way)
    assert all(torch.isfinite(x).all() for x in mine)
    close(mine, wanted, 1e-4)


@pytest.mark.parametrize("way", ["numba", "blocked"])
def test_what_is_no_number_is_not_hidden(way):
    tensors = inputs(1, (2, 3), 4, 1, 2, dtype=torch.float32)
    tensors[0][0, 3, 1] = float("nan")
    y = selective_scan(*tensors, (2, 3), (0,), way)
    assert torch.isnan(y[0, 3:, 1]).all()
    assert torch.isfinite(y[0, :3]).all()
    assert torch.isfinite(y[0, :, 0]).all()


def test_views_of_one_projection_need_no_copy():
    tensors = inputs(2, (3, 5), 6, 4, 3, dtype=torch.float32)
    joined = torch.cat([torch.zeros(2, 15, 4, 2), tensors[3], tensors[4]], dim=-1)
    views = joined.split([2, 3, 3], dim=-1)[1:]
    assert not views[0].is_contiguous()
    wanted = selective_scan(*tensors, (3, 5), way="numba")
    assert torch.equal(selective_scan(*tensors[:3], *views, *tensors[5:], (3, 5), way="numba"), wanted)


def test_step_sizes_laid_out_by_direction_are_read_in_place():
    tensors = inputs(2, (3, 5), 40, 4, 3, dtype=torch.float32)
    wanted = with_gradients(tensors, (3, 5), (0, 1, 2, 3), "numba")
    leaves = [x.clone().requires_grad_() for x in tensors]
    by_direction = tensors[1].permute(2, 0, 1, 3).contiguous().requires_grad_()
    y = selective_scan(leaves[0], by_direction.permute(1, 2, 0, 3), *leaves[2:], (3, 5), way="numba")
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)
    (y * weights).sum().backward()
    assert torch.equal(y, wanted[0])
    assert by_direction.grad is not None
    assert torch.equal(by_direction.grad.permute(1, 2, 0, 3), wanted[2])
    assert all(torch.equal(a.grad, b) for i, (a, b) in enumerate(zip(leaves, wanted[1:], strict=True)) if i != 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_and_out_with_a_state_in_float32(dtype):
    low = [x.to(dtype) for x in inputs(1, (8, 8), 8, 4, 4)]
    y = selective_scan(*low, (8, 8))
    assert y.dtype == dtype
    wanted = selective_scan(*[x.double() for x in low], (8, 8), way="reference")
    assert (y.double() - wanted).abs().max() <= torch.finfo(dtype).eps * wanted.abs().max()


def test_any_number_of_threads_gives_the_same_bits():
    tensors = inputs(2, (9, 9), 100, 4, 5, dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(with_gradients(tensors, (9, 9), (0, 1, 2, 3), "numba"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_calls_from_several_threads_do_not_meet():
    many = [inputs(1, (9, 9), 40, 4, 4, seed, torch.float32) for seed in range(6)]
    wanted = [selective_scan(*tensors, (9, 9)) for tensors in many]
    found: dict[int, Tensor] = {}
    workers = [
        threading.Thread(target=lambda i=i: found.__setitem__(i, selective_scan(*many[i], (9, 9)))) for i in range(6)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(found[i], wanted[i]) for i in range(6))


class Scanner(nn.Module):
    def forward(self, *tensors: Tensor) -> Tensor:
        return selective_scan(*tensors, (4, 6)) * 2


def test_compiled_without_breaks_gradients_and_all():
    tensors = inputs(1, (4, 6), 5, 4, 3, dtype=torch.float32)
    compiled = torch.compile(Scanner(), backend="aot_eager", fullgraph=True)
    results = []
    for scanner in (Scanner(), compiled):
        leaves = [x.clone().requires_grad_() for x in tensors]
        scanner(*leaves).square().sum().backward()
        results.append([leaf.grad for leaf in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_exported_without_our_kernels():
    tensors = tuple(inputs(1, (4, 6), 5, 4, 3, dtype=torch.float32))
    program = torch.export.export(Scanner(), tensors)
    assert "lorgnette" not in str(program.graph)
    torch.testing.assert_close(program.module()(*tensors), Scanner()(*tensors), rtol=1e-5, atol=1e-5)


def test_the_quickest_way_that_serves(monkeypatch: pytest.MonkeyPatch):
    u = torch.zeros(1, 4, 2)
    assert package._quickest(u) == "numba"
    assert package._quickest(u.double()) == "blocked"
    monkeypatch.setattr(package, "NUMBA", False)
    assert package._quickest(u) == "blocked"
    with pytest.raises(ValueError, match=r"^way: 'numba' needs the package numba"):
        selective_scan(*inputs(1, (2, 2), 2, 4, 2), (2, 2), way="numba")


def test_a_folder_that_cannot_be_written_to_is_no_obstacle(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    code = (
        "import torch; from lorgnette.nn.selective_scan import selective_scan as s; z = torch.zeros;"
        "print(s(z(1,4,2), z(1,4,1,2), z(1,2,2), z(1,4,1,2), z(1,4,1,2), z(1,2), z(1,2), (2,2), (0,)).shape)"
    )
    env = os.environ | {"PYTHONPATH": str(SOURCE), "NUMBA_CACHE_DIR": str(blocked / "inside")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "torch.Size([1, 4, 2])\n", done.stderr


def test_a_disk_that_fills_while_a_kernel_is_kept_is_no_obstacle(monkeypatch: pytest.MonkeyPatch):
    from numba.core.caching import IndexDataCacheFile

    from lorgnette.nn.compiled import compiled

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def twice(x):
        x[0] *= 2

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    values = torch.ones(1).numpy()
    compiled(twice, "void(f4[::1])")(values)
    assert values[0] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"way": "cuda"}, r"^way: 'cuda' is not known; numba, triton, blocked"),
        ({"way": "numba"}, r"^way: 'numba' computes in float32 on cpu, and u is torch.float64 on cpu"),
        ({"size": (0, 4)}, r"^size: \(0, 4\) is not \(H, W\) of an image"),
        ({"size": (-2, -2)}, r"^size: \(-2, -2\) is not \(H, W\) of an image"),
        ({"directions": ()}, r"^directions: \(\) are not all among 0, 1, 2 and 3, at least one"),
        ({"size": (2, 3)}, r"^u: \(1, 4, 2\) is not \(batch, L, d\) with L = 2 x 3 pixels"),
        ({"directions": (0, 1, 2, 4)}, r"^directions: \(0, 1, 2, 4\) are not all among 0, 1, 2 and 3"),
        ({"directions": (0, 1)}, r"^dt: \(1, 4, 4, 2\) does not fit u; \(1, 4, 2, 2\) is needed"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(*inputs(1, (2, 2), 2, 4, 2), **({"size": (2, 2)} | change))
