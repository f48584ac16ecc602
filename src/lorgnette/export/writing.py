"""`export`: a task as a file of another program, compared with the network before it is kept."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from torch import Tensor

from lorgnette import lora
from lorgnette.common.files import atomic_write
from lorgnette.common.identity import lasting_identity
from lorgnette.export.manifest import Manifest
from lorgnette.export.parity import TOLERANCE, differences, time_ratio
from lorgnette.recipe import recipe_to_dict
from lorgnette.systems import room_name, room_of
from lorgnette.systems.protocol import Program, RoomRecipe, without_own
from lorgnette.train.task import Task
from lorgnette.version import __version__

if TYPE_CHECKING:
    from lorgnette.export.int8 import Int8

TARGETS = {
    "onnx": "lorgnette.export.onnx",
    "program": "lorgnette.export.program",
    "torchscript": "lorgnette.export.torchscript",
    "executorch": "lorgnette.export.executorch",
    "inductor": "lorgnette.export.inductor",
}
"""Name -> the module that writes it; of one suffix, the first is meant where nobody says."""
INT8 = {"onnx": "lorgnette.export.quantize", "executorch": "lorgnette.export.quantize_mobile"}
"""Name -> the module that writes it in int8."""
Scored = Mapping[str, Mapping[str, float]]


class Target(Protocol):
    """A module of `TARGETS`."""

    SUFFIXES: tuple[str, ...]

    def write(self, program: Program, manifest: Manifest, file: Path) -> None: ...

    def runner(self, file: Path) -> Callable[..., Tensor]: ...


@dataclass(frozen=True)
class Report:
    """What was written, and how it answers."""

    file: str
    format: str
    bytes: int
    differences: Mapping[str, float]
    """Sizes of inputs that were not there when it was exported -> the largest difference from the network, as a share
    of the largest output (at least 1). Of a file for one size: that one, over other pictures."""
    time_ratio: float
    """Time of the file in units of PyTorch's, both on as many cores."""
    scores: Scored
    """'network' and 'exported' -> metric -> value; empty: nothing was named to score them on."""
    int8: Mapping[str, Any] | None = None
    """What was quantised (`lorgnette.export.int8.Int8`), with `bytes_ratio` and `time_ratio`: in units of the same
    file in float32. None: nothing."""

    @property
    def difference(self) -> float:
        """The largest of all."""
        return max(self.differences.values())


def export(
    task: Task,
    recipe: RoomRecipe,
    file: str | os.PathLike[str],
    format: str | None = None,
    score: Callable[[Mapping[str, Task]], Scored] | None = None,
    tolerance: float = TOLERANCE,
    int8: Literal["static", "weights"] | None = None,
    calibrate: Callable[[Mapping[str, Task]], object] | None = None,
    size: int | None = None,
    scale: float | None = None,
) -> Report:
    """Write a trained model, adapters folded in, as a file that other programs run; and find out how it answers.

    Args:
        task: from `lorgnette.load` or `lorgnette.build`; it stays as it is.
        recipe: that it was built by (`lorgnette.load_recipe`).
        file: to be written; one that answers otherwise than the network is not kept.
        format: a key of `TARGETS`. None: what the suffix says.
        score: scores tasks, row name -> metric -> value, such as a room's `evaluation` on a folder of held-out data.
            None: differences of numbers alone.
        tolerance: largest difference that is taken for rounding, as a share of the largest output; not asked of int8.
        int8: of 'onnx' and 'executorch': 'static': convolutions and products with weights are computed in 8 bits;
            'weights', of 'onnx': their weights are kept in 8 bits, and computed with in float32. None: all in float32.
        calibrate: for 'static': scores tasks on calibration data, as `score` does; what it feeds the network counts.
        size: of a room for pictures: the program takes squares of so many pixels, see `lorgnette.export.fixed.of_size`.
            None: any size.
        scale: with `size`, by how much a square may be enlarged at once. None: the usual factor.

    Returns:
        What was measured.

    Raises:
        ValueError: an unknown format, a network that cannot be expressed in it, a file that answers otherwise, or
            nothing that could be quantised; in one line.
    """
    file = Path(file)
    name, target = _target(file, format)
    if size is None and scale is not None:
        raise ValueError("scale: goes with size; a file for any size is for any scale")
    program = exportable(task, recipe)
    if size is not None:
        from lorgnette.export.fixed import of_size

        program = of_size(program, size, scale)
    if int8 is not None:
        return _export_int8(task, recipe, program, file, name, score, int8, calibrate)
    with atomic_write(file) as temporary:
        target.write(program, manifest_of(program, recipe), temporary)
        run = target.runner(temporary)
        apart = differences(program, run)
        if not (worst := max(apart.values())) <= tolerance:
            where = max(apart, key=apart.__getitem__)
            raise ValueError(
                f"{file}: not written: its answers differ by {worst:.1e} from the network's ({where}); {tolerance:g} is"
                " taken for rounding"
            )
        scores = {} if score is None else score(in_tasks(program, task, run))
        report = Report(str(file), name, temporary.stat().st_size, apart, time_ratio(program, run), scores)
    return report


