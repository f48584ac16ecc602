"""The one loop: exact resuming, interruptions, precision, what is trained and what is not."""

from __future__ import annotations

import copy
import io
import math
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from lorgnette import lora
from lorgnette.cli import main
from lorgnette.train.batches import Draw, DrawnBatches
from lorgnette.train.config import TrainConfig
from lorgnette.train.events import Evaluated, Event, Finished, Started, Stepped
from lorgnette.train.listeners.record import in_words, record
from lorgnette.train.loop import MAX_SKIPPED, evaluate, fit
from lorgnette.train.task import Task

BASE = TrainConfig(steps=6, lr=0.05, warmup_steps=2, batch_size=4, device="cpu")


class Toy(Task):
    """Regression with everything a loop meets: adapters with dropout, a norm that is trained, one that is not."""

    def __init__(self, seed: int = 0, dropout: float = 0.0, adapt: bool = True):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(17)
            self.model = nn.Sequential(
                nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Linear(12, 2)
            )
            if adapt:
                torch.manual_seed(seed)
                settings = lora.LoRAConfig(
                    r=2, lora_dropout=dropout, target_modules=["0", "3"], modules_to_save=["4", "5"]
                )
                lora.inject_lora(self.model, settings)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        answer = self.model(batch["x"])
        return {"loss": F.mse_loss(answer, batch["y"]), "size": answer.abs().mean()}

    def predict(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.model(batch["x"])

    def score(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        # Neither is a plain float: nothing that the loop keeps may be of their type.
        return {"error": F.mse_loss(prediction, batch["y"]), "own": np.float64(len(prediction))}

    def objective(self, metrics: Mapping[str, float]) -> float:
        return -metrics["error"]


class Points:
    """Eleven clusters; where in its cluster a point lies is the draw's."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, draw: Draw) -> dict[str, Tensor]:
        centre = np.random.default_rng((5, draw.index)).normal(size=4)
        x = torch.from_numpy(centre + 0.1 * draw.rng().normal(size=4)).float()
        return {"x": x, "y": torch.stack([x[0] * x[1], x[2].sin()])}


def points(workers: int = 0, batch_size: int = 4) -> DrawnBatches:
    return DrawnBatches(Points(), batch_size, seed=3, workers=workers)


def listed(n: int = 4, size: int = 8, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(size, 4, generator=generator) for _ in range(n)]
    return [{"x": x, "y": torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin()], 1)} for x in inputs]


class Saved:
    """A listener that keeps every event, and every snapshot as a file would."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.snapshots: dict[int, bytes] = {}

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Stepped):
            file = io.BytesIO()
            torch.save(event.snapshot(), file)
            self.snapshots[event.step] = file.getvalue()

    def snapshot(self, step: int) -> dict[str, Any]:
        return torch.load(io.BytesIO(self.snapshots[step]), weights_only=True)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def story(self, after: int) -> list[tuple[object, ...]]:
        """What happened after a step, without times."""
        return [
            (type(e).__name__, e.step, dict(e.losses), str(e.grad_norm), e.lr)
            if isinstance(e, Stepped)
            else (type(e).__name__, e.step, dict(e.metrics), e.is_best)
            for e in self.events
            if isinstance(e, Stepped | Evaluated) and e.step > after
        ]


def bits(task: nn.Module) -> dict[str, bytes]:
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in task.state_dict().items()}


