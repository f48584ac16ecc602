"""A mesh decoder with its adapter merged, as torch.export, ONNX and TorchScript programs, each compared with PyTorch.

    python examples/export_decoder.py --adapter run/adapter --out exported      # needs onnx, onnxscript, onnxruntime
    python examples/export_decoder.py --out exported                            # a small one, trained in seconds

1. Load the base with its adapter. It is merged in a copy: what was trained stays as it is.
2. Write the programs. They take the features of an organ's voxels and what follows from the voxels' places
   (`mesh.places`); the number of voxels may differ from organ to organ.
3. Each is run on organs that were not there when it was written, before it is kept. The surface (`mesh.extract`) is
   found outside.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lorgnette import build, fit, load, load_recipe
from lorgnette.export import Report, export
from lorgnette.systems import mesh
from lorgnette.train.task import Task


def trained() -> tuple[Task, Any]:
    """The room's miniature, with an adapter, and its recipe."""
    recipe, batches, _ = mesh.tiny()
    task = build(recipe)
    fit(task, batches, recipe.train)
    return task, recipe


def main(argv: list[str] | None = None) -> dict[str, Report]:
    """What was measured of each program, by suffix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", help="a folder that training kept")
    parser.add_argument("--out", type=Path, default=Path("exported"))
    words = parser.parse_args(argv)
    task, recipe = (load(words.adapter), load_recipe(words.adapter)) if words.adapter else trained()
    reports = {}
    for suffix in (".pt2", ".onnx", ".ts"):
        reports[suffix] = report = export(task, recipe, words.out / f"decoder{suffix}")
        print(f"{report.format}: at most {report.difference:.1e} from PyTorch, for {len(report.differences)} organs")
    return reports


if __name__ == "__main__":
    main()
