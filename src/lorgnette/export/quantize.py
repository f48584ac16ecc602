"""int8: an ONNX model whose convolutions and products with weights are computed, or kept, in 8 bits.

`static`: weights for each channel, activations by the range that they had on calibration data (QDQ form). What lies in
loops stays as it is, and so do coordinates, sampling, sines and norms: to quantise coordinates costs tens of dB. The
first and the last layers of every path stay in float32 too, and so do the sums beside a branch (residuals): of the
shipped super-resolution that is 7 dB of the noise.
`weights`: only the weights are kept in 8 bits; all is computed in float32.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.export.int8 import LEAST, MOST, NO_SAMPLES, NOTHING, Int8, Sample, inner
from lorgnette.export.manifest import Manifest
from lorgnette.export.onnx import check_installed, converted, converted_graph, save
from lorgnette.export.program import first_line, quietly, traced_freely
from lorgnette.export.sparing import OPS, read_by, spared
from lorgnette.systems.protocol import Program

if TYPE_CHECKING:
    import onnx


def quantised(model: onnx.ModelProto, way: str, samples: Sequence[Sample] = ()) -> tuple[onnx.ModelProto, Int8]:
    """A model in int8, and what of it is.

    Args:
        model: in float32; it stays as it is.
        way: 'static' or 'weights'.
        samples: inputs like those it is for, for 'static'.

    Raises:
        ValueError: no samples, or nothing was quantised, in one line.
    """
    check_installed()
    if way == "static" and not samples:
        raise ValueError(NO_SAMPLES)
    made = _static(model, samples) if way == "static" else _weights(model)
    layers, left = _by_kind(made)
    if not layers:
        raise ValueError(NOTHING)
    made = _shortened(made)
    runs = _computed_in_int8(made)
    if way == "static" and not runs:
        raise ValueError("int8: ONNX Runtime computes nothing of this model in 8 bits on this processor")
    return made, Int8(way, layers, left, runs, len(samples))


def write(
    program: Program,
    way: str,
    samples: Sequence[Sample],
    manifest: Callable[[Int8 | None], Manifest],
    file: Path,
    reference: Path,
) -> Int8:
    """Write an `.onnx` file in int8, and a reference in float32."""
    plain = converted(program)
    made, found = quantised(plain, way, samples)
    save(plain, manifest(None), reference)
    save(made, manifest(found), file)
    return found


class QuantizedModel:
    """A model in int8, called as the float one: by ONNX Runtime, on the processor. `save` keeps it as an ONNX file."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str], report: Int8):
        from lorgnette.export.session import session_of

        self.report, self.onnx = report, model
        self._names, self._session = names, session_of(model.SerializeToString(), "the model", torch.get_num_threads())

    def __call__(self, *inputs: Tensor) -> Tensor:
        given = {name: x.detach().numpy() for name, x in zip(self._names, inputs, strict=True)}
        return torch.from_numpy(self._session.run(None, given)[0])

    def save(self, file: Path | str) -> None:
        """Write it as an `.onnx` file."""
        from lorgnette.common.files import atomic_write

        with atomic_write(file) as temporary:
            temporary.write_bytes(self.onnx.SerializeToString())


def quantize_model(model: nn.Module, dataset: Iterable[Any]) -> QuantizedModel:
    """A model in int8, calibrated on a data set: convolutions and products with weights, all else in float32.

    Args:
        model: gives one tensor; adapters are folded in, in a copy.
        dataset: inputs like those it is for: a tensor each, or a tuple of the arguments; `MOST` at the most are read.
            An axis is free that is longer than 1 in the first of them, and that the model leaves free.

    Returns:
        What is called as the model is; its `report` says which layers are int8.

    Raises:
        ValueError: the data set is empty, the model cannot be exported, or nothing of it can be quantised, in one line.
    """
    check_installed()
    given = [x if isinstance(x, tuple) else (x,) for x, _ in zip(dataset, range(MOST), strict=False)]
    if not given:
        raise ValueError("dataset: holds nothing to calibrate on; give at least one input like those it is for")
    merged: Any = lora.merge_lora_weights(model, inplace=False).cpu().float().eval().requires_grad_(False)
    names = [f"input_{number}" for number in range(len(given[0]))]
    samples = [{name: x.detach().cpu().numpy() for name, x in zip(names, xs, strict=True)} for xs in given]
    plain = converted_graph(traced_freely(merged, given[0]), names, "output")
    made, report = quantised(plain, "static", samples)
    return QuantizedModel(made, names, report)


# --------------------------------------------------------------------------------------------------------- the two ways


def _static(model: onnx.ModelProto, samples: Sequence[Sample]) -> onnx.ModelProto:
    import onnx
    import onnx_ir
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(samples)

        def get_next(self) -> Any:
            return next(self.rest, None)

    chosen = _inner(model)
    with tempfile.TemporaryDirectory() as folder, quietly():
        out = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                _apart(model, chosen),
                out,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(OPS),
                nodes_to_quantize=sorted(chosen),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # of many kinds, and none of them promised
            raise ValueError(f"int8: ONNX Runtime cannot quantise this model: {first_line(error)}") from error
        made = onnx_ir.from_proto(onnx.load(str(out)))
        made.graph.sort()  # the quantiser's own order forgets what loops read from outside
        return spared(onnx_ir.to_proto(made), model, samples)


