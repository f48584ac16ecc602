"""What a person sees while training runs."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from tqdm import tqdm

from lorgnette.common.text import duration, number
from lorgnette.train.events import Evaluated, Event, Finished, Started, Stepped
from lorgnette.train.listeners.record import change, finite, in_words, record


class ProgressBar:
    """Step, smoothed loss, learning rate, rate and time left on stderr; a table row for each evaluation.

    Where stderr is no terminal (a log file), a plain line every few seconds instead of a bar.

    Args:
        stream: where to write; None for stderr.
        seconds: least time between two plain lines.
    """

    def __init__(self, stream: TextIO | None = None, seconds: float = 5.0):
        self._stream, self._seconds = stream, seconds
        self._bar: tqdm | None = None  # None where the stream is no terminal
        self._first: dict[str, float | None] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._start(event)
            case Stepped():
                self._step(event)
            case Evaluated():
                self._write(self._row(event))
            case Finished():
                if self._bar is not None:
                    self._bar.close()
                self._write(in_words(record(event)))

    def _start(self, event: Started) -> None:
        self._out = self._stream or sys.stderr  # looked up late: it may have been redirected since
        self._from, self._total = event.step, event.total
        self._loss, self._count = 0.0, 0
        self._began = self._last_line = time.monotonic()
        everything = event.trained + event.frozen
        share = f"{100 * event.trained / everything:.2g} %" if everything else "0 %"
        resumed = f", going on after step {event.step}" if event.step else ""
        self._write(f"Training {event.trained:,} of {everything:,} parameters ({share}){resumed}.")
        if self._out.isatty():
            self._bar = tqdm(total=event.total, initial=event.step, file=self._out, unit="step", dynamic_ncols=True)

    def _step(self, event: Stepped) -> None:
        self._count += 1
        self._loss += (event.losses["loss"] - self._loss) / min(self._count, 20)
        loss, lr = number(self._loss), f"{event.lr:.1e}"
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss}, lr {lr}", refresh=False)
            self._bar.update(event.step - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last_line >= self._seconds or event.step == self._total:
            self._last_line = now
            rate = (event.step - self._from) / max(now - self._began, 1e-9)
            left = duration((self._total - event.step) / rate)
            step = f"{event.step:>{len(str(self._total))}}/{self._total}"
            self._write(f"step {step}   loss {loss}   lr {lr}   {rate:.3g} steps/s   {left} left")

    def _row(self, event: Evaluated) -> str:
        """The change against the first evaluation stands after the first metric, by custom the main one."""
        metrics = finite(event.metrics)
        if event.step == 0:
            self._first = metrics
        cells = [f"{name} {number(value)}" for name, value in metrics.items()]
        if cells and self._first:
            name = next(iter(metrics))
            gain = change(metrics[name], self._first.get(name)) if event.step else ""
            cells[0] += f" ({gain})" if gain else " " * 8
        if event.step and event.is_best:
            cells.append("best so far")
        return "   ".join([f"step {event.step:>{len(str(self._total))}}", *cells])

    def _write(self, line: str) -> None:
        tqdm.write(line, file=self._out)
        self._out.flush()