def same(a: Any, b: Any) -> bool:
    """Of nested containers: equal types and lengths, and tensors equal in every bit."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def moved(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> set[str]:
    return {name.removeprefix("model.") for name in before if before[name] != after[name]}


# ------------------------------------------------------------------------------------------------- resuming

RESUMED = {
    "plain": BASE,
    "accumulated, averaged, dropout": replace(
        BASE, steps=7, accumulate=2, ema_decay=0.8, eval_every=2, base_lr=0.01, weight_decay=0.1, precision="bf16"
    ),
    "scaled": replace(BASE, precision="fp16", lr=0.01),
    "sgd, patience": replace(BASE, steps=12, optimizer="sgd", lr=3.0, clip_norm=0.0, eval_every=1, patience=3),
}


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("held_out", [True, False])
def test_resumed_at_any_step_ends_bit_identical(case: str, held_out: bool):
    config, dropout = RESUMED[case], 0.3
    test = listed(2, seed=9) if held_out else None
    whole, unbroken = Toy(dropout=dropout), Saved()
    end = fit(whole, points(), config, [unbroken], test)
    assert end.reason == ("stopped early" if "patience" in case and held_out else "done")
    assert config.steps is not None
    assert (end.step < config.steps) == (end.reason == "stopped early")
    for step in unbroken.snapshots:
        task, resumed = Toy(seed=99, dropout=dropout), Saved()  # other adapters: the snapshot brings its own
        torch.manual_seed(step)
        again = fit(task, points(), config, [resumed], test, resume=unbroken.snapshot(step))
        assert bits(task) == bits(whole)
        assert same(again.snapshot(), end.snapshot())
        assert resumed.story(step) == unbroken.story(step)
        assert resumed.of(Started)[0].step == step
        assert replace(again, snapshot=end.snapshot) == end
        assert not held_out or again.first == unbroken.of(Evaluated)[0].metrics


def test_the_randomness_of_a_step_is_its_own():
    """Dropout differs from step to step and by seed, and is no function of what was drawn before."""
    losses = []
    for seed in (0, 0, 1):
        torch.rand(3)
        task, saved = Toy(dropout=0.5), Saved()
        with torch.no_grad():
            for parameter in lora.get_lora_params(task):  # with B at zero, dropout would not show
                parameter.normal_(generator=torch.Generator().manual_seed(1))
        fit(task, listed(1), replace(BASE, lr=1e-12, base_lr=1e-12, seed=seed), [saved])
        losses.append([event.losses["loss"] for event in saved.of(Stepped)])
    assert losses[0] == losses[1]
    assert len({*losses[0], *losses[2]}) == 2 * len(losses[0])


@pytest.mark.parametrize("wrapped_first", [True, False])
def test_a_run_goes_on_with_a_wrapped_model_or_without(wrapped_first: bool):
    """A compiled or data-parallel model has a word of its own in every name, and a snapshot has not."""
    whole, unbroken = Toy(), Saved()
    fit(whole, points(), BASE, [unbroken])
    first, second, saved = Toy(), Toy(seed=99), Saved()
    wrapped = first if wrapped_first else second
    wrapped.model[0] = nn.DataParallel(wrapped.model[0])
    wrapped.model = nn.DataParallel(wrapped.model)
    fit(first, points(), BASE, [saved])
    assert saved.snapshot(3)["trained"].keys() == unbroken.snapshot(3)["trained"].keys()
    fit(second, points(), BASE, [], resume=saved.snapshot(3))
    assert list(bits(second).values()) == list(bits(whole).values())


def test_a_finished_run_can_be_resumed_and_stays_as_it_is():
    task, saved = Toy(), Saved()
    end = fit(task, points(), BASE, [saved], listed(1))
    before = bits(task)
    again = fit(Toy(seed=5), points(), BASE, [], listed(1), resume=end.snapshot())
    assert (again.step, again.reason, again.best) == (end.step, "done", end.best)
    other = Toy(seed=5)
    fit(other, points(), BASE, [], listed(1), resume=saved.snapshot(6))
    assert bits(other) == before


def test_a_snapshot_of_another_recipe_is_refused_before_anything_changes():
    saved = Saved()
    fit(Toy(), points(), replace(BASE, steps=1, ema_decay=0.9), [saved])
    good = saved.snapshot(1)
    wide = Toy()
    wide.model[5] = nn.Linear(12, 3)
    trained_less = Toy()
    trained_less.model[5].requires_grad_(False)
    averaged = replace(BASE, ema_decay=0.9)
    cases: list[tuple[Task, TrainConfig, dict[str, Any], str]] = [
        (Toy(adapt=False), averaged, good, "another recipe: it and this task differ in model"),
        (trained_less, averaged, good, "another recipe: it and this task differ in model.5"),
        (wide, averaged, good, "model.5.weight has shape"),
        (Toy(), BASE, good, "another recipe"),  # no averages wanted
        (Toy(), replace(averaged, optimizer="sgd"), good, "optimizer 'sgd'"),
        (Toy(), averaged, good | {"version": 2}, "version 2; this program reads 1"),
        (Toy(), averaged, good | {"buffers": {}}, "another recipe"),
    ]
    for task, config, snapshot, says in cases:
        before = bits(task)
        with pytest.raises(ValueError, match=says) as refusal:
            fit(task, points(), config, resume=snapshot)
        assert "\n" not in str(refusal.value)
        assert bits(task) == before


# --------------------------------------------------------------------------------- what is trained, and how


def test_only_what_should_move_moves():
    """Weight decay too leaves the base alone, and so do the statistics of a norm that no adapter keeps."""
    task = Toy()
    before, print_before = bits(task), lora.fingerprint(task.model).tensors
    grads: set[str] = set()

    def look(event: Event) -> None:
        grads.update(name for name, p in task.named_parameters() if p.grad is not None and not p.requires_grad)

    fit(task, points(), replace(BASE, weight_decay=0.5), [look])
    factors = {f"{layer}.{factor}" for layer in "03" for factor in ("lora_A", "lora_B")}
    statistics = {"4.running_mean", "4.running_var", "4.num_batches_tracked"}
    assert moved(before, bits(task)) == factors | statistics | {"4.weight", "4.bias", "5.weight", "5.bias"}
    assert grads == set()
    now = lora.fingerprint(task.model).tensors
    assert {name.partition(".")[0] for name in now if now[name] != print_before[name]} == {"4", "5"}
    assert not task.training


def test_what_was_trained_beside_a_frozen_norm_can_be_loaded(tmp_path: Path):
    task = Toy()
    pristine = lora.fingerprint(task.model)
    fit(task, points(), BASE)
    lora.save_adapter(task.model, tmp_path / "lens", base=pristine)
    loaded = Toy(adapt=False)
    lora.load_adapter(loaded.model, tmp_path / "lens")
    assert evaluate(loaded, listed(1)) == evaluate(task, listed(1))


def test_without_adapters_all_is_trained_statistics_included():
    task = Toy(adapt=False)
    before = bits(task)
    fit(task, points(), BASE)
    assert moved(before, bits(task)) == set(task.model.state_dict())


def test_rates_clipping_and_the_schedule_take_effect():
    config = replace(BASE, optimizer="sgd", schedule="constant", warmup_steps=0, steps=1, lr=1e-3, clip_norm=0.0)

    def steps(config: TrainConfig) -> tuple[Tensor, Tensor]:
        """How far the adapters (B: A has no gradient yet) and the trained base tensors went."""
        task = Toy()
        before = copy.deepcopy(task)
        fit(task, listed(1), config)
        pairs = list(zip(task.named_parameters(), before.parameters(), strict=True))
        gone = {name: (p - q).detach().flatten() for (name, p), q in pairs}
        b = torch.cat([delta for name, delta in gone.items() if "lora_" in name])
        base = torch.cat([delta for name, delta in gone.items() if "lora_" not in name])
        return b, base

    b, base = steps(config)
    assert b.norm() > 0 < base.norm()
    b10, base10 = steps(replace(config, lr=1e-2, base_lr=1e-3))
    torch.testing.assert_close(b10, b * 10, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(base10, base, rtol=1e-3, atol=1e-7)
    clipped = torch.cat(steps(replace(config, lr=1.0, clip_norm=0.01)))
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    half = torch.cat(steps(replace(config, warmup_steps=2)))
    torch.testing.assert_close(half, torch.cat([b, base]) / 2, rtol=1e-3, atol=1e-7)

    saved = Saved()
    fit(Toy(), listed(1), replace(BASE, steps=12, lr=0.4, warmup_steps=4, final_lr_ratio=0.1), [saved])
    lrs = [event.lr for event in saved.of(Stepped)]
    assert lrs[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert lrs[8] == pytest.approx(0.4 * 0.55)
    assert all(a > b > 0.04 for a, b in pairwise(lrs[4:]))


def test_accumulated_batches_count_as_one():
    big = listed(2, 16)
    small = [{name: part for name, part in zip(b, parts)} for b in big for parts in zip(*(v.chunk(2) for v in b.values()))]  # fmt: skip  # noqa: B905, C416, E501
    tasks = [Toy(), Toy()]
    for task in tasks:
        task.model[4] = nn.Identity()  # a norm sees each batch by itself
    events = [Saved(), Saved()]
    fit(tasks[0], big, replace(BASE, optimizer="sgd"), [events[0]])
    fit(tasks[1], small, replace(BASE, optimizer="sgd", accumulate=2), [events[1]])
    torch.testing.assert_close(tasks[1].state_dict(), tasks[0].state_dict(), rtol=1e-5, atol=1e-6)
    for a, b in zip(events[0].of(Stepped), events[1].of(Stepped), strict=True):
        assert b.losses == pytest.approx(a.losses, rel=1e-5)


def test_gradients_from_before_do_not_count():
    fresh, used = Toy(), Toy().eval()
    used(listed(1, seed=4)[0])["loss"].backward()
    for task in (fresh, used):
        fit(task, listed(), BASE)
    assert bits(fresh) == bits(used)


def test_averaged_weights_are_what_is_scored_and_kept():
    config = replace(BASE, ema_decay=0.9)
    plain, averaged, scored, saved = Toy(), Toy(), Toy(), Saved()
    fit(plain, points(), BASE)
    fit(averaged, points(), config, [saved])
    end = fit(scored, points(), replace(config, eval_every=1), test=listed(2, seed=9))
    last = saved.snapshot(6)
    assert torch.equal(last["trained"]["model.5.weight"], plain.model[5].weight)  # the training itself is the same
    for name, mean in last["averaged"].items():
        assert torch.equal(averaged.get_parameter(name), mean)
    assert bits(averaged) != bits(plain)
    assert evaluate(scored, listed(2, seed=9)) == end.best
    last_scored, held_out = Toy(), list(islice(points().starting_at(100), 3))
    end = fit(last_scored, points(), replace(config, eval_every=6), test=held_out)
    assert end.best_step == 6
    assert end.best == evaluate(averaged, held_out)
    assert bits(last_scored) == bits(averaged)


def test_the_best_weights_seen_are_left_even_those_it_came_with():
    task, saved = Toy(), Saved()
    before = bits(task)
    end = fit(task, listed(), replace(BASE, lr=50.0, optimizer="sgd", eval_every=1), [saved], listed(1, seed=9))
    assert (end.improved, end.best_step, end.best) == (False, 0, end.first)
    assert bits(task) == before
    task, saved = Toy(), Saved()
    end = fit(task, listed(), replace(BASE, steps=40, lr=0.03, eval_every=1), [saved], listed(4))
    scores = {event.step: event.metrics["error"] for event in saved.of(Evaluated)}
    assert end.improved
    assert end.best_step == min(scores, key=scores.__getitem__)
    assert evaluate(task, listed(4)) == end.best
    assert [event.step for event in saved.of(Evaluated) if event.is_best][-1] == end.best_step
    assert list(scores) == list(range(41))


class Watched(Toy):
    """Has something to say of every evaluation."""

    def remarks(self, evaluations: Any, kept: int) -> list[str]:
        return [f"{kept} of {sorted(evaluations)}", f"{evaluations[kept]['error']:.9f}"]


def test_a_task_sees_all_evaluations_also_those_before_an_interruption():
    config, test, saved = replace(BASE, steps=12, eval_every=3), listed(2, seed=9), Saved()
    end = fit(Watched(), points(), config, [saved], test)
    assert end.remarks == (f"{end.best_step} of [0, 3, 6, 9, 12]", f"{end.best['error']:.9f}")
    assert in_words(record(end)).endswith(" ".join(end.remarks))
    for step in (2, 7):
        assert fit(Watched(seed=99), points(), config, [], test, resume=saved.snapshot(step)).remarks == end.remarks


def test_a_rise_too_small_to_count_leaves_the_weights_it_came_with():
    task = Toy()
    task.min_delta = 1e6
    before = bits(task)
    end = fit(task, listed(), replace(BASE, steps=40, lr=0.03, eval_every=1), [], listed(4))
    assert (end.improved, end.best_step) == (False, 0)
    assert bits(task) == before


def test_a_first_score_that_is_no_number_does_not_stay_the_best():
    class Odd(Toy):
        seen = 0

        def score(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Any]:
            Odd.seen += 1
            return {"error": float("nan") if Odd.seen in (1, 3) else float(Odd.seen)}

    saved = Saved()
    end = fit(Odd(), listed(), replace(BASE, eval_every=1), [saved], listed(1))
    assert [event.is_best for event in saved.of(Evaluated)] == [True, True, *[False] * 5]
    assert end.best == {"error": 2.0}


def test_evaluating_averages_each_metric_over_the_batches_that_have_it():
    class Named(Toy):
        def score(self, prediction: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Any]:
            assert not self.training
            assert not prediction.requires_grad
            n = len(prediction)
            return {"all": float(n), f"size {n}": 1.0}

    task = Named()
    task.train()
    batches = [*listed(1, 2), *listed(1, 3), *listed(1, 4)]
    assert evaluate(task, iter(batches)) == {"all": 3.0, "size 2": 1.0, "size 3": 1.0, "size 4": 1.0}
    assert task.training


# ------------------------------------------------------------------------------------ precision, state outside


def test_two_fits_of_different_precision_in_one_process():
    results = {}
    for precision in ("fp32", "bf16", "fp32 again"):
        task, seen = Toy(), set()
        task.model[3].register_forward_hook(lambda layer, args, out, seen=seen: seen.add(out.dtype))
        fit(task, listed(), replace(BASE, precision=precision.split()[0]), test=listed(1))
        assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert "forward" not in vars(task)
        assert "forward" not in vars(task.model)
        assert {tensor.dtype for tensor in task.state_dict().values()} == {torch.float32, torch.int64}
        results[precision] = bits(task)
    assert results["fp32"] == results["fp32 again"] != results["bf16"]


def test_fp16_computes_in_half_and_scales_the_loss_so_that_small_gradients_count():
    class Faint(Toy):
        def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {"loss": super().forward(batch)["loss"].float() * 1e-8}  # in half precision its gradients are 0

    norms, kept = {}, set()
    for precision in ("fp32", "fp16"):
        task, saved = Faint(), Saved()
        task.model[3].register_forward_hook(lambda layer, args, out: kept.add(out.dtype))
        fit(task, listed(), replace(BASE, precision=precision, steps=2), [saved])
        norms[precision] = [event.grad_norm for event in saved.of(Stepped)]
    assert kept == {torch.float32, torch.float16}
    assert norms["fp16"] == pytest.approx(norms["fp32"], rel=0.05)
    assert norms["fp16"] != norms["fp32"]
    assert evaluate(Toy(), listed(1), "fp16") != evaluate(Toy(), listed(1))


def test_a_loss_scaled_too_far_is_scaled_less_and_a_resumed_run_knows_how_far():
    large = [{"x": batch["x"], "y": batch["y"] * 100} for batch in listed()]
    config = replace(BASE, precision="fp16", steps=12, clip_norm=0.0)
    whole, unbroken = Toy(), Saved()
    fit(whole, large, config, [unbroken])
    scales = [unbroken.snapshot(step)["scaler"]["scale"] for step in range(1, 13)]
    assert scales[0] < 2**16
    assert scales == sorted(scales, reverse=True)
    assert unbroken.of(Stepped)[0].grad_norm != unbroken.of(Stepped)[0].grad_norm  # not finite: passed over
    assert math.isfinite(unbroken.of(Stepped)[-1].grad_norm)
    again = Toy(seed=99)
    fit(again, large, config, resume=unbroken.snapshot(3))
    assert bits(again) == bits(whole)


def test_words_that_a_setting_does_not_take_are_refused_in_python_too():
    for setting, value in (("precision", "fp8"), ("optimizer", "lion"), ("schedule", "cosin")):
        with pytest.raises(ValueError, match=f"^train.{setting}: '{value}' does not work.* does$") as refusal:
            TrainConfig(**{setting: value})
        assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match=r"^precision: 'half' does not work; fp32, bf16, fp16 do$"):
        evaluate(Toy(), listed(1), "half")


def test_dropout_differs_between_processes(monkeypatch: pytest.MonkeyPatch):
    same = [listed(1)[0]] * 4  # whichever batch a process draws
    results = []
    for rank in (0, 1, 1):
        monkeypatch.setattr(Accelerator, "process_index", rank)
        task = Toy(dropout=0.5)
        fit(task, same, BASE)
        results.append(bits(task))
    assert results[0] != results[1] == results[2]


def test_states_of_the_process_stay_as_they_are():
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    fit(Toy(dropout=0.5), points(), replace(BASE, steps=2), test=listed(1))
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(after[0], before[0])
    assert np.array_equal(after[1], before[1])
    assert after[2] == before[2]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


# ------------------------------------------------------------------------------------------ numbers gone wrong


def spoilt(wrong: Callable[[int], bool]) -> list[dict[str, Tensor]]:
    """Eleven batches, some with an infinite target."""
    batches = listed(11)
    for number, batch in enumerate(batches):
        if wrong(number):
            batch["y"] = batch["y"] * float("inf")
    return batches


def test_a_bad_batch_is_passed_over():
    task, saved = Toy(), Saved()
    fit(task, spoilt(lambda number: number == 2), BASE, [saved])
    trained = [saved.snapshot(step)["trained"] for step in range(1, 7)]
    alike = [all(torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(trained)]
    assert alike == [False, True, False, False, False]
    assert all(torch.isfinite(tensor).all() for tensor in task.state_dict().values())


def test_bad_batches_in_a_row_end_the_training_in_one_line():
    config = replace(BASE, steps=22)
    task = Toy()
    before = bits(task)
    with pytest.raises(ValueError, match=f"not finite in {MAX_SKIPPED} steps in a row, up to step 10; .*train.lr") as e:
        fit(task, spoilt(lambda number: True), config)
    assert "\n" not in str(e.value)
    assert {name.rpartition(".")[2] for name in moved(before, bits(task))} <= {
        "running_mean", "running_var", "num_batches_tracked",
    }  # fmt: skip
    fit(task, spoilt(lambda number: number > 1), config)  # nine in a row, twice


# ------------------------------------------------------------------------------------------------ interruptions


def test_ctrl_c_ends_after_the_step_and_resuming_loses_nothing():
    def interrupt(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            signal.raise_signal(signal.SIGINT)

    whole, broken, saved = Toy(), Toy(), Saved()
    fit(whole, points(), BASE)
    end = fit(broken, points(), BASE, [interrupt, saved])
    assert (end.reason, end.step) == ("interrupted", 3)
    assert [event.step for event in saved.of(Stepped)] == [1, 2, 3]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = Toy(seed=5)
    assert fit(resumed, points(), BASE, resume=end.snapshot()).reason == "done"
    assert bits(resumed) == bits(whole)


def test_a_second_ctrl_c_ends_at_once():
    def interrupt_twice(event: Event) -> None:
        if isinstance(event, Stepped):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(Toy(), points(), BASE, [interrupt_twice])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_training_works_without_signals():
    ends: list[Finished] = []
    thread = threading.Thread(target=lambda: ends.append(fit(Toy(), points(), BASE)))
    thread.start()
    thread.join()
    here = Toy()
    fit(here, points(), BASE)
    assert ends[0].reason == "done"
    assert torch.equal(ends[0].snapshot()["trained"]["model.5.weight"], here.model[5].weight)


@pytest.mark.parametrize(
    ("change", "batches", "says"),
    [
        ({"steps": None}, listed(), "train.steps: not set"),
        ({"device": "mps"}, listed(), "train.device: 'mps' does not work here; 'cpu' or"),
        ({}, [], "training data is empty"),
    ],
)
def test_wrong_settings(change: dict[str, Any], batches: list[Any], says: str):
    if change.get("device") == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has an mps device")
    with pytest.raises(ValueError, match=says):
        fit(Toy(), batches, replace(BASE, **change))


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        fit(Toy().requires_grad_(False), listed(), BASE)


def test_what_the_events_say():
    saved = Saved()
    end = fit(Toy(), points(), replace(BASE, eval_every=4), [saved], listed(2))
    counted = lora.count_parameters(Toy())
    started = saved.of(Started)
    assert [(e.step, e.total, e.trained, e.frozen) for e in started] == [
        (0, 6, counted.trainable, counted.total - counted.trainable)
    ]
    kinds = [(type(event).__name__, getattr(event, "step", None)) for event in saved.events[1:]]
    assert kinds == [
        ("Evaluated", 0), ("Stepped", 1), ("Stepped", 2), ("Stepped", 3), ("Evaluated", 4), ("Stepped", 4),
        ("Stepped", 5), ("Evaluated", 6), ("Stepped", 6), ("Finished", 6),
    ]  # fmt: skip
    assert saved.events[-1] is end
    assert all(set(event.losses) == {"loss", "size"} for event in saved.of(Stepped))
    assert all(event.seconds > 0 for event in saved.of(Stepped))
    assert all(event.grad_norm > 0 for event in saved.of(Stepped))


@pytest.mark.parametrize("clip_norm", [0.0, 1e-3])
def test_the_norm_of_the_gradients_is_told_as_it_was_before_clipping(clip_norm: float):
    saved, task, batch = Saved(), Toy(), listed(1)[0]
    fit(task, [batch], replace(BASE, steps=1, clip_norm=clip_norm), [saved])
    twin = Toy().train()
    twin.model[1].eval()  # its statistics rest
    twin(batch)["loss"].backward()
    squares = sum(p.grad.square().sum() for p in twin.parameters() if p.grad is not None)
    assert saved.of(Stepped)[0].grad_norm == pytest.approx(float(squares) ** 0.5, rel=1e-5)


# ------------------------------------------------------------------------------ processes that are really killed

TINY = (
    "--model.encoder edsr-tiny --model.base none --lora.modules_to_save imnet --lora.lora_dropout 0.1 --lora.r 2 "
    "--train.device cpu --train.batch_size 2 --train.lr 0.01 --train.save_every 2 --train.ema_decay 0.9 "
    "--data.patch 12 --data.points 64 --data.test_crop 24 --data.test_scales 2"
).split()

DOOMED = """
import os, random, signal, sys, threading