def _weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each weight as int8 with a scale for each output channel, and a DequantizeLinear behind it."""
    from onnx import helper, numpy_helper

    made = _copy(model)
    graph, nodes = made.graph, []
    names = {entry.name: entry for entry in graph.initializer}
    axes = {node.input[1]: _channel_axis(node) for node in graph.node if node.op_type in OPS and len(node.input) > 1}
    for name, axis in axes.items():
        if name not in names or np.prod(names[name].dims) < LEAST:
            continue
        value = numpy_helper.to_array(names[name]).astype(np.float32)
        axis %= value.ndim
        others = tuple(number for number in range(value.ndim) if number != axis)
        scale = np.maximum(np.abs(value).max(others, keepdims=True) / 127, np.finfo(np.float32).tiny)
        levels = np.clip(np.round(value / scale), -127, 127).astype(np.int8)
        graph.initializer.remove(names[name])
        graph.initializer.extend(
            [
                numpy_helper.from_array(levels, f"{name}_quantized"),
                numpy_helper.from_array(scale.ravel(), f"{name}_scale"),
            ]
        )
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_quantized", f"{name}_scale"], [name], axis=axis))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    return made


def _inner(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that are quantised."""
    sizes = {entry.name: int(np.prod(entry.dims)) for entry in model.graph.initializer}
    large = {n.name for n in model.graph.node if n.op_type in OPS and sizes.get(n.input[1], 0) >= LEAST}
    return inner([(node.name, read_by(node), set(node.output)) for node in model.graph.node], large)


def _apart(model: onnx.ModelProto, chosen: set[str]) -> onnx.ModelProto:
    """With an Identity before each layer that shares its input: else the quantiser hands 8 bits to the others too."""
    from onnx import helper

    made = _copy(model)
    uses = Counter(name for node in made.graph.node for name in read_by(node))
    nodes = list(made.graph.node)
    del made.graph.node[:]
    for node in nodes:
        if node.name in chosen and uses[node.input[0]] > 1:
            own = f"{node.input[0]}_of_{node.name}"
            made.graph.node.append(helper.make_node("Identity", [node.input[0]], [own], name=f"apart_{node.name}"))
            node.input[0] = own
        made.graph.node.append(node)
    return made


def _channel_axis(node: onnx.NodeProto) -> int:
    """Where the output channels of its weights are."""
    turned = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if node.op_type == "Conv" or turned else -1


# ----------------------------------------------------------------------------------------------------- what was reached


def _by_kind(model: onnx.ModelProto) -> tuple[dict[str, str], dict[str, str]]:
    """Layers with int8 weights and those with others: name -> operation."""
    import onnx

    graph = model.graph
    kinds = {entry.name: entry.data_type for entry in graph.initializer}
    behind = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    layers: dict[str, str] = {}
    left: dict[str, str] = {}

    def look(nodes: Iterable[onnx.NodeProto], where: str) -> None:
        for node in nodes:
            if node.op_type in OPS and len(node.input) > 1:
                weight = behind.get(node.input[1], node.input[1])
                name = node.input[1].removesuffix("_DequantizeLinear_Output").removesuffix(".weight")
                if kinds.get(weight) == onnx.TensorProto.INT8:
                    layers[name] = node.op_type
                elif weight in kinds:
                    left[name] = f"{node.op_type}{where}"
            for entry in node.attribute:
                look(entry.g.node, " in a loop")

    look(graph.node, "")
    return layers, left


def _computed_in_int8(model: onnx.ModelProto) -> dict[str, int]:
    """What ONNX Runtime makes of it on this processor, as it says itself."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath).graph.node
    return dict(
        Counter(n.op_type for n in nodes if n.op_type.startswith(("QLinear", "QGemm")) or "Integer" in n.op_type)
    )


def _shortened(model: onnx.ModelProto) -> onnx.ModelProto:
    """With short names for all that is neither input nor output: of a small network they are a quarter of the file."""
    kept = {entry.name for entry in (*model.graph.input, *model.graph.output)}
    names: dict[str, str] = {}

    def short(name: str) -> str:
        return name if not name or name in kept else names.setdefault(name, f"v{len(names):x}")

    def shorten(graph: onnx.GraphProto, top: bool) -> None:
        del graph.value_info[:]
        for entry in (*graph.initializer, *(() if top else (*graph.input, *graph.output))):
            entry.name = short(entry.name)
        for node in graph.node:
            node.name = ""
            for part in (node.input, node.output):
                part[:] = list(map(short, part))
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    shorten(attribute.g, False)

    made = _copy(model)
    shorten(made.graph, True)
    return made


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = type(model)()
    copied.CopyFrom(model)
    return copied
