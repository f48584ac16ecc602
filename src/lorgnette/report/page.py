"""One HTML file that shows what a training did: curves, table, pictures. It loads nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from lorgnette.common.files import write_text
from lorgnette.common.text import decimals, number, size
from lorgnette.report.charts import line_chart

Picture = str | os.PathLike[str] | NDArray[np.uint8]  # a PNG file, or (H, W, 3) or (H, W) uint8
Captioned = tuple[str, Picture] | tuple[str, Picture, Picture]  # caption, picture; or caption, before, after

LONGEST_SIDE = 1920  # larger pictures are shown smaller, to keep the page light
DETAIL = 96  # pixels: side of the detail that is shown enlarged

# The best value of a column is marked if its name contains one of these words.
HIGHER_IS_BETTER = {"psnr", "ssim", "accuracy", "dice", "iou", "cosine"}
MEANT = {
    "psnr": "peak signal-to-noise ratio in dB: how near a result is to the true picture. Higher is better; 1 dB more is"
    " a fifth less squared error, which a trained eye sees.",
    "ssim": "structural similarity: how alike the patterns of two pictures are. Higher is better; 1 is the same.",
    "accuracy": "the share that is right.",
    "nll": "negative log likelihood: how surprising the right answers were. Lower is better.",
    "ece": "expected calibration error: how far confidence lies from the share that is right. Lower is better.",
}
"""What is said under a table that has such a column."""
LOWER_IS_BETTER = {"loss", "error", "lpips", "hausdorff", "distance"}


def write_report(
    path: str | os.PathLike[str],
    title: str,
    recipe_text: str,
    metrics: Sequence[Mapping[str, Any]],
    table: Sequence[Mapping[str, Any]] | None,
    pictures: Sequence[Captioned],
    summary: str,
    panels: Sequence[str] = (),
) -> None:
    """Write a self-contained report: no part of it is loaded from elsewhere, and it reads without scripts.

    Args:
        path: the HTML file to write.
        title: heading and window title.
        recipe_text: the settings as text; left out if empty.
        metrics: lines of metrics.jsonl (see `lorgnette.train.listeners.read_metrics`); may be empty.
        table: rows, one column for each key in the order of first appearance; the first column names the row.
            A value is a text, a number, a tuple (mean, spread) or None; a number in a column whose name
            ends in "size" or "bytes" is in bytes.
        pictures: (caption, picture), or (caption, before, after) for a slider and an enlarged detail.
        summary: plain text; an empty line separates paragraphs.
        panels: what the parts of each picture show, from left to right, where all have such parts.

    Raises:
        ValueError: a picture is neither a readable image file nor a uint8 array, or `path` cannot be written.
        FileNotFoundError: a picture file is missing.
    """
    sections = [
        _section("Results", _table(table or [])),
        _section("Pictures", "".join(_figure(entry[0], *entry[1:], panels=panels) for entry in pictures)),
        _section("Curves", _curves(metrics)),
    ]
    if recipe_text.strip():
        sections.append(f"<details><summary>Recipe</summary><pre>{escape(recipe_text)}</pre></details>")
    paragraphs = "".join(f"<p>{escape(part)}</p>" for part in summary.split("\n\n") if part.strip())
    write_text(path, _page(title, paragraphs, "\n".join(sections)))


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{heading}</h2>{content}</section>" if content else ""


# Curves


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    """One chart for each metric on held-out data, which tell what it came to, then for each loss."""
    steps = [line for line in metrics if line.get("event") == "step"]
    evaluations = [line for line in metrics if line.get("event") == "eval"]
    charts = []
    best = next((line["step"] for line in reversed(evaluations) if line.get("is_best")), None)
    flat = [{"step": line["step"], **line["metrics"]} for line in evaluations]
    for name in _keys(flat, leave_out={"step"}):
        points = _points(flat, name)
        before = points[0][1] if points and points[0][0] == 0 else None
        charts.append(line_chart(name, points, baseline=before, mark=best))
    for name in _keys(steps, leave_out={"event", "step", "lr", "seconds", "skipped"}):
        charts.append(line_chart(name, _points(steps, name), noisy=True))
    charts = [chart for chart in charts if chart]
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]


def _keys(rows: Sequence[Mapping[str, Any]], leave_out: set[str] | None = None) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name not in (leave_out or ())]


# Table


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    names = _keys(rows)
    columns = [_column(name, [row.get(name) for row in rows]) for name in names[1:]]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = ""
    for index, row in enumerate(rows):
        label = escape(number(row.get(names[0])))
        cells = "".join(column[index] for column in columns)
        body += f'<tr><th scope="row">{label}</th>{cells}</tr>\n'
    words = {word for name in names[1:] for word in _words(name)}
    meant = "".join(f"<p><small>{name.upper()}: {about}</small></p>" for name, about in MEANT.items() if name in words)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{meant}'


def _words(name: str) -> set[str]:
    return set(name.lower().replace("_", " ").replace("-", " ").split())


def _column(name: str, values: Sequence[Any]) -> list[str]:
    """The cells of one column, alike in their digits, the best one marked."""
    figures = [_figure_of(value) for value in values]
    known = [value for value in figures if value is not None and math.isfinite(value)]
    digits = decimals(max(map(abs, known))) if known else 0
    words = _words(name)
    texts = [_text(value, digits, in_bytes=bool(words & {"size", "bytes"})) for value in values]
    best = None
    if len(known) > 1 and words & HIGHER_IS_BETTER:
        best = max(known)
    elif len(known) > 1 and words & LOWER_IS_BETTER:
        best = min(known)
    return [
        f'<td class="best" title="best">{escape(text)}</td>' if best is not None and value == best
        else f"<td>{escape(text)}</td>"
        for text, value in zip(texts, figures, strict=True)
    ]  # fmt: skip


def _figure_of(value: Any) -> float | None:
    """The number that a cell stands for, if any."""
    if isinstance(value, tuple):
        value = value[0]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any, digits: int, in_bytes: bool) -> str:
    if isinstance(value, tuple):
        mean, spread = value
        return f"{_text(mean, digits, in_bytes)} ± {_text(spread, digits, in_bytes)}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if in_bytes and isinstance(value, int | float):
        return size(value)
    return number(value, digits)


# Pictures


def _figure(caption: str, picture: Picture, after: Picture | None = None, *, panels: Sequence[str] = ()) -> str:
    first = _pixels(picture)
    text = escape(caption)
    parts = "".join(f"<span>{escape(name)}</span>" for name in panels)
    labels = f'<div class="panels">{parts}</div>' if panels else ""
    if after is None:
        pair = f'<div class="pair">{labels}{_img(first, caption)}</div>'
        return f"<figure><figcaption>{text}</figcaption>{pair}</figure>"
    second = _pixels(after)
    if np.array_equal(first, second):
        return _figure(f"{caption}, unchanged", first, panels=panels)
    if first.shape != second.shape:  # nothing to slide over
        before = _figure(f"{caption}, before", first, panels=panels)
        return before + _figure(f"{caption}, after", second, panels=panels)
    slider = (
        f'<div class="slider">{_img(first, f"{caption}, before")}{_img(second, f"{caption}, after", "over")}'
        f'<input type="range" value="50" aria-label="before or after"></div>'
    )
    sides = '<div class="sides"><span>before</span><span>after</span></div>'
    box = most_changed(first, second, DETAIL)
    details = (
        f'<div class="details">{_img(first[box], "detail, before", "detail")}'
        f"{_img(second[box], 'detail, after', 'detail')}</div>"
        f"<small>The detail that changed most, enlarged: before and after.</small>"
    )
    pair = f'<div class="pair">{labels}{slider}{sides}</div>'
    return f"<figure><figcaption>{text}</figcaption>{pair}{details}</figure>"


def most_changed(before: NDArray, after: NDArray, size: int) -> tuple[slice, slice]:
    """The window of `size` pixels a side (or less, in a smaller picture) where two pictures differ most.

    Args:
        before: (H, W, 3) uint8.
        after: likewise.
        size: height and width of the window.
    """
    changed = np.abs(before.astype(np.float32) - after.astype(np.float32)).sum(axis=-1, dtype=np.float64)
    height, width = min(size, changed.shape[0]), min(size, changed.shape[1])
    sums = np.pad(changed, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)  # summed-area table
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = map(int, np.unravel_index(np.argmax(windows), windows.shape))
    return slice(top, top + height), slice(left, left + width)


def _pixels(picture: Picture) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, no side longer than LONGEST_SIDE."""
    if isinstance(picture, str | os.PathLike):
        path = Path(picture)
        if not path.is_file():
            raise FileNotFoundError(f"no such picture: {path}")
        try:
            with PIL.Image.open(path) as opened:
                image = opened.convert("RGB")
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read the picture {path}: {error}") from None
    elif picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        raise ValueError(f"a picture is (H, W, 3) uint8, not {picture.shape} {picture.dtype}")
    else:
        image = PIL.Image.fromarray(picture).convert("RGB")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.asarray(image)


def _img(pixels: NDArray[np.uint8], alt: str, css_class: str = "") -> str:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    height, width = pixels.shape[:2]
    return (
        f'<img class="{css_class}" alt="{escape(alt)}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{data}">'
    )


# Page

_SCRIPT = """
document.querySelectorAll('.slider input').forEach(function (input) {
  input.addEventListener('input', function () {
    input.parentNode.style.setProperty('--cut', input.value + '%');
  });
});
"""


def _page(title: str, header: str, body: str) -> str:
    """The policy lets the browser run this one script alone, and load nothing."""
    style = (resources.files("lorgnette.report") / "report.css").read_text(encoding="utf-8")
    script_hash = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>{header}</header>
<main>
{body}
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""
