"""Listeners: what a run leaves behind and tells, also when it was killed and resumed."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st

from lorgnette.train.batches import ListedBatches
from lorgnette.train.config import TrainConfig
from lorgnette.train.events import Evaluated, Finished, Started, Stepped
from lorgnette.train.listeners import (
    MetricsFile,
    ProgressBar,
    Report,
    SamplePictures,
    TensorBoard,
    in_words,
    read_metrics,
    record,
    run_listeners,
)
from lorgnette.train.loop import fit
from lorgnette.train.task import Task


def started(step=0, total=100):
    return Started(TrainConfig(steps=total), step, total, trained=30, frozen=970)


def stepped(step, loss=0.5):
    return Stepped(step, {"loss": loss}, loss / 2, 1e-3, 0.1, dict)


def evaluated(step, psnr=20.0, is_best=True, pictures=None):
    return Evaluated(step, {"psnr": psnr, "ssim": 0.84}, is_best, pictures or {})


def finished(step=100, reason="done", first=20.0, best=21.2, best_step=90):
    metrics = ({"psnr": first}, {"psnr": best}) if best_step is not None else ({}, {})
    return Finished(step, reason, *metrics, best_step or 0, best_step != 0, dict)


# ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(events, stream, **settings):
    bar = ProgressBar(stream, **settings)
    for event in events:
        bar(event)
    return stream.getvalue()


def test_no_terminal_means_few_plain_lines():
    events = [started(40), *(stepped(s) for s in range(41, 101)), finished()]
    lines = shown(events, io.StringIO(), seconds=3600).splitlines()
    assert lines[0] == "Training 30 of 1,000 parameters (3 %), going on after step 40."
    assert lines[1].startswith("step 100/100   loss 0.5000   lr 1.0e-03   ")
    assert lines[1].endswith("steps/s   0 s left")
    assert len(lines) == 3


def test_plain_lines_come_after_the_given_time():
    events = [started(), *(stepped(s) for s in range(1, 11))]
    assert len(shown(events, io.StringIO(), seconds=0).splitlines()) == 11


def test_bar_goes_on_at_the_resumed_step():
    text = shown([started(40), *(stepped(s) for s in range(41, 101)), finished()], Terminal())
    assert " 40/100 " in text
    assert " 100/100 " in text
    assert "loss 0.5000, lr 1.0e-03" in text
    assert text.endswith("Done at step 100. Best at step 90: psnr 21.20 (+1.20 against before training).\n")


def test_evaluations_are_rows_of_an_aligned_table():
    events = [started(), evaluated(0), evaluated(50, 21.2), evaluated(100, 19.8, is_best=False)]
    rows = shown(events, io.StringIO()).splitlines()[1:]
    assert rows == [
        "step   0   psnr 20.00           ssim 0.8400",
        "step  50   psnr 21.20 (+1.20)   ssim 0.8400   best so far",
        "step 100   psnr 19.80 (-0.20)   ssim 0.8400",
    ]


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (finished(), "Done at step 100. Best at step 90: psnr 21.20 (+1.20 against before training)."),
        (
            finished(60, "stopped early", best=20.0, best_step=0),
            "Stopped early at step 60. Adaptation did not help: no evaluation was better than before "
            "training (psnr 20.00). The model is as it was.",
        ),
        (
            finished(7, "interrupted", best=20.0, best_step=0),
            "Interrupted at step 7. Nothing better than before training so far: the model is as it was.",
        ),
        (finished(best_step=None), "Done at step 100."),
        (finished(best=float("inf")), "Done at step 100. Best at step 90: psnr –."),
    ],
)
def test_the_end_in_words(event, words):
    assert in_words(record(event)) == words


# MetricsFile


def test_every_event_is_a_line_of_strict_json(tmp_path):
    listener = MetricsFile(tmp_path / "run" / "metrics.jsonl")
    for event in (started(), evaluated(0, float("inf")), stepped(1, float("nan")), finished()):
        listener(event)

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert [line["event"] for line in lines] == ["start", "eval", "step", "finish"]
    assert lines[1]["metrics"] == {"psnr": None, "ssim": 0.84}
    assert lines[2] == {"event": "step", "step": 1, "loss": None, "grad_norm": None, "lr": 1e-3, "seconds": 0.1}


@settings(max_examples=40, deadline=None)
@given(
    kills=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 200)), max_size=4),
    every=st.integers(1, 8),
    evaluate_again=st.booleans(),
)
def test_killing_and_resuming_leaves_one_line_for_each_step(kills, every, evaluate_again):
    """Each leg is killed after some steps, perhaps in the middle of a line; a snapshot comes every few."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "metrics.jsonl")
        at = 0
        for length, torn in [*kills, (1000, 0)]:
            listener = MetricsFile(path)
            listener(started(at, total=40))
            if at == 0 or evaluate_again:
                listener(evaluated(at))
            last = min(40, at + length)
            for step in range(at + 1, last + 1):
                listener(stepped(step))
                if step % 4 == 0:
                    listener(evaluated(step))
            if last == 40:
                break
            data = path.read_bytes()
            size = len(data.splitlines(keepends=True)[-1])
            torn %= size
            assume(not torn or last % every)  # the snapshot of a step is made after its line
            path.write_bytes(data[: len(data) - torn])
            at = max(at, last // every * every)
        listener(finished(40))
        lines = read_metrics(path)
        counts = Counter((line["event"], line["step"]) for line in lines)
        assert [counts["step", step] for step in range(1, 41)] == [1] * 40
        assert max(counts.values()) == 1
        assert [line["event"] for line in lines[-2:]] == ["eval", "finish"]


def test_a_fresh_run_starts_an_empty_file(tmp_path):
    for _ in range(2):
        listener = MetricsFile(tmp_path / "metrics.jsonl")
        for event in (started(), evaluated(0), stepped(1), finished()):
            listener(event)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 4


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "start"}\n{"event": "st\n{"event": "step"}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2 is not a JSON object"):
        read_metrics(path)
    with pytest.raises(FileNotFoundError, match=r"other\.jsonl"):
        read_metrics(tmp_path / "other.jsonl")


