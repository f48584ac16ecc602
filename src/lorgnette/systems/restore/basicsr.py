"""BasicSR's option files as settings of this room. Imports no torch.

What has a counterpart here is translated; what only says how that program runs (loggers, names, processes) is left
out; anything else is listed, so that nothing is dropped in silence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lorgnette.common.text import nearest
from lorgnette.settings import read_yaml
from lorgnette.systems.restore.recipe import Model, Recipe

Settings = dict[str, Any]  # of one group of a `Recipe`

TASKS = {"denoising_color": "denoise", "denoising_gray": "denoise", "CAR": "jpeg", "SR": "sr"}
LOSSES = {"L1Loss": "l1", "CharbonnierLoss": "charbonnier"}
OPTIMIZERS = {"Adam": "adam", "AdamW": "adamw", "SGD": "sgd"}
PUBLISHED = {"embed_dim": 96, "depths": [6, 6, 6, 6], "d_state": 16, "mlp_ratio": 2.0, "drop_path_rate": 0.1,
             "upscale": 2}  # fmt: skip
"""What the published network has where an option file is silent, and our recipe has something else."""
RUNNING = {
    "": ("name", "model_type", "num_gpu", "dist_params", "rank", "world_size", "scale"),
    "dataset": ("name", "use_shuffle", "dataset_enlarge_ratio", "prefetch_mode", "num_prefetch_queue", "phase",
                "batch_size_per_gpu", "num_worker_per_gpu"),
    "network_g": ("img_size", "window_size"),
    "path": ("root", "results_root"),
    "val": ("suffix", "pbar"),
    "logger": ("print_freq", "use_tb_logger", "wandb"),
}  # fmt: skip
"""What means nothing here, by section."""
NEUTRAL = {
    "dataset": {"type": "PairedImageDataset", "io_backend": {"type": "disk"}},
    "network_g": {"patch_size": 1, "patch_norm": True, "drop_rate": 0},
    "path": {"strict_load_g": True, "param_key_g": "params_ema"},
    "pixel_opt": {"loss_weight": 1, "reduction": "mean"},
    "val": {"save_img": False},
}
"""What means nothing here as long as it has this value, by section."""


def read_options(path: str | os.PathLike[str]) -> tuple[dict[str, Settings | None], list[str]]:
    """The settings of an option file for training, as nested tables of a `Recipe`, and what was not understood.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no option file for MambaIR, or asks for what there is not; one line.
    """
    return translate(read_yaml(path), str(path))


def read_test_options(path: str | os.PathLike[str]) -> tuple[dict[str, dict[str, Settings | None]], list[str]]:
    """The settings of an option file for testing: name of each data set -> a recipe, and what was not understood.

    `data.test` of each recipe is the folder of clean images, and `data.test_lq` that of damaged ones, if any.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no option file for MambaIR, or asks for what there is not; one line.
    """
    return translate_test(read_yaml(path), str(path))


def tested_on(recipe: Recipe) -> dict[str, Any]:
    """The arguments of `evaluation` that score the data set of a recipe of `read_test_options`."""
    return {"folder": recipe.data.test, "lr_folder": recipe.data.test_lq}


def translate(options: Mapping[str, Any], source: str) -> tuple[dict[str, Settings | None], list[str]]:
    """As `read_options`, of options that were read already."""
    model, rest = _model(options, source)
    datasets = _Section(options.get("datasets"), "datasets", source)
    training = _Section(datasets.take("train"), "datasets.train", source)
    held_out = next((name for name in datasets.values if str(name).startswith("val")), None)
    testing = _Section(datasets.take(held_out), f"datasets.{held_out}", source)
    section = _Section(options.get("train"), "train", source)
    loss = _Section(section.take("pixel_opt"), "train.pixel_opt", source)
    val = _Section(options.get("val"), "val", source)
    logger = _Section(options.get("logger"), "logger", source)

    data = _training_data(training, model["upscale"], source)
    data |= _testing_data(testing)
    testing.take("task")  # that of training
    data |= {"scale": model["upscale"], "grey": model.get("in_chans", 3) == 1}
    data["loss"] = _one_of(loss.take("type", "L1Loss"), LOSSES, "train.pixel_opt.type", source)
    train = {"batch_size": training.whole("batch_size_per_gpu", 8), "workers": training.whole("num_worker_per_gpu", 0)}
    train["seed"] = int(options.get("manual_seed") or 0)
    scoring, more = _scoring(val, source)
    train_settings, left = _train(section, source)
    for name, every in (("eval_every", val.whole("val_freq")), ("save_every", logger.whole("save_checkpoint_freq"))):
        train |= {name: every} if every else {}
    rest += [*more, *left]
    for part in (datasets, training, testing, section, loss, val, logger):
        rest += part.rest()
    return {"model": model, "data": data | scoring, "lora": None, "train": train | train_settings}, rest


def translate_test(options: Mapping[str, Any], source: str) -> tuple[dict[str, dict[str, Settings | None]], list[str]]:
    """As `read_test_options`, of options that were read already."""
    model, rest = _model(options, source)
    val = _Section(options.get("val"), "val", source)
    scoring, more = _scoring(val, source)
    rest += more + val.rest()
    recipes: dict[str, dict[str, Settings | None]] = {}
    for key, values in _Section(options.get("datasets"), "datasets", source).values.items():
        if not str(key).startswith(("test", "val")):
            rest.append(f"datasets.{key}")
            continue
        section = _Section(values, f"datasets.{key}", source)
        data = _testing_data(section) | scoring | {"scale": model["upscale"], "grey": model.get("in_chans", 3) == 1}
        data["degradation"] = _task(section, model["upscale"], source)
        if "test" not in data:
            raise ValueError(f"{source}: datasets.{key}.dataroot_gt: not set; a folder of clean images is needed")
        recipes[str(section.values.get("name", key))] = {"model": model, "data": data, "lora": None}
        rest += section.rest()
    if not recipes:
        raise ValueError(f"{source}: datasets: has no test_1, test_2, ...: there is nothing to score")
    return recipes, rest


def _model(options: Mapping[str, Any], source: str) -> tuple[Settings, list[str]]:
    """The settings of network and base weights; what was not understood there and on top."""
    network = _Section(options.get("network_g"), "network_g", source)
    if (kind := network.take("type")) != "MambaIR":
        raise ValueError(f"{source}: network_g.type: {kind!r} is not built here; 'MambaIR' is")
    given = {field.name: network.take(field.name) for field in fields(Model) if field.name in network.values}
    model = PUBLISHED | {name: value for name, value in given.items() if value is not None}
    if not model.get("upsampler"):  # then the network keeps the size, whatever the file says
        model["upscale"] = 1
    paths = _Section(options.get("path"), "path", source)
    model["base"] = paths.take("pretrain_network_g", "none")
    sections = ("manual_seed", "datasets", "network_g", "path", "train", "val", "logger")
    rest = [str(name) for name in options if name not in (*RUNNING[""], *sections)]
    return model, rest + network.rest() + paths.rest()


def _training_data(section: _Section, scale: int, source: str) -> Settings:
    data: Settings = {"degradation": _task(section, scale, source)}
    gt, lq = section.take("dataroot_gt"), section.take("dataroot_lq")
    if lq and lq != gt:
        data |= {"lq": lq, "gt": gt} | _template(section)
    elif gt:
        data["root"] = gt
    if (noise := section.take("noise")) is not None:
        data["sigmas"] = [float(noise), float(noise)]
    if (quality := section.take("quality")) is not None:
        data["qualities"] = [int(quality), int(quality)]
    if size := section.whole("gt_size"):
        data["patch"] = size // scale
    flips, turns = section.take("use_hflip", True), section.take("use_rot", True)
    data["augment"] = bool(flips or turns)
    if bool(flips) != bool(turns):
        section.leftover.append(f"{section.name}.{'use_rot' if flips else 'use_hflip'}")
    return data


def _testing_data(section: _Section) -> Settings:
    gt, lq = section.take("dataroot_gt"), section.take("dataroot_lq")
    data: Settings = {"test": gt} if gt else {}
    if gt and lq and lq != gt:
        data |= {"test_lq": lq} | _template(section)
    if (noise := section.take("noise")) is not None:
        data["test_sigmas"] = [float(noise)]
    if (quality := section.take("quality")) is not None:
        data["test_qualities"] = [int(quality)]
    return data


def _task(section: _Section, scale: int, source: str) -> str:
    kind = section.take("task", "SR" if scale > 1 else "denoising_color")
    return _one_of(kind, TASKS, f"{section.name}.task", source)


def _template(section: _Section) -> Settings:
    template = section.take("filename_tmpl", "{}")
    return {} if template == "{}" else {"filename_tmpl": template}


def _scoring(val: _Section, source: str) -> tuple[Settings, list[str]]:
    """How results are scored: the first metric decides; what is not understood there."""
    scoring: Settings = {}
    rest: list[str] = []
    for name, values in _Section(val.take("metrics"), "val.metrics", source).values.items():
        metric = _Section(values, f"val.metrics.{name}", source)
        kind = metric.take("type")
        if kind not in ("calculate_psnr", "calculate_ssim"):
            rest.append(f"{metric.name}.type")
        metric.take("better")
        found = {"crop_border": metric.take("crop_border", 0), "test_y_channel": metric.take("test_y_channel", False)}
        rest += [f"{metric.name}.{key}" for key in found if scoring and found[key] != scoring[key]]
        scoring = scoring or found
        rest += metric.rest()
    return scoring, rest


def _train(section: _Section, source: str) -> tuple[Settings, list[str]]:
    optimizer = _Section(section.take("optim_g"), "train.optim_g", source)
    scheduler = _Section(section.take("scheduler"), "train.scheduler", source)
    train: Settings = {
        "optimizer": _one_of(optimizer.take("type", "Adam"), OPTIMIZERS, "train.optim_g.type", source),
        "lr": float(optimizer.take("lr", 2e-4)),
        "weight_decay": float(optimizer.take("weight_decay", 0.0)),
        "betas": [float(beta) for beta in optimizer.take("betas", [0.9, 0.999])],
        "warmup_steps": max(0, section.whole("warmup_iter", 0)),
        "ema_decay": float(section.take("ema_decay", 0.0)),
        "clip_norm": float(section.take("grad_clip_norm", 0.01)) if section.take("use_grad_clip", False) else 0.0,
    }
    if total := section.whole("total_iter"):
        train["steps"] = total
    if scheduler.values:
        kind = scheduler.take("type")
        if kind != "MultiStepLR":
            raise ValueError(f"{source}: train.scheduler.type: {kind!r} is not known; 'MultiStepLR' is")
        train |= {"schedule": "multistep", "milestones": [int(step) for step in scheduler.take("milestones", [])]}
        train["gamma"] = float(scheduler.take("gamma", 0.1))
    else:
        train["schedule"] = "constant"
    return train, optimizer.rest() + scheduler.rest()


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
        self.name, self.source, self.leftover = name, source, []

    def take(self, key: Any, otherwise: Any = None) -> Any:
        value = self.values.pop(key, otherwise)
        return otherwise if value is None else value

    def whole(self, key: str, otherwise: int = 0) -> int:
        """A whole number, which files also write as `5e3`."""
        value = self.take(key, otherwise)
        try:
            return int(float(value))
        except (TypeError, ValueError):
            raise ValueError(f"{self.source}: {self.name}.{key}: {value!r} is not a whole number") from None

    def rest(self) -> list[str]:
        """Names of what was not understood."""
        kind = "dataset" if self.name.startswith("datasets.") else self.name.rpartition(".")[2]
        neutral = NEUTRAL.get(kind, {})
        return self.leftover + [
            f"{self.name}.{key}"
            for key, value in self.values.items()
            if key not in RUNNING.get(kind, ()) and value is not None and neutral.get(key, ...) != value
        ]