def _export_int8(
    task: Task,
    recipe: RoomRecipe,
    program: Program,
    file: Path,
    format: str,
    score: Callable[[Mapping[str, Task]], Scored] | None,
    way: str,
    calibrate: Callable[[Mapping[str, Task]], object] | None,
) -> Report:
    if format not in INT8:
        raise ValueError(f"int8: {file}: {format} files are in float32; .onnx and .pte ones can be int8")
    if way == "static" and calibrate is None:
        raise ValueError("int8: 'static' is calibrated on data like those it is for; name some, or take 'weights'")
    from lorgnette.export.int8 import as_facts, samples_of

    target, int8 = target_of(format), import_module(INT8[format])
    int8.check_installed()
    samples = samples_of(program, calibrate) if calibrate and way == "static" else ()

    def manifest(found: Int8 | None) -> Manifest:
        return manifest_of(program, recipe, None if found is None else as_facts(found))

    other = file.with_suffix(f".float32{file.suffix}")
    with atomic_write(file) as temporary, atomic_write(other) as reference:
        found = int8.write(program, way, samples, manifest, temporary, reference)
        run, slow = target.runner(temporary), target.runner(reference)
        apart, scores = differences(program, run), {} if score is None else score(in_tasks(program, task, run))
        ratio, in_float = time_ratio(program, run), time_ratio(program, run, slow)
        size, before = temporary.stat().st_size, reference.stat().st_size
        told = asdict(found) | {"bytes_ratio": size / before, "time_ratio": in_float}
        report = Report(str(file), format, size, apart, ratio, scores, told)
    other.unlink()
    return report


def targets(suffix: str) -> list[str]:
    """The formats whose files end so."""
    return [name for name in TARGETS if suffix in target_of(name).SUFFIXES]


def target_of(name: str) -> Target:
    """The module that writes a format."""
    return cast(Target, import_module(TARGETS[name]))


def exportable(task: Task, recipe: RoomRecipe) -> Program:
    """The program of a copy of a task, on the processor, in float32, adapters folded in."""
    plain = copy.deepcopy(task).cpu().float().eval().requires_grad_(False)
    lora.merge_lora_weights(plain.model)
    program = room_of(recipe).program(plain)
    program.module.eval()
    return program


def in_tasks(program: Program, task: Task, run: Callable[..., Tensor]) -> dict[str, Task]:
    """The task beside one that answers by an exported program."""
    return {"network": task, "exported": program.answering(run)}


def manifest_of(program: Program, recipe: RoomRecipe, int8: Mapping[str, Any] | None = None) -> Manifest:
    """What a file says of itself."""
    data: Any = without_own(recipe.data)
    plain: Any = recipe
    return Manifest(
        room=room_name(recipe),
        recipe=recipe_to_dict(replace(plain, data=data)),
        weights=lasting_identity(program.module),
        inputs={name: {str(axis): length for axis, length in axes.items()} for name, axes in program.inputs.items()},
        output=program.output,
        version=__version__,
        facts=program.facts,
        pictures=program.pictures,
        int8=int8,
    )


def _target(file: Path, format: str | None) -> tuple[str, Target]:
    fitting = targets(file.suffix)
    if format is None:
        if not fitting:
            known = ", ".join(f"{suffix} ({name})" for name in TARGETS for suffix in target_of(name).SUFFIXES)
            raise ValueError(f"{file}: its suffix says no format; there is {known}")
        return fitting[0], target_of(fitting[0])
    if format not in TARGETS:
        raise ValueError(f"format: {format!r} is not known; {', '.join(TARGETS)} are")
    if format not in fitting:
        raise ValueError(f"{file}: a {format} file ends in {' or '.join(target_of(format).SUFFIXES)}")
    return format, target_of(format)
