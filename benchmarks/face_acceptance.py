"""How often strangers are let in, by range of yaws, with thresholds of other persons.

    python benchmarks/face_acceptance.py

A default mapping learns from 400 invented heads. Thresholds are set on `--calibrate` others: one for all views, or one
for each range of yaws. Each of three sets of `--test` more is then asked which share of strangers comes through, as a
multiple of the rate that was wanted.
"""

from __future__ import annotations

import argparse

import torch

from lorgnette import build, fit
from lorgnette.systems import faceview
from lorgnette.systems.faceview.data import FaceViews, test_batch
from lorgnette.systems.faceview.scores import BUCKETS, bucket_name, calibrated, false_acceptance
from lorgnette.systems.faceview.task import compared
from lorgnette.train.batches import DrawnBatches
from lorgnette.train.config import TrainConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("calibrate", 1000), ("test", 400), ("steps", 150), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = TrainConfig(steps=options.steps, batch_size=64, lr=1e-3, seed=options.seed, device="cpu", clip_norm=1.0)
    task = build(faceview.Recipe(model=faceview.Model(num_layers=1, dim_feedforward=512), lora=None, train=train))
    learnt = FaceViews(faceview.invented(400, 6, seed=1), faceview.Data(preset="points"))
    fit(task, DrawnBatches(learnt, train.batch_size, train.seed), train)
    task.eval()
    batches = [
        test_batch(faceview.invented(number, 6, seed=seed))
        for number, seed in ((options.calibrate, 61), *((options.test, seed) for seed in (62, 63, 64)))
    ]
    print("| wanted | | " + " | ".join(bucket_name(*bucket) for bucket in BUCKETS) + " |")
    print("|---" * (len(BUCKETS) + 2) + "|")
    for mapped in (False, True):
        first, *others = (compared(task.predict(b) if mapped else b["src"], b) for b in batches)
        for far in (1e-2, 1e-3):
            calibration = calibrated(first, far)
            for name, limits in (("one threshold", calibration.overall), ("by range", calibration)):
                rates = [false_acceptance(found, limits) for found in others]
                cells = [[rate[bucket] / far for rate in rates] for bucket in rates[0]]
                shown = " | ".join(f"{min(cell):.2f} to {max(cell):.2f}" for cell in cells)
                print(f"| {far:g} | {'mapped' if mapped else 'as they are'}, {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
