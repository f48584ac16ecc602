"""Layers that most of an int8 model's error comes from, computed in float32 again: their weights stay in 8 bits.

What they read and give is what costs, such as the sum of all residual branches: of the shipped denoiser two layers of
23 make five sixths of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lorgnette.export.int8 import Sample
from lorgnette.export.session import session_of

if TYPE_CHECKING:
    import onnx

OPS = ("Conv", "MatMul", "Gemm")
FEW = 4
"""Samples that they are found by."""
SHARE = 0.15
"""Of the mean square error, from which on a layer is spared, and"""
TIMES = 3
"""so many times what it would be if all layers had their equal part."""


def spared(made: onnx.ModelProto, plain: onnx.ModelProto, samples: Sequence[Sample]) -> onnx.ModelProto:
    """An int8 model (QDQ) without the rounding that costs most.

    Args:
        made: the model; it stays as it is.
        plain: the same in float32.
        samples: inputs like those it is for.
    """
    few = samples[:: max(1, len(samples) // FEW)][:FEW]
    wanted = list(_answers(plain, few))

    def error(model: onnx.ModelProto) -> float:
        pairs = zip(_answers(model, few), wanted, strict=True)
        return float(np.mean([np.square(got - exact, dtype=np.float64).mean() for got, exact in pairs]))

    behind = {node.output[0]: node for node in made.graph.node if node.output}
    layers = [node.output[0] for node in made.graph.node if node.op_type in OPS and _is_rounded(node.input[0], behind)]
    whole = error(made)
    least = max(SHARE, TIMES / max(1, len(layers))) * whole
    return unrounded(made, {layer for layer in layers if whole - error(unrounded(made, {layer})) > least})


def unrounded(model: onnx.ModelProto, layers: set[str]) -> onnx.ModelProto:
    """A model whose layers with these outputs read and give what is not rounded; their weights stay rounded."""
    if not layers:
        return model
    made = type(model)()
    made.CopyFrom(model)
    nodes = made.graph.node
    behind = {node.output[0]: node for node in nodes if node.output}

    def exact(name: str) -> str:
        return behind[behind[name].input[0]].input[0] if _is_rounded(name, behind) else name

    for node in nodes:
        if node.output and node.output[0] in layers:
            node.input[0] = exact(node.input[0])
        node.input[:] = [exact(name) if exact(name) in layers else name for name in node.input]
    while True:  # roundings that nobody reads
        read = {name for node in nodes for name in read_by(node)} | {entry.name for entry in made.graph.output}
        used = [node for node in nodes if not read.isdisjoint(node.output)]
        if len(used) == len(nodes):
            kept = [entry for entry in made.graph.initializer if entry.name in read]
            del made.graph.initializer[:]
            made.graph.initializer.extend(kept)
            return made
        del nodes[:]
        nodes.extend(used)


def read_by(node: onnx.NodeProto) -> set[str]:
    """Names of all that a node reads, in its loop as well."""
    inside = {name for entry in node.attribute for inner in entry.g.node for name in read_by(inner)}
    outs = {out.name for entry in node.attribute for out in entry.g.output}
    return {*node.input, *inside, *outs}


def _is_rounded(name: str, behind: dict[str, onnx.NodeProto]) -> bool:
    """Whether it comes out of a rounding: QuantizeLinear, DequantizeLinear."""
    node = behind.get(name)
    before = None if node is None or node.op_type != "DequantizeLinear" else behind.get(node.input[0])
    return before is not None and before.op_type == "QuantizeLinear"


def _answers(model: onnx.ModelProto, samples: Sequence[Sample]) -> Iterable[np.ndarray]:
    session = session_of(model.SerializeToString(), "the model")
    for sample in samples:
        yield np.asarray(session.run(None, dict(sample))[0])