# SamplePictures


def pictures(value=0, names=("cat x4",)):
    return {name: np.full((4, 6, 3), value, np.uint8) for name in names}


def steps_kept(folder):
    return sorted(int(path.name.split("-")[0]) for path in folder.iterdir())


def test_first_best_and_last_pictures_are_kept(tmp_path):
    listener = SamplePictures(tmp_path)
    kept = []
    listener(started())
    for step, is_best in [
        (0, True),
        (10, False),
        (20, True),
        (30, False),
        (40, False),
        (50, True),
        (60, False),
    ]:
        listener(evaluated(step, is_best=is_best, pictures=pictures(step)))
        kept.append(steps_kept(tmp_path))
    assert kept == [[0], [0, 10], [0, 20], [0, 20, 30], [0, 20, 40], [0, 50], [0, 50, 60]]
    assert np.asarray(PIL.Image.open(tmp_path / "000050-cat_x4.png")).max() == 50


@pytest.mark.parametrize(
    ("before", "resumed_at", "after"),
    [
        ([0, 20, 40], 40, [0, 20, 60]),
        ([0, 50, 60], 55, [0, 50, 60]),
        ([0, 50], 30, [0, 60]),
        ([0, 20], 0, [60]),
    ],
)
def test_pictures_of_a_resumed_run(tmp_path, before, resumed_at, after):
    (tmp_path / "mine.png").write_bytes(b"not ours")
    first = SamplePictures(tmp_path)
    first(started())
    for step in before[:2]:
        first(evaluated(step, pictures=pictures()))
    for step in before[2:]:
        first(evaluated(step, is_best=False, pictures=pictures()))
    assert [path.name for path in tmp_path.glob("m*")] == ["mine.png"]
    (tmp_path / "mine.png").unlink()
    resumed = SamplePictures(tmp_path)
    resumed(started(resumed_at))
    resumed(evaluated(60, is_best=False, pictures=pictures()))
    assert steps_kept(tmp_path) == after


def test_picture_names_stay_in_the_folder_and_apart(tmp_path):
    names = ("../../x", "/etc/passwd", "a b", "a:b", "", "..", "é" * 300, "日本", "\0")
    listener = SamplePictures(tmp_path / "samples")
    listener(started())
    listener(evaluated(0, pictures=pictures(names=names)))
    files = list((tmp_path / "samples").iterdir())
    assert len(files) == len(names)
    assert list(tmp_path.iterdir()) == [tmp_path / "samples"]
    assert "000000-日本.png" in {path.name for path in files}


