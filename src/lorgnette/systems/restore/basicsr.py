"""BasicSR's option files as settings of this room. Imports no torch.

What has a counterpart here is translated; what only says how that program runs (workers, loggers, names) is left
out; anything else is listed, so that nothing is dropped in silence.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from lorgnette.files import nearest
from lorgnette.settings import read_yaml
from lorgnette.systems.restore.recipe import Model

TASKS = {"denoising_color": "denoise", "denoising_gray": "denoise", "CAR": "jpeg", "SR": "sr"}
LOSSES = {"L1Loss": "l1", "CharbonnierLoss": "charbonnier"}
OPTIMIZERS = {"Adam": "adam", "AdamW": "adamw", "SGD": "sgd"}
RUNNING = {
    "": ("name", "model_type", "num_gpu", "dist_params", "rank", "world_size"),
    "dataset": ("name", "type", "io_backend", "filename_tmpl", "use_shuffle", "dataset_enlarge_ratio", "prefetch_mode",
                "color", "mean", "std", "phase"),
    "network_g": ("type", "img_size", "window_size", "patch_size"),
    "path": ("strict_load_g", "param_key_g", "resume_state", "root"),
    "optim_g": (),
    "scheduler": (),
    "pixel_opt": ("loss_weight", "reduction"),
    "train": ("use_grad_clip",),
    "val": ("save_img", "suffix", "metrics", "pbar", "grids"),
    "logger": ("print_freq", "use_tb_logger", "wandb"),
}  # fmt: skip
"""What is known and means nothing here, by section."""


def read_options(path: str | os.PathLike[str]) -> tuple[dict[str, dict[str, Any] | None], list[str]]:
    """The settings of an option file, as nested tables of a `Recipe`, and the names of what was not understood.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no option file for MambaIR, or asks for what there is not; one line.
    """
    return translate(read_yaml(path), str(path))


def translate(options: Mapping[str, Any], source: str) -> tuple[dict[str, dict[str, Any] | None], list[str]]:
    """As `read_options`, of options that were read already."""
    network = _Section(options.get("network_g"), "network_g", source)
    if (kind := network.take("type", None)) != "MambaIR":
        raise ValueError(f"{source}: network_g.type: {kind!r} is not built here; 'MambaIR' is")
    model = {field.name: network.take(field.name) for field in fields(Model) if field.name in network.values}
    model |= {"upscale": 2} if "upscale" not in model else {}  # upstream's default
    paths = _Section(options.get("path"), "path", source)
    model["base"] = paths.take("pretrain_network_g", None) or "none"

    datasets = dict(options.get("datasets") or {})
    training = _Section(datasets.pop("train", None), "datasets.train", source)
    held_out = next(iter(datasets), None)
    testing = _Section(datasets.get(held_out) if held_out else None, f"datasets.{held_out}", source)
    data = _data(training, testing, int(model["upscale"]), source)
    data["grey"] = model.get("in_chans", 3) == 1

    section = _Section(options.get("train"), "train", source)
    loss = _Section(section.take("pixel_opt", None), "train.pixel_opt", source)
    data["loss"] = _one_of(loss.take("type", "L1Loss"), LOSSES, "train.pixel_opt.type", source)
    train = _train(section, training, source)
    val = _Section(options.get("val"), "val", source)
    logger = _Section(options.get("logger"), "logger", source)
    for name, value in (("eval_every", val.take("val_freq")), ("save_every", logger.take("save_checkpoint_freq"))):
        train |= {name: int(value)} if value else {}
    train["seed"] = int(options.get("manual_seed") or 0)
    known = {*RUNNING[""], "scale", "manual_seed", "datasets", "network_g", "path", "train", "val", "logger"}
    rest = [str(name) for name in options if name not in known]
    for part in (network, paths, training, testing, section, loss, val, logger):
        rest += part.rest()
    return {"model": model, "data": data, "lora": None, "train": train}, rest


def _data(training: _Section, testing: _Section, scale: int, source: str) -> dict[str, Any]:
    data: dict[str, Any] = {"scale": scale}
    kind = training.take("task", "SR" if scale > 1 else "denoising_color")
    data["degradation"] = _one_of(kind, TASKS, "datasets.train.task", source)
    gt, lq = training.take("dataroot_gt", None), training.take("dataroot_lq", None)
    if lq and lq != gt:
        if isinstance(gt, list) or isinstance(lq, list):
            raise ValueError(f"{source}: datasets.train.dataroot_lq: pairs are read from one folder each, not a list")
        data |= {"lq": lq, "gt": gt}
    elif gt:
        data["root"] = gt
    if (noise := training.take("noise", None)) is not None:
        data["sigmas"] = [float(noise), float(noise)]
    if (quality := training.take("quality", None)) is not None:
        data["qualities"] = [int(quality), int(quality)]
    if (size := training.take("gt_size", None)) is not None:
        data["patch"] = int(size) // scale
    flips, turns = training.take("use_hflip", True), training.take("use_rot", True)
    data["augment"] = bool(flips or turns)
    test, test_lq = testing.take("dataroot_gt", None), testing.take("dataroot_lq", None)
    testing.take("task", None)
    if test:
        data["test"] = test
        data |= {"test_lq": test_lq} if test_lq and test_lq != test else {}
    if (noise := testing.take("noise", None)) is not None:
        data["test_sigmas"] = [float(noise)]
    if (quality := testing.take("quality", None)) is not None:
        data["test_qualities"] = [int(quality)]
    return data


def _train(section: _Section, training: _Section, source: str) -> dict[str, Any]:
    optimizer = _Section(section.take("optim_g", None), "train.optim_g", source)
    scheduler = _Section(section.take("scheduler", None), "train.scheduler", source)
    train: dict[str, Any] = {
        "optimizer": _one_of(optimizer.take("type", "Adam"), OPTIMIZERS, "train.optim_g.type", source),
        "lr": float(optimizer.take("lr", 2e-4)),
        "weight_decay": float(optimizer.take("weight_decay", 0.0)),
        "betas": [float(beta) for beta in optimizer.take("betas", [0.9, 0.999])],
        "warmup_steps": max(0, int(section.take("warmup_iter", 0))),
        "ema_decay": float(section.take("ema_decay", 0.0)),
        "clip_norm": float(section.take("grad_clip_norm", 0.01)) if section.take("use_grad_clip", False) else 0.0,
    }
    if (total := section.take("total_iter", None)) is not None:
        train["steps"] = int(total)
    if scheduler.values:
        kind = scheduler.take("type", None)
        if kind != "MultiStepLR":
            raise ValueError(f"{source}: train.scheduler.type: {kind!r} is not known; 'MultiStepLR' is")
        train |= {"schedule": "multistep", "milestones": [int(step) for step in scheduler.take("milestones", [])]}
        train["gamma"] = float(scheduler.take("gamma", 0.1))
    else:
        train["schedule"] = "constant"
    train["batch_size"] = int(training.take("batch_size_per_gpu", 8))
    train["workers"] = int(training.take("num_worker_per_gpu", 0))
    section.leftover += optimizer.rest() + scheduler.rest()
    return train


def _one_of(value: Any, known: Mapping[str, str], name: str, source: str) -> str:
    if value not in known:
        raise ValueError(
            f"{source}: {name}: {value!r} is not known{nearest(str(value), known)}; {', '.join(known)} are"
        )
    return known[value]


class _Section:
    """A table of options, from which what is understood is taken."""

    def __init__(self, values: Any, name: str, source: str) -> None:
        if values is not None and not isinstance(values, Mapping):
            raise ValueError(f"{source}: {name}: {values!r} is not a table of options")
        self.values: dict[str, Any] = dict(values or {})
        self.name, self.leftover = name, []

    def take(self, key: str, otherwise: Any = None) -> Any:
        value = self.values.pop(key, otherwise)
        return otherwise if value is None else value

    def rest(self) -> list[str]:
        """Names of what was not understood."""
        kind = "dataset" if self.name.startswith("datasets.") else self.name.rpartition(".")[2]
        return self.leftover + [f"{self.name}.{key}" for key in self._unknown(RUNNING.get(kind, ()))]

    def _unknown(self, known: tuple[str, ...]) -> Iterator[str]:
        return (key for key in self.values if key not in known)
