"""ExecuTorch (`.pte`): what runs on phones and in other small machines, by XNNPACK where it can.

Memory is planned when the file is written, for the largest sizes that it will see: a free axis has at most `LARGEST`
entries, or as many as the room's own examples have.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.common.files import atomic_write
from lorgnette.export.manifest import Manifest, with_tail
from lorgnette.export.parity import TOLERANCE, UNSEEN
from lorgnette.export.program import first_line, quietly, traced, traced_freely
from lorgnette.systems.protocol import Program

if TYPE_CHECKING:
    from torch.export import ExportedProgram

SUFFIXES = (".pte",)
LARGEST = 256
PRODUCTS = ("Addmm", "Convolution", "Linear")
ELEMENTWISE = (
    "Add",
    "Clamp",
    "DeQuantizedPerTensor",
    "Gelu",
    "LeakyReLU",
    "Mul",
    "QuantizedPerTensor",
    "ReLU",
    "Sigmoid",
    "Sub",
)
"""What XNNPACK computes where several axes are free: it refuses to give more than one another place, as views of
pictures do."""


def write(program: Program, manifest: Manifest, file: Path) -> None:
    """Write a `.pte` file.

    Raises:
        ValueError: ExecuTorch is not installed, or cannot express the network, in one line.
    """
    check_installed()
    file.write_bytes(with_tail(lowered(graph_of(program)), manifest))


def graph_of(program: Program) -> ExportedProgram:
    """Its graph, the free axes no longer than memory is planned for."""
    examples = [program.example(number) for number in range(1 + UNSEEN)]
    most: dict[str, int] = {}
    for number, axes in enumerate(program.inputs.values()):
        for axis, name in axes.items():
            seen = max(example[number].shape[axis] for example in examples)
            most[name] = max(LARGEST, most.get(name, 0), seen)
    with quietly():
        plain: Any = copy.deepcopy(program.module)
    plain.to(memory_format=torch.contiguous_format)  # XNNPACK chooses itself what is channels_last
    return traced(replace(program, module=plain), most)


def check_installed() -> None:
    """Refuse to work without ExecuTorch, in one line."""
    try:
        with quietly():
            import executorch.exir  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("executorch is not installed: pip install 'lorgnette[mobile]'") from None


def lowered(graph: ExportedProgram) -> bytes:
    """A graph of torch.export as a file of ExecuTorch has it."""
    return as_file(in_edge_form(graph))


def in_edge_form(graph: ExportedProgram) -> Any:
    """A graph of torch.export with what XNNPACK computes given to it."""
    if has_loops(graph):
        raise ValueError(
            "ExecuTorch has no loops of free length, as this network needs for any size; --size 128 (size=128) works"
        )
    with _or_one_line():
        from executorch.backends.xnnpack.partition.config import gemm_configs, generic_node_configs  # pyright: ignore[reportMissingImports]
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # pyright: ignore[reportMissingImports]
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower  # pyright: ignore[reportMissingImports]

        kinds = [getattr(gemm_configs, f"{name}Config") for name in PRODUCTS]
        kinds += [getattr(generic_node_configs, f"{name}Config") for name in ELEMENTWISE]
        chosen = None if len(graph.range_constraints) <= 1 else kinds
        # ExecuTorch 1.5 looks at the length of what `chunk` and `unbind` give to check it, which fixes a free axis.
        unchecked = EdgeCompileConfig(_check_ir_validity=False)
        return to_edge_transform_and_lower(graph, partitioner=[XnnpackPartitioner(chosen)], compile_config=unchecked)


def has_loops(graph: ExportedProgram) -> bool:
    """Whether a loop of free length is in it."""
    return any(node.target is torch.ops.higher_order.scan for node in graph.graph.nodes)


def as_file(edge: Any) -> bytes:
    """What `in_edge_form` made as a file has it."""
    with _or_one_line():
        return edge.to_executorch().buffer


@contextmanager
def _or_one_line() -> Iterator[None]:
    try:
        with quietly(), torch.no_grad():
            yield
    except Exception as error:  # of many kinds, and none of them promised
        root: Any = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise ValueError(f"ExecuTorch cannot express this network: {first_line(root)}") from error


def runner(file: Path) -> Callable[..., Tensor]:
    """The program of a file as a function."""
    with quietly():
        from executorch.runtime import Runtime  # pyright: ignore[reportMissingImports]

        forward: Any = Runtime.get().load_program(file).load_method("forward")

    def run(*inputs: Tensor) -> Tensor:
        try:
            return forward.execute([x.detach().contiguous() for x in inputs])[0].clone()
        except RuntimeError as error:
            sizes = ", ".join("x".join(map(str, x.shape)) for x in inputs)
            raise ValueError(f"ExecuTorch cannot run the program on {sizes}: {first_line(error)}") from None

    return run


def convert_for_mobile(model: nn.Module | str | Path, example_input: Any, output_path: str | Path) -> str | Path:
    """Write a network as an ExecuTorch program, adapters folded in, compared with the network before it is kept.

    Args:
        model: a network, which stays as it is; or the folder of an adapter or a whole model.
        example_input: a tensor, or a tuple of the arguments. An axis is free that is longer than 1 and that the network
            leaves free: up to `LARGEST`, or to its length here. None is of a network that would need loops for that.
        output_path: to be written.

    Returns:
        `output_path`.

    Raises:
        ValueError: ExecuTorch is missing or cannot express the network, or answers otherwise, in one line.
    """
    check_installed()
    if not isinstance(model, nn.Module):
        from lorgnette.checkpoint import load

        model = load(model).model
    merged: Any = lora.merge_lora_weights(model, inplace=False).cpu().float().eval().requires_grad_(False)
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    longest = max((length for x in arguments for length in x.shape), default=1)
    with atomic_write(output_path) as temporary:
        graph = traced_freely(merged, arguments, max(LARGEST, longest))
        temporary.write_bytes(lowered(traced_freely(merged, arguments, 1) if has_loops(graph) else graph))
        with torch.no_grad():
            wanted, got = merged(*arguments), runner(temporary)(*arguments)
        if not (apart := float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1))) <= TOLERANCE:
            raise ValueError(f"{output_path}: not written: its answers differ by {apart:.1e} from the network's")
    return output_path