# TensorBoard


def scalars(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder))
        events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_events_of_a_resumed_run(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is an extra")
    for begin, end, loss in ((0, 6, 1.0), (4, 8, 2.0)):
        listener = TensorBoard(tmp_path)
        listener(started(begin, total=8))
        for step in range(begin + 1, end + 1):
            listener(stepped(step, loss))
        listener(evaluated(end, pictures=pictures()))
        listener(finished(end))
    found = scalars(tmp_path)
    assert found["train/loss"] == [(s, 1.0) for s in range(1, 5)] + [(s, 2.0) for s in range(5, 9)]
    assert found["test/psnr"] == [(8, 20.0)]
    assert {"train/lr", "test/ssim"} <= found.keys()
    assert found["train/grad_norm"] == [(s, 0.5) for s in range(1, 5)] + [(s, 1.0) for s in range(5, 9)]


def test_without_tensorboard_a_run_has_no_such_listener(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'lorgnette\[tensorboard\]'"):
        TensorBoard(tmp_path)
    assert not [one for one in run_listeners(tmp_path) if isinstance(one, TensorBoard)]


# Report, and all of them in a training


def test_the_report_is_written_at_the_end_and_seldom_before(tmp_path):
    seldom, often = Report(tmp_path, seconds=3600), Report(tmp_path, seconds=0)
    for event in (started(), stepped(1), evaluated(1)):
        seldom(event)
    assert not (tmp_path / "report.html").exists()
    for event in (started(), stepped(7)):
        often(event)
    assert "In training: step 7 of 100." in (tmp_path / "report.html").read_text()
    seldom(finished())
    assert "Done at step 100." in (tmp_path / "report.html").read_text()


class Line(Task):
    """Learns y = 2 x with one weight, slowly."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.model.weight)

    def forward(self, batch):
        return {"loss": (self.model(batch) - 2 * batch).square().mean()}

    def predict(self, batch):
        return self.model(batch)

    def score(self, prediction, batch):
        return {"closeness": -float((prediction - 2 * batch).square().mean())}

    def objective(self, metrics):
        return metrics["closeness"]

    def pictures(self, prediction, batch):
        grey = np.linspace(0, 120, 40, dtype=np.uint8) * np.uint8(1 + float(prediction[0]) > 1.2)
        return {"the <line>": np.repeat(np.tile(grey, (30, 1))[..., None], 3, axis=-1)}


class Killed(Exception):
    pass


def test_a_run_that_was_killed_and_resumed_is_told_whole(tmp_path, capsys):
    config = TrainConfig(steps=12, lr=0.2, warmup_steps=0, eval_every=3, device="cpu")
    data = ListedBatches([torch.ones(2, 1), -torch.ones(2, 1)])
    test = [torch.ones(1, 1)]
    snapshots = {}

    def keep(event):
        if isinstance(event, Stepped):
            snapshots[event.step] = event.snapshot()
            if event.step == 8 and 12 not in snapshots:
                raise Killed

    task = Line()
    with pytest.raises(Killed):
        fit(task, data, config, [*run_listeners(tmp_path), keep], test)
    (tmp_path / "recipe.yaml").write_text("room: <none>\n")
    end = fit(task, data, config, run_listeners(tmp_path), test, resume=snapshots[5])

    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if line["event"] == "step"] == list(range(1, 13))
    assert [line["step"] for line in lines if line["event"] == "eval"] == [0, 3, 6, 9, 12]
    assert lines[-1]["improved"] is True
    assert lines[-1]["best_step"] == end.best_step
    page = (tmp_path / "report.html").read_text()
    for part in ("before training", f"step {end.best_step}<", "room: &lt;none&gt;", 'type="range"', "<svg"):
        assert part in page
    assert f"Best at step {end.best_step}: closeness " in capsys.readouterr().err
    assert {0, end.best_step} <= set(steps_kept(tmp_path / "samples"))


def test_importing_listeners_and_report_imports_no_torch():
    code = "import sys, lorgnette.train.listeners, lorgnette.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
