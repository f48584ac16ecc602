"""`scripts/eval_medical.py`: `python -m lorgnette.compat.sam3dmed.eval_medical --checkpoint FILE --data_root DIR`."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from lorgnette.common.devices import to_device
from lorgnette.common.files import write_json
from lorgnette.common.modules import moved
from lorgnette.common.tensors import read_tensors
from lorgnette.compat.sam3dmed.lora import load_lora_state_dict, setup_lora_for_medical_finetuning
from lorgnette.compat.sam3dmed.train_medical import create_model, loader
from lorgnette.systems import mesh
from lorgnette.systems.mesh.recipe import SIZES
from lorgnette.systems.mesh.weights import from_upstream


def load_model(checkpoint: str, size: str, base: str, resolution: int) -> mesh.SLatMeshDecoder:
    """The decoder of a checkpoint: a base with an adapter-only checkpoint on it, or a merged model's tensors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind, or one that does not fit; one line says where.
    """
    content = read_tensors(checkpoint)
    if "lora_state_dict" not in content:
        told = {name: value for name, value in SIZES[size].items() if name not in ("model_channels", "num_blocks")}
        return from_upstream(content, **told, resolution=resolution)
    model = create_model(size, base, resolution)
    setup_lora_for_medical_finetuning(model, **content.get("lora", {}))
    load_lora_state_dict(model, content["lora_state_dict"])
    return model


def arguments() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(prog="eval_medical", description="Score a mesh decoder on organs of volumes.")
    add = parser.add_argument
    add("--checkpoint", required=True, help="of train_medical, or a merged model's state dict")
    add("--data_root", required=True, help="a folder of cases as TotalSegmentator has it")
    add("--split", default="", help="the split of meta.csv that is scored; unset: all")
    add("--organs", nargs="*", default=(), help="which organs; unset: all")
    add("--output_dir", default="results", help="where evaluation_results.json goes")
    add("--resolution", type=int, default=16)
    add("--features", choices=("scan", "mask"), default="scan")
    add("--size", default="small", help="tiny, small, medium or trellis")
    add("--base", default="shipped", help="what the adapter was trained on")
    add("--device", default="auto")
    return parser


@torch.no_grad()
def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score as the flags say: metric -> mean, median and so on over the organs."""
    words = arguments().parse_args(argv)
    words.batch_size, words.num_workers = 1, 0
    model = load_model(words.checkpoint, words.size, words.base, words.resolution)
    task = mesh.MeshDecoding(model, mesh.Model(), mesh.Data(resolution=words.resolution))
    device = next(to_device(task, words.device).eval().parameters()).device
    rows: dict[str, list[float]] = {}
    for batch in loader(words, words.split, shuffle=False):
        own = moved(batch, device)
        for metric, value in task.score(task.predict(own), own).items():
            rows.setdefault(metric, []).append(value)
    table = {metric: _summary(values) for metric, values in rows.items()}
    write_json(Path(words.output_dir) / "evaluation_results.json", {"checkpoint": words.checkpoint, "metrics": table})
    for metric, row in table.items():
        print(f"{metric}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    return table


def _summary(values: list[float]) -> dict[str, float]:
    return {
        "mean": statistics.fmean(values),
        "std": statistics.pstdev(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "count": len(values),
    }


if __name__ == "__main__":
    main()
