"""The one training loop. It knows no room, data set, file or metric name; it emits events (lorgnette.train.events).

Resuming is derived, not restored: batches are a function of (seed, step), the model's randomness is reseeded from
(seed, step, rank) before every step, and the learning rate is a function of the step. A snapshot therefore holds
tensors and the step alone, and a resumed run ends with bit-identical weights.
"""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from lorgnette.common.modules import evaluating, moved
from lorgnette.lora.wrappers import unwrapped
from lorgnette.train.batches import BatchStream, as_batches, derived_seed
from lorgnette.train.config import TrainConfig
from lorgnette.train.events import Evaluated, Event, Finished, Listener, Started, Stepped
from lorgnette.train.optim import Averaged, copies, copy_into, lr_factor, make_optimizer
from lorgnette.train.task import Task

SNAPSHOT_VERSION = 1
MAX_SKIPPED = 10
NETWORK = ""
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def fit(
    task: Task,
    batches: BatchStream | Sequence[Any],
    config: TrainConfig,
    listeners: Iterable[Listener] = (),
    test: Sequence[Any] | None = None,
    resume: Mapping[str, Any] | None = None,
) -> Finished:
    """Train what requires gradients in `task`, in place.

    With `test`, the task is scored before training, on the way and at the end, and leaves with the best weights
    seen (which may be those it came with), also where an error ends it. Ctrl-C ends training after the current step; a
    second one at once.

    Args:
        task: on any device; moved to that of `config.device`.
        batches: `Batches`, or a sequence of batches taken in turn.
        config: see `TrainConfig`; `steps` must be set.
        listeners: called with each event, in the main process only.
        test: held-out batches, read again at each evaluation.
        resume: a snapshot, as the events carry it.

    Returns:
        The last event.

    Raises:
        ValueError: `train.steps` is not set, nothing requires gradients, the loss is no longer finite,
            or `resume` does not belong to this task.
    """
    if config.steps is None:
        raise ValueError("train.steps: not set; the number of optimiser steps is needed here")
    # Precision is ours (autocast below): Accelerate would leave a patched `forward` behind.
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision="no")
    if config.device not in ("auto", "cpu", accelerator.device.type):
        raise ValueError(
            f"train.device: {config.device!r} does not work here; 'cpu' or {accelerator.device.type!r} does"
        )
    source = as_batches(batches)
    gpus = range(torch.cuda.device_count()) if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=list(gpus)), _interruption() as interrupted:
        run = _Run(task, config, config.steps, accelerator, listeners, test)
        if resume is not None:
            run.restore(resume)
        try:
            return run.to_the_end(source, interrupted)
        except Exception:
            run.leave_the_best()
            raise


def evaluate(task: Task, batches: Iterable[Any], precision: str = "fp32") -> dict[str, float]:
    """The metrics of `task` averaged over `batches`, in eval mode; each metric over the batches that have it."""
    rows, _ = _evaluate(task, batches, precision)
    return rows[NETWORK]


