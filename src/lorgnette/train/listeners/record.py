"""An event as plain values, and the end of a training in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lorgnette.common.text import decimals, number
from lorgnette.train.events import Evaluated, Event, Finished, Started, Stepped


def record(event: Event) -> dict[str, Any]:
    """An event as a line of metrics.jsonl: plain values, None for what JSON cannot say (nan, infinity)."""
    match event:
        case Started():
            counts = {"trained": event.trained, "frozen": event.frozen}
            return {"event": "start", "step": event.step, "total": event.total, **counts}
        case Stepped():
            own = {**finite({"grad_norm": event.grad_norm}), "lr": float(event.lr), "seconds": round(event.seconds, 4)}
            skipped = {} if event.applied else {"skipped": True}
            return {"event": "step", "step": event.step, **finite(event.losses), **own, **skipped}
        case Evaluated():
            metrics = finite(event.metrics)
            rows = {name: finite(scores) for name, scores in event.compared.items()}
            compared = {"compared": rows} if rows else {}
            return {"event": "eval", "step": event.step, "metrics": metrics, "is_best": event.is_best, **compared}
        case Finished():
            return {
                "event": "finish",
                "step": event.step,
                "reason": event.reason,
                "first": finite(event.first),
                "best": finite(event.best),
                "best_step": event.best_step,
                "improved": event.improved,
                **({"remarks": list(event.remarks)} if event.remarks else {}),
            }


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


def in_words(finish: Mapping[str, Any]) -> str:
    """How a training ended, for a person. `finish` is the `record` of a `Finished` event."""
    return " ".join([_ending(finish), *finish.get("remarks", ())])


def _ending(finish: Mapping[str, Any]) -> str:
    openings = {"done": "Done", "stopped early": "Stopped early", "interrupted": "Interrupted"}
    opening = f"{openings.get(finish['reason'], finish['reason'])} at step {finish['step']}."
    if not finish["best"]:
        return opening
    name, value = next(iter(finish["best"].items()))
    if finish["improved"]:
        gain = change(value, finish["first"].get(name))
        against = f" ({gain} against before training)" if gain else ""
        return f"{opening} Best at step {finish['best_step']}: {name} {number(value)}{against}."
    if finish["step"] == 0 or finish["reason"] == "interrupted":
        return f"{opening} Nothing better than before training so far: the model is as it was."
    return (
        f"{opening} Adaptation did not help: no evaluation was better than before training "
        f"({name} {number(value)}). The model is as it was."
    )


def change(value: float | None, before: float | None) -> str:
    """ "+1.20", in the digits of `value`; empty where one is unknown."""
    if value is None or before is None or not math.isfinite(value - before):
        return ""
    return f"{value - before:+.{decimals(abs(value))}f}"
