"""Line charts as SVG text, for a page without any library. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from lorgnette.common.text import number

Point = tuple[float, float]

WIDTH, HEIGHT = 480, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 26
MOST_POINTS = 200  # more could not be told apart, and would make the page heavy


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) in [low, high], `about` so many."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m, most in ((1, 1.5), (2, 3.5), (5, 7.5), (10, 11)) if rough / power < most)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in [low, high]; the powers alone over more than two decades."""
    multiples = (1, 2, 5) if high / low <= 100 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**e for e in exponents for m in multiples if low <= m * 10.0**e <= high]


def line_chart(
    title: str, points: Sequence[Point], baseline: float | None = None, mark: float | None = None, noisy: bool = False
) -> str:
    """A figure with one curve; empty text if no point is finite.

    Args:
        title: heading of the figure.
        points: (step, value), in the order of the steps.
        baseline: value of a dashed line.
        mark: the step whose point is drawn as a dot.
        noisy: draw the values pale with a smoothed curve on top; logarithmic if they fall far.
    """
    points = _thinned([(x, y) for x, y in points if math.isfinite(y)])
    if not points:
        return ""
    values = [y for _, y in points] + ([baseline] if baseline is not None else [])
    logarithmic = noisy and min(values) > 0 and 20 < max(values) / min(values) < 1e9
    x_axis = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT, margin=0)
    y_axis = _Axis(values, HEIGHT - BOTTOM, TOP, margin=0.06, logarithmic=logarithmic)
    drawn = [(x_axis(x), y_axis(y)) for x, y in points]

    parts = [_grid(x_axis, y_axis)]
    if baseline is not None:
        y = y_axis(baseline)
        parts.append(f'<path class="baseline" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
    if noisy and len(drawn) > 8:
        parts.append(f'<polyline class="pale" points="{_joined(drawn)}"/>')
        drawn = _smoothed(drawn)
    parts.append(f'<polyline class="curve" points="{_joined(drawn)}"/>')
    for (step, _), (x, y) in zip(points, drawn, strict=True):
        if step == mark or len(points) == 1:
            parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    parts.append(_hover_bands(points, drawn))
    label = escape(f"{title}: from {number(float(points[0][1]))} to {number(float(points[-1][1]))}")
    note = " <small>log scale</small>" if logarithmic else ""
    return (
        f"<figure><figcaption>{escape(title)}{note}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg></figure>'
    )


class _Axis:
    """Maps values to pixels; called with a value."""

    def __init__(self, values: Sequence[float], start: float, end: float, margin: float, logarithmic: bool = False):
        self.start, self.end, self.logarithmic = start, end, logarithmic
        low, high = self._scaled(min(values)), self._scaled(max(values))
        room = margin * (high - low) or (0 if high > low else abs(low) * 0.05 or 0.5)
        self.low, self.high = low - room, high + room

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def __call__(self, value: float) -> float:
        share = (self._scaled(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        return log_ticks(10**self.low, 10**self.high) if self.logarithmic else ticks(self.low, self.high)


def _grid(x_axis: _Axis, y_axis: _Axis) -> str:
    lines = "".join(f"M{LEFT} {y_axis(t):.1f}H{WIDTH - RIGHT}" for t in y_axis.ticks())
    parts = [f'<path class="grid" d="{lines}"/>']
    for tick, text in _labelled(y_axis.ticks(), y_axis.logarithmic):
        parts.append(f'<text x="{LEFT - 8}" y="{y_axis(tick) + 4:.1f}" text-anchor="end">{text}</text>')
    steps = [tick for tick in x_axis.ticks() if tick == int(tick)]
    for tick, text in _labelled(steps, False):
        parts.append(f'<text x="{x_axis(tick):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{text}</text>')
    return "".join(parts)


def _labelled(values: list[float], logarithmic: bool) -> list[tuple[float, str]]:
    if logarithmic or len(values) < 2:
        return [(value, f"{value:g}") for value in values]
    gap = values[1] - values[0]
    if gap < 1e-5:
        return [(value, f"{value:.2e}") for value in values]
    digits = max(0, -math.floor(math.log10(gap) + 1e-9))
    return [(value, f"{value:,.{digits}f}") for value in values]


def _thinned(points: list[Point]) -> list[Point]:
    """At most MOST_POINTS: means of runs of equal length, at the last step of each."""
    size = math.ceil(len(points) / MOST_POINTS) or 1
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(run[-1][0], sum(y for _, y in run) / len(run)) for run in runs]


def _smoothed(points: list[Point], reach: int = 6) -> list[Point]:
    """Means over a window around each point, which narrows towards the ends: no lag, and the ends stay."""
    result = []
    for i, (x, _) in enumerate(points):
        side = min(i, len(points) - 1 - i, reach)
        window = points[i - side : i + side + 1]
        result.append((x, sum(y for _, y in window) / len(window)))
    return result


def _joined(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _hover_bands(points: Sequence[Point], drawn: Sequence[Point]) -> str:
    """Invisible bands, one a point, whose <title> the browser shows under the pointer."""
    middles = [(a[0] + b[0]) / 2 for a, b in pairwise(drawn)]
    edges = [float(LEFT), *middles, float(WIDTH - RIGHT)]
    bands = []
    for (step, value), (left, right) in zip(points, pairwise(edges), strict=True):
        title = f"step {step:,.0f}: {number(float(value))}"
        bands.append(
            f'<rect class="hit" x="{left:.1f}" y="{TOP}" width="{max(right - left, 0):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{title}</title></rect>'
        )
    return "".join(bands)