from lorgnette.train import listeners
from lorgnette.cli import main
from lorgnette.train.events import Stepped

if __name__ == "__main__":
    step, delay = int(sys.argv[1]), float(sys.argv[2])
    usual = listeners.run_listeners

    def doom(event):  # called before the checkpoint of the step is written
        if isinstance(event, Stepped) and event.step == step:
            if delay:
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    listeners.run_listeners = lambda folder: [*usual(folder), doom]
    sys.exit(main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):  # five to train on: three steps of two are more than an epoch
        coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        PIL.Image.fromarray(coarse).resize((48, 48), PIL.Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def script(folder: Path, text: str, *words: object, **settings: Any) -> subprocess.Popen[str]:
    """A Python process of its own that runs a file (spawned workers import it again)."""
    file = folder / "script.py"
    file.write_text(text)
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "OMP_NUM_THREADS": "1"}
    env |= settings.pop("env", {})
    return subprocess.Popen(
        [sys.executable, str(file), *map(str, words)], text=True, env=env, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **settings,
    )  # fmt: skip


def run_words(photos: Path, run: Path, steps: int, workers: int = 0) -> list[str]:
    own = ["--data.root", photos, "--out", run, "--train.steps", steps, "--train.workers", workers]
    return ["train", "superres", *TINY, *map(str, own)]


