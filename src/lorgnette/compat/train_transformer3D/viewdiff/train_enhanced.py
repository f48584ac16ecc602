"""`python -m lorgnette.compat.train_transformer3D.viewdiff.train_enhanced --data_dir FOLDER ...`: the original command.

Its flags, files and TensorBoard tags, over the one training loop. What is different is said on the screen.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorgnette.common.tensors import float_state, read_tensors
from lorgnette.compat.train_transformer3D.viewdiff.listeners import Epochs, EventFiles
from lorgnette.images.notes import in_one_line
from lorgnette.images.patches import split
from lorgnette.lora.config import LoRAConfig
from lorgnette.systems.faceview.data import FaceViews, HeldOutFaces, read_folders
from lorgnette.systems.faceview.model import EnhancedTransformerDecoderOnly3D
from lorgnette.systems.faceview.recipe import Data, Model, Recipe
from lorgnette.systems.faceview.task import FaceMapping
from lorgnette.train.batches import DrawnBatches
from lorgnette.train.config import TrainConfig
from lorgnette.train.listeners.tensorboard import tensorboard_installed
from lorgnette.train.loop import evaluate, fit

KEPT = ("data_dir", "epochs", "save_dir", "log_dir", "resume", "device", "num_workers", "workers")
"""Flags of a resumed run that are its own; all others are those that it began with."""
SIZES = ("d_model", "nhead", "num_layers", "dim_feedforward", "dropout", "pose_dim", "n_views", "num_tokens")
SIZES += ("use_cross_view", "voxel_resolution")


class Enhanced(FaceMapping):
    """The room's task with the original's figures: a validation loss, which is to fall, and the cosine."""

    def score(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> dict[str, float]:
        cosine = float(F.cosine_similarity(prediction, batch["gallery"][batch["person"]], dim=-1).mean())
        return {"loss": 1 - cosine, "cosine": cosine}

    def pictures(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        return {}

    def objective(self, metrics: Mapping[str, float]) -> float:
        return -metrics["loss"]


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 2 something that the user can put right, in one line on stderr."""
    try:
        options = arguments().parse_args(words)
        with in_one_line():
            train(options)
    except (ValueError, OSError) as error:
        print(f"train_enhanced: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def train(options: argparse.Namespace) -> None:
    """Train as the flags say.

    Raises:
        ValueError: flags that do not go together, data or a checkpoint that does not fit.
        FileNotFoundError: no such folder or file.
    """
    snapshot = None
    if options.resume:
        options, snapshot = _resumed(options)
    if options.use_prior_preservation and not options.base_model_path:
        raise ValueError("--use_prior_preservation: needs --base_model_path, the model whose answers it keeps")
    people = read_folders(options.data_dir, Data(angle_unit=options.angle_unit))
    if len(people) < 3:
        raise ValueError(f"--data_dir: {len(people)} persons cannot be split into three parts; 3 or more can")
    kept, tests = split(list(people), options.test_split, options.seed)
    kept, valid = split(kept, options.val_split / max(1 - options.test_split, 1e-9), options.seed)
    learnt, held, last = ({name: people[name] for name in names} for names in (kept, valid, tests))
    task = make(options)
    per_epoch = max(1, math.ceil(len(FaceViews(learnt, Data())) / options.batch_size / _accumulated(options)))
    config = _config(options, per_epoch)
    batches = DrawnBatches(FaceViews(learnt, Data()), options.batch_size, options.seed, config.workers)
    print(
        f"{len(learnt)} persons to learn from, {len(held)} to validate, {len(last)} to test; {options.epochs} epochs of"
        f" {per_epoch} steps; {_said(task)}"
    )
    listeners: list[Any] = [Epochs(options, per_epoch, task)]
    if tensorboard_installed():
        listeners.append(EventFiles(options.log_dir, per_epoch))
    else:
        print("TensorBoard is not installed: no event files (pip install 'lorgnette[tensorboard]')")
    end = fit(task, batches, config, listeners, test=HeldOutFaces(held), resume=snapshot)
    print(f"best after {end.best_step // per_epoch} epochs: {end.best}; test: {evaluate(task, HeldOutFaces(last))}")


def make(options: argparse.Namespace) -> Enhanced:
    """The network with its base weights, and its loss."""
    sizes: dict[str, Any] = {name: getattr(options, name) for name in SIZES}
    adapted = {"rank": options.rank, "lora_alpha": options.lora_alpha}
    torch.manual_seed(options.seed)
    model = EnhancedTransformerDecoderOnly3D(
        **sizes,
        **adapted,
        use_lora_attention=options.use_lora_attention,
        use_projection_layer=options.use_projection_layer,
        gate=options.gate,
    )
    teacher = None
    if options.base_model_path:
        raw = read_tensors(options.base_model_path)
        state = float_state(raw.get("model_state_dict", raw), options.base_model_path)
        model.load_base(state)
        if options.use_prior_preservation:
            projected = any(name.startswith("projection.") for name in state)
            sizes |= {"use_cross_view": any(name.startswith("cross_view.") for name in state)}
            teacher = EnhancedTransformerDecoderOnly3D(
                **sizes, use_lora_attention=False, use_projection_layer=projected, gate=options.gate
            )
            teacher.load_base(state)
            teacher.requires_grad_(False).eval()
    elif options.use_lora_attention:
        model.requires_grad_(True)
        print("no --base_model_path: a frozen random attention is nothing to adapt, so all weights are trained")
    settings = Model(
        d_model=options.d_model,
        nhead=options.nhead,
        num_tokens=options.num_tokens,
        prior=options.lambda_prior if teacher is not None else 0.0,
    )
    lora = LoRAConfig(r=options.rank, lora_alpha=options.lora_alpha) if options.use_lora_attention else None
    return Enhanced(model, Recipe(model=settings, lora=lora), teacher)


def _config(options: argparse.Namespace, per_epoch: int) -> TrainConfig:
    precision = "fp32"
    if options.use_amp:
        precision = "fp16" if torch.cuda.is_available() and options.device != "cpu" else "bf16"
    return TrainConfig(
        steps=options.epochs * per_epoch,
        batch_size=options.batch_size,
        accumulate=_accumulated(options),
        lr=options.lora_lr if options.use_lora_attention else options.lr,
        base_lr=options.lr,
        weight_decay=options.weight_decay,
        warmup_steps=0,
        final_lr_ratio=min(1.0, 1e-6 / options.lr),
        clip_norm=options.max_grad_norm,
        eval_every=per_epoch,
        precision=precision,
        workers=options.num_workers,
        seed=options.seed,
        device=options.device,
    )


def _accumulated(options: argparse.Namespace) -> int:
    return options.gradient_accumulation_steps


def _resumed(options: argparse.Namespace) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The flags that a checkpoint was made with, and what to go on from."""
    found = read_tensors(options.resume)
    if not isinstance(found.get("args"), Mapping) or not isinstance(found.get("snapshot"), Mapping):
        raise ValueError(f"--resume: {options.resume} is no checkpoint of this command")
    mine = {name: value for name, value in vars(options).items() if name in KEPT}
    changed = argparse.Namespace(**{**vars(options), **found["args"], **mine})
    if changed.epochs != found["args"]["epochs"]:
        print(f"--epochs {changed.epochs} instead of {found['args']['epochs']}: the learning rate falls otherwise now")
    return changed, dict(found["snapshot"])


def _said(task: FaceMapping) -> str:
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    return f"{trained:,} of {sum(p.numel() for p in task.parameters()):,} parameters are trained"


def arguments() -> argparse.ArgumentParser:
    """The flags, those of the original and a few more."""
    parser = argparse.ArgumentParser("train_enhanced", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--data_dir", default="train/datas/file", help="folder of front_*.npy and video_*.npy")
    for name, kind, default in (
        ("batch_size", int, 32), ("num_workers", int, 0), ("d_model", int, 512), ("nhead", int, 8),
        ("num_layers", int, 4), ("dim_feedforward", int, 2048), ("dropout", float, 0.15), ("pose_dim", int, 3),
        ("n_views", int, 5), ("rank", int, 4), ("lora_alpha", float, 1.0), ("lambda_prior", float, 0.1),
        ("epochs", int, 100), ("lr", float, 1e-4), ("lora_lr", float, 1e-3), ("weight_decay", float, 1e-5),
        ("gradient_accumulation_steps", int, 1), ("max_grad_norm", float, 1.0), ("voxel_resolution", int, 16),
        ("num_tokens", int, 4), ("val_split", float, 0.1), ("test_split", float, 0.1), ("seed", int, 42),
    ):  # fmt: skip
        add(f"--{name}", type=kind, default=default, help=f"unset: {default}")
    add("--workers", dest="num_workers", type=int, help="the same as --num_workers")
    for name in ("lora_attention", "projection_layer", "cross_view", "prior_preservation", "amp"):
        add(f"--use_{name}", action="store_true")
    add("--base_model_path", default=None, help="a trained base: a .pth or .safetensors file")
    add("--save_dir", default="train_transformer3D/checkpoints_enhanced", help="of the checkpoints")
    add("--log_dir", default="train_transformer3D/logs_enhanced", help="of TensorBoard's files and the history")
    add("--resume", default=None, help="a checkpoint_epoch_N_enhanced.pth; flags are those it was made with")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--angle_unit", choices=["rad", "deg"], default="rad", help="of the poses in the files")
    add("--gate", choices=["none", "dream"], default="none", help="see the room's model.gate")
    parser.set_defaults(num_workers=0)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
