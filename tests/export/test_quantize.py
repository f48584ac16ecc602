"""int8 files really are int8, say which layers are, lose little, and never come out unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from lorgnette import lora
from lorgnette.export import export, quantize_model, read_manifest
from lorgnette.export.int8 import MOST, samples_of
from lorgnette.export.onnx import converted_graph
from lorgnette.export.program import traced_freely
from lorgnette.export.quantize import OPS, quantised
from lorgnette.export.session import session_of
from lorgnette.systems import room
from lorgnette.train.loop import evaluate


class Net(nn.Module):
    """Convolutions and a product, beside coordinates that sample, and a sum around a convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.second = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 48), (48, 48), (48, 16)))
        self.product, self.tiny, self.last = nn.Linear(16, 160), nn.Linear(2, 160), nn.Linear(160, 8)

    def forward(self, x, place):
        features = self.first(x).relu()
        features = self.second(features + self.inner(features))
        seen = nn.functional.grid_sample(features, place, align_corners=False).permute(0, 2, 3, 1)
        return self.last(self.product(seen) * torch.cos(self.tiny(place)))


def given(number: int, size: tuple[int, int] = (16, 20)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.rand(1, 3, *size, generator=generator), torch.rand(1, 9, 11, 2, generator=generator) * 2 - 1


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def plain(net: Net) -> onnx.ModelProto:
    return converted_graph(traced_freely(net, given(0)), ["x", "place"], "y")


def samples(count: int) -> list[dict[str, Any]]:
    return [{"x": x.numpy(), "place": place.numpy()} for x, place in map(given, range(count))]


def answer(model: onnx.ModelProto, sample: dict[str, Any]) -> np.ndarray:
    return np.asarray(session_of(model.SerializeToString(), "the model").run(None, sample)[0])


def test_inner_convolutions_and_products_and_nothing_else(plain: onnx.ModelProto):
    made, report = quantised(plain, "static", samples(4))
    assert (report.way, report.samples) == ("static", 4)
    assert sorted(report.layers.values()) == ["Conv", "Conv", "MatMul"]
    assert {"inner", "second"} < set(report.layers)
    assert sorted(report.left.values()) == ["Conv", "MatMul", "MatMul"]  # the first, the last, and that of coordinates
    assert "first" in report.left
    assert report.runs["QLinearConv"] == 2
    onnx.checker.check_model(made)
    for sample in samples(8)[4:]:
        wanted, got = answer(plain, sample), answer(made, sample)
        assert 0 < np.abs(got - wanted).mean() < 0.02 * np.abs(wanted).mean()
    assert onnx.TensorProto.INT8 in {entry.data_type for entry in made.graph.initializer if np.prod(entry.dims) >= 1024}
    behind = {name: node for node in made.graph.node for name in node.output}
    (sampler,) = (node for node in made.graph.node if node.op_type == "GridSample")
    assert sampler.input[1] == "place"  # straight from outside
    (cosine,) = (node for node in made.graph.node if node.op_type == "Cos")
    assert behind[cosine.input[0]].op_type == "Add"
    sums = [node for node in made.graph.node if node.op_type == "Add"]
    assert any(behind[name].op_type == "Relu" for node in sums for name in node.input if name in behind)


def test_weights_alone_are_rounded_to_127_levels_of_each_channel(plain: onnx.ModelProto, net: Net):
    made, report = quantised(plain, "weights")
    assert (report.way, report.runs, report.samples) == ("weights", {}, 0)
    assert {"first", "inner", "second"} < set(report.layers)
    assert list(report.left.values()) == ["MatMul"]  # of coordinates: 320 numbers
    sample = samples(9)[8]
    wanted, got = answer(plain, sample), answer(made, sample)
    assert 0 < np.abs(got - wanted).max() < 0.03 * np.abs(wanted).max()
    levels = [numpy_helper.to_array(e) for e in made.graph.initializer if e.data_type == onnx.TensorProto.INT8]
    (second,) = (value for value in levels if value.shape == (16, 48, 3, 3))
    scale = net.second.weight.abs().amax((1, 2, 3), keepdim=True).numpy() / 127
    np.testing.assert_array_equal(second, np.round(net.second.weight.numpy() / scale))
    assert (np.abs(second).max((1, 2, 3)) == 127).all()
    assert made.ByteSize() < 0.5 * plain.ByteSize()


def test_nothing_to_quantise_is_said(plain: onnx.ModelProto):
    class Waves(nn.Module):
        def forward(self, x):
            return x.sin()

    waves = converted_graph(traced_freely(Waves(), (torch.rand(1, 3),)), ["x"], "y")
    with pytest.raises(ValueError, match=r"^int8: nothing of this model could be quantised"):
        quantised(waves, "weights")
    with pytest.raises(ValueError, match=r"^int8: nothing of this model could be quantised"):
        quantised(waves, "static", [{"x": np.zeros((1, 3), np.float32)}])
    with pytest.raises(ValueError, match=r"^int8: there is nothing to calibrate on"):
        quantised(plain, "static")


def test_as_the_requirement_calls_it(tmp_path: Path):
    """`quantize_model(model, dataset)` gives what is called as the model is."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 3, 3, padding=1)).eval()
    lora.inject_lora(net, lora.LoRAConfig(r=2, target_modules=["0", "2"]))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter)) if "lora_B" in name else None
    images = [torch.rand(2, 3, 24, 20) for _ in range(5)]
    small = quantize_model(net, images)
    assert lora.is_adapted(net)
    assert list(small.report.layers.values()) == ["Conv", "Conv"]
    for size in ((24, 20), (33, 17)):  # sizes are free
        x = torch.rand(3, 3, *size)
        wanted = net(x).detach()
        assert 0 < (small(x) - wanted).abs().mean() < 0.03 * wanted.abs().mean()
    small.save(tmp_path / "a.onnx")
    session = session_of((tmp_path / "a.onnx").read_bytes(), "a")
    assert session.run(None, {"input_0": images[0].numpy()})[0].shape == (2, 3, 24, 20)
    with pytest.raises(ValueError, match=r"^dataset: holds nothing to calibrate on"):
        quantize_model(net, [])


def test_calibration_data_is_what_the_room_feeds_its_network(trained: Callable[..., Any]):
    task, _, test = trained("clip")
    program = room("clip").program(task)
    fed = samples_of(program, lambda tasks: [evaluate(tasks["network"], test) for _ in range(2 * MOST)])
    assert len(fed) == MOST
    assert fed[0]["image"].shape == (30, 3, 16, 16)
    np.testing.assert_array_equal(fed[0]["image"], test[0]["image"].numpy())


@pytest.mark.slow
def test_exported_in_int8(trained: Callable[..., Any], tmp_path: Path):
    task, recipe, test = trained("clip")

    def score(tasks: Any) -> Any:
        return {name: evaluate(each, test) for name, each in tasks.items()}

    for way, calibrate in (("static", score), ("weights", None)):
        report = export(task, recipe, tmp_path / f"{way}.onnx", score=score, int8=way, calibrate=calibrate)
        assert report.int8 is not None
        assert report.int8["bytes_ratio"] < 0.9
        assert report.int8["time_ratio"] > 0
        assert abs(report.scores["network"]["nll"] - report.scores["exported"]["nll"]) < 0.1
        manifest = read_manifest(tmp_path / f"{way}.onnx")
        assert manifest is not None
        assert manifest.int8 is not None
        assert manifest.int8["way"] == way
        assert manifest.int8["layers"] == len(report.int8["layers"]) >= 5
        assert set(report.int8["layers"].values()) <= set(OPS)
        json.dumps(report.int8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["static.onnx", "weights.onnx"]
    with pytest.raises(ValueError, match="int8: 'static' is calibrated on data"):
        export(task, recipe, tmp_path / "a.onnx", int8="static")
    with pytest.raises(ValueError, match=r"program files are in float32; \.onnx and \.pte ones can be"):
        export(task, recipe, tmp_path / "a.pt2", int8="weights")


def test_what_costs_most_is_spared(plain: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch):
    """Of three layers with about equal parts none; where the limit is lower, those above it, and their weights stay."""
    from lorgnette.export import sparing

    made, before = quantised(plain, "static", samples(4))
    monkeypatch.setattr(sparing, "TIMES", 0.0)
    monkeypatch.setattr(sparing, "SHARE", 0.4)
    better, after = quantised(plain, "static", samples(4))
    assert after.layers.keys() == before.layers.keys()
    assert 1 <= sum(after.runs.values()) < sum(before.runs.values()) == 3
    assert better.ByteSize() <= made.ByteSize()
    onnx.checker.check_model(better)

    def error(model: onnx.ModelProto) -> float:
        return float(np.mean([np.square(answer(model, x) - answer(plain, x)).mean() for x in samples(8)[4:]]))

    assert error(better) < 0.7 * error(made)