def killed(folder: Path, step: int, delay: float, words: list[str]) -> None:
    process = script(folder, DOOMED, step, delay, *words)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors


def kept(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def one_thread():
    """As in the processes that the tests start: the order of sums may depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_killed_with_a_worker_and_resumed_without(photos: Path, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(run_words(photos, whole, 7)) == 0
    killed(tmp_path, 5, 0, run_words(photos, broken, 7, workers=1))
    assert not (broken / "adapter").exists()
    assert torch.load(broken / "checkpoints" / "last.pt", weights_only=True)["step"] == 4
    assert main(["train", "superres", "--resume", str(broken), "--train.workers", "0"]) == 0
    assert kept(broken) == kept(whole)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_five_times_and_resumed_with_another_number_of_workers(workers: int, photos: Path, tmp_path: Path):
    """At random steps and, but for the first, at random moments within them."""
    steps, rng = 40, random.Random(workers)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(run_words(photos, whole, steps)) == 0
    stops = sorted(rng.sample([step for step in range(3, steps - 3) if step * 2 % 5], 5))
    words = run_words(photos, broken, steps, workers)
    for number, stop in enumerate(stops):
        killed(tmp_path, stop, rng.uniform(0, 0.1) if number else 0, words)
        words = ["train", "superres", "--resume", str(broken), "--train.workers", str((workers + number + 1) % 3)]
    assert main(words) == 0
    assert kept(broken) == kept(whole)


@pytest.mark.usefixtures("one_thread")
def test_ctrl_c_in_a_terminal(photos: Path, tmp_path: Path):
    """The signal reaches the loading processes too; the step still ends, and all is saved."""
    broken = tmp_path / "a run"
    text = "import sys\nfrom lorgnette.cli import main\nif __name__ == '__main__':\n    sys.exit(main(sys.argv[1:]))\n"
    process = script(tmp_path, text, *run_words(photos, broken, 100_000, workers=2), start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()  # what is going to happen; then the first steps
    while not (broken / "checkpoints" / "last.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        threading.Event().wait(0.02)
    os.killpg(process.pid, signal.SIGINT)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert said.rstrip().endswith(f"To go on:\n  lorgnette train superres --resume '{broken}'")
    step = torch.load(broken / "checkpoints" / "last.pt", weights_only=True)["step"]
    assert f"Interrupted after step {step} of 100000; everything is saved." in said
    assert kept(broken)


# --------------------------------------------------------------------------------------------- several processes

SHARED = """
import sys
from dataclasses import replace

import torch

from tests.train.test_loop import BASE, Toy, points, listed
from lorgnette.train.listeners.record import in_words, record
from lorgnette.train.loop import fit

if __name__ == "__main__":
    task, seen = Toy(), []
    task.model[4] = torch.nn.Identity()
    source = points(batch_size=2) if sys.argv[1] == "drawn" else listed()
    config = replace(BASE, accumulate=int(sys.argv[2]), ema_decay=0.5, eval_every=2)
    fit(task, source, config, [lambda event: seen.append(type(event).__name__)], listed(1, seed=9))
    torch.save({"weights": task.state_dict(), "seen": seen}, sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_equal_one(accumulate: int, tmp_path: Path):
    for kind in ("drawn", "listed"):
        processes = []
        port = str(random.randint(20000, 40000))
        for rank in (0, 1):
            env = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true",
            }  # fmt: skip
            processes.append(script(tmp_path, SHARED, kind, accumulate, tmp_path / f"{rank}.pt", env=env))
        for process in processes:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
        first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
        assert bits_of(first["weights"]) == bits_of(second["weights"])
        assert first["seen"][-1] == "Finished"
        assert second["seen"] == []
        task = Toy()
        task.model[4] = nn.Identity()
        together = accumulate if kind == "drawn" else 2 * accumulate  # two listed batches count as one step
        source = points(batch_size=4) if kind == "drawn" else listed()
        fit(task, source, replace(BASE, accumulate=together, ema_decay=0.5, eval_every=2), test=listed(1, seed=9))
        torch.testing.assert_close(dict(first["weights"]), dict(task.state_dict()), rtol=0, atol=1e-6)


def bits_of(state: Mapping[str, Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}
