"""Make the network that completes organs from slices, and write it where it ships.

    LORGNETTE_DATA=... python tools/ship_completer.py src/lorgnette/systems/mesh/slices/base

Volumes: `medical/totalsegmentator/example_ct` of LORGNETTE_DATA. Kidneys and the liver are left out, so that they can
be asked for afterwards. Weights are stored as float16; they are computed with as float32. One thread.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lorgnette import fit
from lorgnette.common.files import atomic_write
from lorgnette.systems.mesh.slices import Completer, Completing, Examples, Source, source_of
from lorgnette.systems.mesh.volumes import read_image, read_labels
from lorgnette.train.batches import DrawnBatches
from lorgnette.train.config import TrainConfig
from lorgnette.train.events import Event, Stepped

HELD_OUT = ("kidney_left", "kidney_right", "liver")
LEAST = 500
"""Voxels of an organ that is learnt from."""


def sources(left_out: tuple[str, ...] = HELD_OUT, only: tuple[str, ...] = ()) -> list[Source]:
    """Organs of the example, cut out."""
    folder = Path(os.environ["LORGNETTE_DATA"]) / "medical" / "totalsegmentator" / "example_ct"
    scan = read_image(folder / "example_ct.nii.gz").values.astype(np.float32)
    labels = read_labels(folder / "example_seg_fast_force_split.nii.gz", only=only)
    chosen = [o for o in labels.organs if o.voxels >= LEAST and o.name not in left_out]
    return [source_of(organ.name, scan, labels.whole(organ), labels.spacing) for organ in chosen]


def trained(organs: list[Source], steps: int, seed: int) -> Completer:
    """A completer that has learnt from variants of organs."""
    torch.manual_seed(seed)
    task = Completing(Completer())
    settings = TrainConfig(
        steps=steps, lr=2e-3, warmup_steps=50, weight_decay=1e-4, ema_decay=0.99, seed=seed, device="cpu"
    )
    fit(task, DrawnBatches(Examples(organs), 2, seed), settings, [_told])
    assert isinstance(task.model, Completer)
    return task.model.eval()


def _told(event: Event) -> None:
    if isinstance(event, Stepped) and event.step % 100 == 0:
        print(event.step, {name: round(float(value), 4) for name, value in event.losses.items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the shipped one")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = trained(sources(), options.steps, options.seed)
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    options.out.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.out / "model.safetensors") as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    print(f"{options.out}: {(options.out / 'model.safetensors').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