@torch.no_grad()
def _evaluate(
    task: Task, batches: Iterable[Any], precision: str, compared: bool = False
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Average metrics by row, and the pictures of the first batches that have some.

    The rows are the task's, called `NETWORK`, and, if they are to be `compared`, those of what needs no network.
    """
    scores: dict[str, dict[str, list[float]]] = {NETWORK: {}}
    pictures: dict[str, np.ndarray] = {}
    device = next(task.parameters()).device
    with evaluating(task):
        for batch in batches:
            batch = moved(batch, device)
            with _autocast(device, precision):
                prediction = task.predict(batch)
            rows = {NETWORK: prediction, **(task.without_network(batch) if compared else {})}
            for row, answer in rows.items():
                for name, value in task.score(answer, batch).items():
                    scores.setdefault(row, {}).setdefault(name, []).append(float(value))
            if len(pictures) < 8:
                pictures.update(task.pictures(prediction, batch))
    return {row: {n: sum(v) / len(v) for n, v in metrics.items()} for row, metrics in scores.items()}, pictures


class _Run:
    """The state of one call of `fit`."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        total: int,
        accelerator: Accelerator,
        listeners: Iterable[Listener],
        test: Sequence[Any] | None,
    ):
        self.config, self.accelerator, self.total = config, accelerator, total
        self.listeners = list(listeners) if accelerator.is_main_process else []
        self.task = task.to(accelerator.device)
        self.wrapped = accelerator.prepare(self.task)  # the task itself, or DDP/FSDP around it
        self.optimizer = make_optimizer(self.task, config)
        self.optimizer.zero_grad(set_to_none=True)  # what was there before does not count
        self.test = test
        with unwrapped(self.task) as plain:  # a snapshot's names are those of the model without wrappers
            self.trained = {name: p for name, p in plain.named_parameters() if p.requires_grad}
            # Statistics of trained BatchNorm layers and the like: part of what training changes.
            self.buffers = {name: b for name, b in plain.named_buffers() if name in plain.state_dict()}
        self.scaler = torch.amp.GradScaler(accelerator.device.type, enabled=config.precision == "fp16")
        self.averaged = Averaged(self.trained, config.ema_decay)
        self.step = 0
        self.first: dict[str, float] = {}
        self.best: dict[str, Any] = {}  # step, metrics, weights
        self.evaluations: dict[int, dict[str, float]] = {}  # metrics by step
        self.evaluations_since_best = 0
        self.skipped = 0  # steps in a row without finite gradients

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def to_the_end(self, source: BatchStream, interrupted: threading.Event) -> Finished:
        trained = sum(p.numel() for p in self.trained.values())
        frozen = sum(p.numel() for p in self.task.parameters()) - trained
        self.emit(Started(self.config, self.step, self.total, trained, frozen))
        if self.test is not None and not self.best:
            self.evaluate()
        every = self.config.eval_every or max(1, self.total // 10)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        stream = source.starting_at(self.step * self.config.accumulate, rank, processes)
        reason = "done"
        while self.step < self.total:
            if interrupted.is_set():
                reason = "interrupted"
                break
            if self.config.patience and self.evaluations_since_best >= self.config.patience:
                reason = "stopped early"
                break
            losses, grad_norm, lr, seconds = self.one_step(stream)
            if self.test is not None and (self.step % every == 0 or self.step == self.total):
                self.evaluate()
            # Last, so that a snapshot holds all that happened at its step.
            self.emit(Stepped(self.step, losses, grad_norm, lr, seconds, self.snapshot, applied=self.skipped == 0))
        return self.finish(reason)

    def one_step(self, stream: Iterator[Any]) -> tuple[dict[str, float], float, float, float]:
        """Returns the losses, the norm of the gradients, the learning rate and the seconds it took."""
        started = time.perf_counter()
        config, accumulate = self.config, self.config.accumulate
        factor = lr_factor(self.step, self.total, config)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        torch.manual_seed(derived_seed(config.seed, self.step, self.accelerator.process_index))
        self.wrapped.train()
        losses: dict[str, float] = {}
        for micro in range(accumulate):
            batch = moved(next(stream), self.accelerator.device)
            last = micro == accumulate - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                with _autocast(self.accelerator.device, config.precision):
                    parts = self.wrapped(batch)
                self.scaler.scale(parts["loss"].float() / accumulate).backward()
            for name, value in parts.items():
                losses[name] = losses.get(name, 0.0) + float(value.detach()) / accumulate
        self.scaler.unscale_(self.optimizer)
        norm = self.accelerator.clip_grad_norm_(self.trained.values(), config.clip_norm or math.inf)
        # The loss as well: of a NaN in a target, L1 has a gradient of zero.
        if (norm is None or math.isfinite(norm)) and self.everywhere(math.isfinite(losses["loss"])):
            self.scaler.step(self.optimizer)
            self.skipped = 0
        else:  # one bad batch must not turn every weight into nan
            self.skipped += 1
            if self.skipped == MAX_SKIPPED:
                raise ValueError(
                    f"loss or gradients were not finite in {MAX_SKIPPED} steps in a row, up to step {self.step + 1}; "
                    f"a smaller train.lr than {config.lr} or more train.warmup_steps may help"
                )
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.averaged.update(self.step)
        known = math.nan if norm is None else float(norm)
        return losses, known, self.optimizer.param_groups[0]["lr"], time.perf_counter() - started

    def everywhere(self, holds: bool) -> bool:
        """Whether it holds in all processes, which have to do the same."""
        failures: Any = self.accelerator.reduce(torch.tensor(float(not holds), device=self.accelerator.device))
        return float(failures) == 0

    def evaluate(self) -> None:
        assert self.test is not None
        with self.averaged.swapped_in():
            rows, pictures = _evaluate(self.task, self.test, self.config.precision, compared=self.step == 0)
            metrics = rows.pop(NETWORK)
            self.first = self.first or metrics
            self.evaluations[self.step] = metrics
            value = self.task.objective(metrics)
            best = self.task.objective(self.best["metrics"]) if self.best else math.nan
            is_best = value > best + self.task.min_delta or math.isnan(best)
            self.evaluations_since_best = 0 if is_best else self.evaluations_since_best + 1
            if is_best:
                weights = copies(self.trained) | copies(self.buffers)
                self.best = {"step": self.step, "metrics": metrics, "weights": weights}
        self.emit(Evaluated(self.step, metrics, is_best, pictures, rows))

    def finish(self, reason: str) -> Finished:
        final = self.snapshot()
        self.leave_the_best()
        best, best_step = self.best.get("metrics", {}), self.best.get("step", self.step)
        remarks = tuple(self.task.remarks(self.evaluations, best_step))
        improved = not self.best or best_step > 0
        event = Finished(self.step, reason, self.first, best, best_step, improved, lambda: final, remarks)
        self.emit(event)
        return event

    def leave_the_best(self) -> None:
        """Leave the task with the best weights seen; where nothing is held out, with the last (or average) ones."""
        if self.best:
            copy_into(self.trained | self.buffers, self.best["weights"])
        else:
            copy_into(self.trained, self.averaged.mean)
        self.task.eval()

    def snapshot(self) -> dict[str, Any]:
        """All that resuming needs: tensors and plain containers, so that `torch.load(weights_only=True)` reads it."""
        return {
            "version": SNAPSHOT_VERSION,
            "step": self.step,
            "trained": copies(self.trained),
            "buffers": copies(self.buffers),
            "averaged": copies(self.averaged.mean),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "scaler": self.scaler.state_dict(),
            "first": dict(self.first),
            "best": dict(self.best),
            "evaluations": dict(self.evaluations),
            "evaluations_since_best": self.evaluations_since_best,
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        if snapshot.get("version") != SNAPSHOT_VERSION:
            raise ValueError(
                f"the checkpoint has version {snapshot.get('version')!r}; this program reads {SNAPSHOT_VERSION}"
            )
        places = {"trained": self.trained, "buffers": self.buffers, "averaged": self.averaged.mean}
        for part, tensors in places.items():
            _check_same(snapshot[part], tensors)
        saved, own = (state["param_groups"] for state in (snapshot["optimizer"], self.optimizer.state_dict()))
        if [group.keys() for group in saved] != [group.keys() for group in own]:
            raise ValueError(f"the checkpoint belongs to another recipe: not to optimizer {self.config.optimizer!r}")
        for part, tensors in places.items():
            copy_into(tensors, snapshot[part])
        self.optimizer.load_state_dict(snapshot["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(snapshot["scaler"])
        self.step, self.first, self.best = snapshot["step"], dict(snapshot["first"]), dict(snapshot["best"])
        self.evaluations = dict(snapshot.get("evaluations", {}))  # runs of before have none
        self.evaluations_since_best = snapshot["evaluations_since_best"]


def _check_same(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """A one-line ValueError unless the names and shapes are the same."""
    if saved.keys() != own.keys():
        odd = sorted(saved.keys() ^ own.keys())
        raise ValueError(f"the checkpoint belongs to another recipe: it and this task differ in {', '.join(odd[:3])}")
    for name, tensor in saved.items():
        if tensor.shape != own[name].shape:
            shapes = f"{tuple(tensor.shape)} and not {tuple(own[name].shape)}"
            raise ValueError(f"the checkpoint belongs to another recipe: {name} has shape {shapes}")


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    if precision not in AUTOCAST:
        raise ValueError(f"precision: {precision!r} does not work; {', '.join(AUTOCAST)} do")
    return torch.autocast(device.type, AUTOCAST[precision] or torch.bfloat16, enabled=AUTOCAST[precision] is not None)


@contextlib.contextmanager
def _interruption() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one raises KeyboardInterrupt as usual."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def stop(*_: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, stop)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
