"""A mesh decoder with its adapter merged, as torch.export, ONNX and TorchScript programs, each compared with PyTorch.

    python examples/export_decoder.py --adapter run/adapter --out exported      # needs onnx, onnxscript, onnxruntime
    python examples/export_decoder.py --out exported                            # a small one, trained in seconds

1. Load the base with its adapter, and merge a copy: what was trained stays as it is.
2. Write the programs. They take the features of an organ's voxels and what follows from the voxels' places
   (`mesh.places`); the number of voxels may differ from organ to organ.
3. Run each on an organ that was not there when it was written. The surface (`mesh.extract`) is found outside.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lorgnette import build, fit, load, lora
from lorgnette.systems import mesh
from lorgnette.systems.mesh.samples import collate, make_sample
from lorgnette.train.task import Task

NAMES = ["feats", *mesh.Places._fields]


def organ(half_axes: tuple[int, int, int], resolution: int) -> tuple[Tensor, Tensor]:
    """Voxels and features of an ellipsoid, bright in a dark scan."""
    grid = np.indices((24, 24, 24)) - 11.5
    mask = ((grid / np.array(half_axes).reshape(3, 1, 1, 1)) ** 2).sum(0) < 1
    batch = collate([make_sample(mask, np.diag([2.0, 2, 2, 1]), np.where(mask, 160.0, -80.0), resolution)])
    return batch["coords"], batch["feats"]


def inputs(model: mesh.SLatMeshDecoder, coords: Tensor, feats: Tensor) -> tuple[Tensor, ...]:
    """What the programs take."""
    return feats, *mesh.places(model, coords)


def export(model: mesh.SLatMeshDecoder, example: tuple[Tensor, ...], out: Path) -> dict[str, Path]:
    """Write the programs; name -> file."""
    out.mkdir(parents=True, exist_ok=True)
    files = {name: out / f"decoder.{name}" for name in ("pt2", "onnx", "torchscript.pt")}
    trunk = mesh.Trunk(model).eval()
    sizes = [dict.fromkeys(range(tensor.ndim), torch.export.Dim.AUTO) for tensor in example]  # but for what is fixed
    program = torch.export.export(trunk, example, dynamic_shapes=(sizes[0], tuple(sizes[1:])))
    torch.export.save(program, files["pt2"])
    torch.onnx.export(program, (), files["onnx"], dynamo=True, input_names=NAMES, output_names=["values"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.trace(trunk, example, check_trace=False), files["torchscript.pt"])
    return files


def run(files: dict[str, Path], given: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What each program answers."""
    import onnxruntime

    session = onnxruntime.InferenceSession(files["onnx"], providers=["CPUExecutionProvider"])
    wanted = {entry.name for entry in session.get_inputs()}
    feed = {name: tensor.numpy() for name, tensor in zip(NAMES, given, strict=True) if name in wanted}
    return {
        "torch.export": torch.export.load(files["pt2"]).module()(*given),
        "ONNX": torch.from_numpy(session.run(None, feed)[0]),
        "TorchScript": torch.jit.load(str(files["torchscript.pt"]))(*given),
    }


def trained() -> Task:
    """The room's miniature, with an adapter."""
    recipe, batches, _ = mesh.tiny()
    task = build(recipe)
    fit(task, batches, recipe.train)
    return task


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Largest difference of each program from PyTorch, by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", help="a folder that training kept")
    parser.add_argument("--out", type=Path, default=Path("exported"))
    words = parser.parse_args(argv)
    task = load(words.adapter) if words.adapter else trained()
    model = lora.merge_lora_weights(task.model, inplace=False)
    assert isinstance(model, mesh.SLatMeshDecoder)
    written_for, other = (organ(axes, model.resolution) for axes in ((9, 7, 8), (6, 10, 10)))
    model.requires_grad_(False)
    files = export(model, inputs(model, *written_for), words.out)
    wanted = task.eval().model(*other)[1].detach()
    answers = run(files, inputs(model, *other))
    apart = {name: float((answer - wanted).abs().max()) for name, answer in answers.items()}
    for name, difference in apart.items():
        print(f"{name}: at most {difference:.1e} from PyTorch with the adapter, values up to {wanted.abs().max():.2f}")
    return apart


if __name__ == "__main__":
    main()
