"""ONNX: a graph that ONNX Runtime and many others run, without PyTorch and without this package's code (`.onnx`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from lorgnette.export.manifest import KEY, Manifest
from lorgnette.export.program import first_line, quietly, traced
from lorgnette.systems.protocol import Program

if TYPE_CHECKING:
    import onnx

SUFFIXES = (".onnx",)
OPSET = 20  # the first with a sampler of volumes
MAX_BYTES = 2**31 - 2**20  # protocol buffers end there


def write(program: Program, manifest: Manifest, file: Path) -> None:
    """Write an `.onnx` file.

    Raises:
        ValueError: ONNX is not installed, cannot express the network, or the file would be too large, in one line.
    """
    check_installed()
    save(converted(program), manifest, file)


def check_installed() -> None:
    """Refuse to work without ONNX, in one line."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'lorgnette[export]'") from None


def converted(program: Program) -> onnx.ModelProto:
    """A program as ONNX has it, with names for its free axes."""
    model = converted_graph(traced(program), list(program.inputs), program.output)
    _name_axes(model, program)
    return model


def converted_graph(graph: ExportedProgram, inputs: list[str], output: str) -> onnx.ModelProto:
    """A graph of torch.export as ONNX has it."""
    try:
        with quietly(), torch.no_grad():
            made = torch.onnx.export(
                graph,
                (),
                dynamo=True,
                input_names=inputs,
                output_names=[output],
                opset_version=OPSET,
                verbose=False,
                optimize=False,  # onnxscript's rules take `x + 1e-9` for `x`
            )
            assert made is not None
            _tidy(made.model)
            model = made.model_proto
    except Exception as error:  # of many kinds, and none of them promised
        raise ValueError(f"ONNX cannot express this network: {first_line(error)}") from error
    del model.graph.value_info[:]
    _strip(model.graph)
    for function in model.functions:
        _strip(function)
    return model


def save(model: onnx.ModelProto, manifest: Manifest, file: Path) -> None:
    """Write a model with its manifest, all in one file."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: manifest.to_json()})
    model.producer_name, model.producer_version, model.doc_string = KEY, manifest.version, ""
    if model.ByteSize() > MAX_BYTES:
        raise ValueError(
            f"{file}: {model.ByteSize():,} bytes do not fit into one ONNX file; --format program holds more"
        )
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())


def runner(file: Path) -> Callable[..., Tensor]:
    """The program of a file as a function of tensors, run by ONNX Runtime on as many cores as PyTorch uses."""
    from lorgnette.export.session import open_session

    session = open_session(file, torch.get_num_threads())
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = {name: np.ascontiguousarray(x.detach().numpy()) for name, x in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def _tidy(model: Any) -> None:
    """What follows from constants is computed, and what nobody needs is left out: no rule that changes a number."""
    from onnx_ir.passes import Sequential, common
    from onnxscript import optimizer

    optimizer.inline(model)
    optimizer.fold_constants(model)
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)


def _name_axes(model: onnx.ModelProto, program: Program) -> None:
    """The exporter calls axes s77; here they have the names that the room gives them."""
    names: dict[str, str] = {}
    for entry, axes in zip(model.graph.input, program.inputs.values(), strict=True):
        for axis, name in axes.items():
            names[entry.type.tensor_type.shape.dim[axis].dim_param] = name
    for entry in (*model.graph.input, *model.graph.output):
        for dim in entry.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param)


def _strip(graph: Any) -> None:
    """Take off what tells of the machine and the source: stack traces of every node."""
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        if node.op_type == "Scan":  # of a loop without outputs, an attribute of no type, which others cannot read
            kept = [entry for entry in node.attribute if entry.name != "scan_output_directions" or entry.ints]
            del node.attribute[:]
            node.attribute.extend(kept)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                del attribute.g.value_info[:]
                _strip(attribute.g)
