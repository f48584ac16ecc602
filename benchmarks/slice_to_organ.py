"""From a scan and masks on 1, 3 or 5 slices to the whole organ: two baselines, the network, its adapter, the decoder.

    LORGNETTE_DATA=... python benchmarks/slice_to_organ.py --json slice_to_organ.json --picture slices.jpg

Dice on the scan's grid. Both kidneys and the liver are of TotalSegmentator's example (3 mm), from which the network
learnt without them: no other public scan there has them. A vertebra and an aorta are of another patient (1.5 mm), of
whom it saw nothing. Slices are axial, in the middle of 1, 3 or 5 equal parts of the organ. `--networks` compares
completers of several seeds, made by `tools/ship_completer.py`. Volumes: `medical/totalsegmentator` of LORGNETTE_DATA.
One thread.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorgnette import build, fit, lora
from lorgnette.images.file import Image, write_image
from lorgnette.systems import mesh
from lorgnette.systems.mesh.metrics import overlap_scores
from lorgnette.systems.mesh.picture import draw
from lorgnette.systems.mesh.predict import decode_sample
from lorgnette.systems.mesh.slices import Completing, Examples, Given, Source, cut, load_completer, source_of
from lorgnette.systems.mesh.slices.latents import sample_from_slices
from lorgnette.systems.mesh.slices.predict import completed
from lorgnette.systems.mesh.slices.weights import SHIPPED
from lorgnette.systems.mesh.surface import surfaces, voxels
from lorgnette.systems.mesh.volumes import Labels, read_image, read_labels
from lorgnette.systems.mesh.volumes.labels import organs_of
from lorgnette.train.batches import DrawnBatches
from lorgnette.train.config import TrainConfig

COUNTS = (1, 3, 5)
FILES = {
    "example_ct/example_ct": dict.fromkeys(
        ("kidney_left", "kidney_right", "liver"), "example_ct/example_seg_fast_force_split"
    ),
    "aorta_report/ct_cropped": {name: f"aorta_report/{name}" for name in ("vertebrae_T12", "aorta")},
}
"""Scan -> organ -> file of its mask."""
OTHER = {"kidney_left": "kidney_right", "kidney_right": "kidney_left"}
"""Which side an adapter learns from that is scored on the other."""
TARGETS = r"first|up\.0\.convolutions\.\d|head|given"
SHOWN = ("kidney_left", "liver")

Mask = NDArray[np.bool_]
Rows = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Organ:
    """An organ of a scan, whole."""

    scan: NDArray[np.float32]
    mask: Mask
    affine: NDArray[np.float64]
    spacing: NDArray[np.float64]

    def some(self, count: int) -> Given:
        """Slices of it."""
        given = cut(self.scan, self.mask, self.spacing, count)
        assert given is not None
        return given

    def dice(self, found: Mask) -> float:
        return overlap_scores(found, self.mask)["dice"]


def organs() -> dict[str, Organ]:
    """The organs that are asked for, by name."""
    folder, found = Path(os.environ["LORGNETTE_DATA"]) / "medical" / "totalsegmentator", {}
    for scan, masks in FILES.items():
        values = read_image(folder / f"{scan}.nii.gz").values.astype(np.float32)
        for name, file in masks.items():
            labels = read_labels(folder / f"{file}.nii.gz", only=[name])
            found[name] = Organ(values, labels.whole(labels.organs[0]), labels.affine, labels.spacing)
    return found


def adapted(network: torch.nn.Module, source: Source, steps: int) -> dict[str, Any]:
    """The network with an adapter that has learnt from one organ; its share of the parameters, and the seconds."""
    torch.manual_seed(0)
    task: Any = Completing(network)  # type: ignore[arg-type]
    lora.inject_lora(task.model, lora.LoRAConfig(r=1, lora_alpha=2, target_modules=TARGETS))
    started = time.perf_counter()
    settings = TrainConfig(steps=steps, lr=5e-3, warmup_steps=10, seed=0, device="cpu")
    fit(task, DrawnBatches(Examples([source]), 2, 0), settings)
    count = lora.count_parameters(task.model)
    share = count.lora / (count.total - count.lora)
    return {"network": task.model.eval(), "share": share, "seconds": time.perf_counter() - started}


def decoded(organ: Organ, given: Given, network: Any, task: mesh.MeshDecoding) -> Mask:
    """What the decoder makes of the network's latents, as voxels; the given slices stay."""
    sample = sample_from_slices(given, organ.affine, network, task.data.resolution)
    found = voxels(decode_sample(task, sample), organ.affine, given.scan.shape)
    found[:, :, given.numbers] = np.moveaxis(given.sections, 0, 2)
    return found


def rows_of(found: dict[str, Organ], networks: list[Any], adapter_steps: int) -> Rows:
    """Dice by method, organ and number of slices: a list over networks."""
    frozen: Any = build(mesh.Recipe(lora=None)).eval()
    rows: Rows = {}

    def note(method: str, name: str, count: int, mask: Mask) -> None:
        rows.setdefault(method, {}).setdefault(f"{name}, {count}", []).append(found[name].dice(mask))

    for name, organ in found.items():
        for count in COUNTS:
            given = organ.some(count)
            note("extrude", name, count, completed(given, "extrude"))
            note("interpolate", name, count, completed(given, "interpolate"))
            for network in networks:
                note("network", name, count, completed(given, "network", network))
                note("network, decoder", name, count, decoded(organ, given, network, frozen))
    for network in networks if adapter_steps else ():
        for name, other in OTHER.items():
            source = source_of(other, found[other].scan, found[other].mask, found[other].spacing)
            made = adapted(copy.deepcopy(network), source, adapter_steps)
            print(f"adapter from {other}: {made['share']:.3%} of the network, {made['seconds']:.0f} s", flush=True)
            for count in COUNTS:
                mask = completed(found[name].some(count), "network", made["network"])
                note("network, adapter of the other side", name, count, mask)
    return rows


def picture(found: dict[str, Organ], network: Any, path: Path) -> None:
    """Organs from three slices: extruded, interpolated, by the network, and the truth."""
    rows = []
    for name in SHOWN:
        organ = found[name]
        masks = [completed(organ.some(3), method, network) for method in ("extrude", "interpolate", "network")]
        labels = [organs_of(mask.astype(np.uint8), {1: name}, name) for mask in (*masks, organ.mask)]
        meshes = [next(surfaces(Labels(each, organ.mask.shape, organ.affine))) for each in labels]
        rows.append(np.concatenate([draw([one], 300, turn=20) for one in meshes], 1))
    write_image(path, Image(np.concatenate(rows) / 255))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, nargs="+", default=[SHIPPED], help="folders; unset: the shipped one")
    parser.add_argument("--adapter-steps", type=int, default=0, help="also train adapters of one kidney for the other")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    words = parser.parse_args()
    torch.set_num_threads(1)
    networks, found = [load_completer(folder / "model.safetensors") for folder in words.networks], organs()
    if words.picture:
        picture(found, networks[0], words.picture)
    rows = rows_of(found, networks, words.adapter_steps)
    columns = [f"{name}, {count}" for name in found for count in COUNTS]
    print(f"| | {' | '.join(columns)} |")
    for method, scores in rows.items():
        ends = [sorted({f"{end(scores[c]):.3f}" for end in (min, max)}) if c in scores else [""] for c in columns]
        print(f"| {method} | {' | '.join(' to '.join(each) for each in ends)} |")
    if words.json:
        words.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
