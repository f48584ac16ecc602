"""int8 for ExecuTorch: convolutions and products with weights are computed in 8 bits by XNNPACK (PT2E).

Weights for each channel, activations by the range that they had on calibration data; which layers, `int8.inner` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lorgnette.export.executorch import as_file, check_installed as check_installed, graph_of, in_edge_form
from lorgnette.export.int8 import LEAST, NO_SAMPLES, NOTHING, Int8, Sample, inner
from lorgnette.export.manifest import Manifest, with_tail
from lorgnette.export.program import first_line, quietly
from lorgnette.systems.protocol import Program

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

aten: Any = torch.ops.aten
OPS = {aten.conv2d.default: "Conv", aten.linear.default: "Linear"}


def write(
    program: Program,
    way: str,
    samples: Sequence[Sample],
    manifest: Callable[[Int8 | None], Manifest],
    file: Path,
    reference: Path,
) -> Int8:
    """Write a `.pte` file in int8, and a reference in float32.

    Raises:
        ValueError: another way than 'static', no samples, or nothing of it is computed in 8 bits, in one line.
    """
    if way != "static":
        raise ValueError("int8: 'weights' is of .onnx files; XNNPACK computes in 8 bits: calibrate, 'static'")
    if not samples:
        raise ValueError(NO_SAMPLES)
    graph = graph_of(program)
    reference.write_bytes(with_tail(as_file(in_edge_form(graph)), manifest(None)))
    quantised, chosen, all_layers = _quantised(graph.module(), samples)
    edge = in_edge_form(graph_of(replace(program, module=quantised)))
    runs = _computed_in_int8(edge)
    if not runs:
        raise ValueError("int8: XNNPACK computes nothing of this model in 8 bits")
    left = {name: kind for name, kind in all_layers.items() if name not in chosen}
    found = Int8(way, {name: all_layers[name] for name in chosen}, left, runs, len(samples))
    file.write_bytes(with_tail(as_file(edge), manifest(found)))
    return found


def _quantised(module: Any, samples: Sequence[Sample]) -> tuple[GraphModule, list[str], dict[str, str]]:
    """A graph with quantised layers; the names of those; and all that have weights: name -> operation."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (  # pyright: ignore[reportMissingImports]
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import (  # pyright: ignore[reportMissingImports]
        convert_pt2e,
        prepare_pt2e,
    )

    layers = {node.name: node for node in module.graph.nodes if node.target in OPS and node.args[1].op == "get_attr"}
    order = [(node.name, {n.name for n in node.all_input_nodes}, {node.name}) for node in module.graph.nodes]
    chosen = inner(order, {name for name, node in layers.items() if node.args[1].meta["val"].numel() >= LEAST})
    if not chosen:
        raise ValueError(NOTHING)
    config = get_symmetric_quantization_config(is_per_channel=True)
    names = {name: str(node.args[1].target).removesuffix(".weight") for name, node in layers.items()}
    kinds = {names[name]: OPS[node.target] for name, node in layers.items()}
    quantizer = XNNPACKQuantizer().set_filter_function(lambda node: node.name not in layers or node.name in chosen)
    quantizer.transform_for_annotation = lambda model: model  # it makes floats of all numbers: of indices, too
    for kind in OPS:
        quantizer.set_operator_type(kind, config)
    try:
        with quietly(), torch.no_grad():
            prepared = prepare_pt2e(module, quantizer)
            for sample in samples:
                prepared(*map(torch.from_numpy, sample.values()))
            made = convert_pt2e(prepared)
    except Exception as error:  # of many kinds, and none of them promised
        raise ValueError(f"int8: PyTorch cannot quantise this model: {first_line(error)}") from error
    return made, [names[name] for name in layers if name in chosen], kinds


def _computed_in_int8(edge: Any) -> dict[str, int]:
    """What XNNPACK was given whose input and weights are 8 bits: operation -> how many."""

    def parts(graph_module: Any) -> Iterator[Any]:
        yield from (part for part in graph_module.children() if hasattr(part, "original_module"))

    def from_8_bits(node: Node) -> bool:
        return "dequantize" in str(node.target)

    found: Counter[str] = Counter()
    for part in parts(edge.exported_program().graph_module):
        for node in part.original_module.graph_module.graph.nodes:
            products = ("convolution", "linear", "addmm")
            if any(kind in str(node.target) for kind in products) and sum(map(from_8_bits, _origins(node))) >= 2:
                found[f"XNNPACK {next(kind for kind in products if kind in str(node.target))}"] += 1
    return dict(found)


def _origins(node: Node) -> list[Node]:
    """What a node reads, seen through views."""
    moves = ("view", "permute", "transpose", "t_copy", "squeeze")
    found = []
    for given in node.all_input_nodes:
        while any(word in str(given.target) for word in moves) and given.all_input_nodes:
            given = given.all_input_nodes[0]
        found.append(given)
    return found
