"""Rooms' programs on ExecuTorch, with the weights that ship or those of a trained miniature; and in 8 bits there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.export.test_executorch import needs_executorch
from tests.export.test_manifest import MANIFEST
from tests.export.test_pictures import picture
from tests.export.test_quantize import Net, given, samples

from lorgnette.cli import main
from lorgnette.export import Exported, export, read_manifest
from lorgnette.export.int8 import Int8
from lorgnette.export.manifest import Manifest
from lorgnette.images.file import read_image, write_image
from lorgnette.shipped import load_shipped
from lorgnette.systems import room
from lorgnette.systems.protocol import Program
from lorgnette.train.loop import evaluate
from lorgnette.train.task import Task


@pytest.mark.slow
@pytest.mark.parametrize("name", ["superres", "restore"])
def test_squares_of_what_ships(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    needs_executorch()
    home, file = room(name), tmp_path / "a.pte"
    task: Any = load_shipped(name)
    with pytest.raises(ValueError, match=r"ExecuTorch has no loops of free length, .*--size 128 \(size=128\) works"):
        export(task, home.Recipe(), file)
    report = export(task, home.Recipe(), file, size=32)
    assert report.difference <= 1e-4
    manifest = read_manifest(file)
    assert manifest is not None
    assert manifest.pictures is not None
    assert (manifest.pictures.side, manifest.pictures.out_side) == (32, 64 if name == "superres" else None)
    image, enhance = picture(32, 32), home.enhance
    np.testing.assert_allclose(Exported(file).enhance(image).pixels, enhance(task, image).pixels, rtol=0, atol=1e-4)
    write_image(tmp_path / "in.png", picture(40, 30))
    assert main(["enhance", str(file), str(tmp_path / "in.png"), str(tmp_path / "out.png")]) == 0
    wanted = enhance(task, picture(40, 30)).pixels
    assert np.abs(read_image(tmp_path / "out.png").pixels - wanted).mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "faceview"])
def test_any_number_at_a_time(name: str, trained: Any, tmp_path: Path):
    needs_executorch()
    task, recipe, test = trained(name)
    report = export(
        task, recipe, tmp_path / "a.pte", score=lambda tasks: {n: evaluate(each, test) for n, each in tasks.items()}
    )
    assert len(report.differences) == 5
    assert report.difference <= 1e-5
    assert report.scores["exported"] == pytest.approx(report.scores["network"], rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_in_8_bits(tmp_path: Path):
    needs_executorch()
    from lorgnette.export.executorch import runner
    from lorgnette.export.quantize_mobile import write

    torch.manual_seed(0)
    net = Net().eval().requires_grad_(False)

    def example(number: int) -> tuple[torch.Tensor, ...]:
        return given(number, (16 + number, 20 + 2 * number))

    def manifest(found: Int8 | None) -> Manifest:
        return replace(MANIFEST, int8=None if found is None else {"way": found.way})

    program = Program(net, {"x": {2: "height", 3: "width"}, "place": {}}, "y", example, lambda run: Task())
    small, large = tmp_path / "small.pte", tmp_path / "large.pte"
    report = write(program, "static", samples(4), manifest, small, large)
    assert report.layers == {"inner": "Conv", "second": "Conv", "product": "Linear"}
    assert report.left == {"first": "Conv", "tiny": "Linear", "last": "Linear"}
    assert report.runs == {"XNNPACK convolution": 2, "XNNPACK linear": 1}
    assert small.stat().st_size < 0.5 * large.stat().st_size
    found, wanted = read_manifest(small), read_manifest(large)
    assert found is not None
    assert wanted is not None
    assert (found.int8, wanted.int8) == ({"way": "static"}, None)
    in_8_bits, in_float32 = runner(small), runner(large)
    for number in range(4, 7):
        x = example(number)
        exact = net(*x)
        assert 0 < (in_8_bits(*x) - exact).abs().mean() < 0.02 * exact.abs().mean()
        torch.testing.assert_close(in_float32(*x), exact, rtol=1e-4, atol=1e-5)

    class Looked(torch.nn.Module):
        """A table is read at places that are reckoned with whole numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 48, 3)

        def forward(self, x):
            return torch.nn.functional.embedding(x[0, 0, 0].mul(3).long() * 2 + 1, self.conv(x)[0].flatten(1))

    looked, shape = Looked().eval().requires_grad_(False), (1, 3, 16, 16)
    tables = replace(program, module=looked, inputs={"x": {}}, example=lambda number: (torch.rand(*shape),))
    seen = [{"x": np.random.default_rng(n).random(shape, np.float32)} for n in range(4)]
    write(tables, "static", seen, manifest, small, large)
    x = torch.rand(*shape)
    assert 0 < (runner(small)(x) - looked(x)).abs().mean() < 0.02 * looked(x).abs().mean()

    class Waves(torch.nn.Module):
        def forward(self, x):
            return x.sin()

    waves = replace(program, module=Waves(), inputs={"x": {}}, example=lambda number: (torch.rand(2, 3),))
    with pytest.raises(ValueError, match=r"^int8: nothing of this model could be quantised"):
        write(waves, "static", [{"x": np.zeros((2, 3), np.float32)}], manifest, small, large)


def test_ways_that_phones_have_not(tmp_path: Path):
    from lorgnette.export import quantize_mobile

    program: Any = None
    small, large = tmp_path / "small.pte", tmp_path / "large.pte"
    with pytest.raises(ValueError, match=r"^int8: 'weights' is of \.onnx files; XNNPACK computes in 8 bits"):
        quantize_mobile.write(program, "weights", [], lambda found: MANIFEST, small, large)
    with pytest.raises(ValueError, match=r"^int8: there is nothing to calibrate on"):
        quantize_mobile.write(program, "static", [], lambda found: MANIFEST, small, large)
    assert list(tmp_path.iterdir()) == []
