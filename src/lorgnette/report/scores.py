"""Scores as the tables of the field show them, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from lorgnette.common.text import number

TOGETHER = ("psnr", "ssim")
"""Metrics that share a cell where both were measured: 38.02 / 0.9607."""


def markdown(rows: Mapping[str, Mapping[str, float]]) -> str:
    """A line for each method, a column for each metric; PSNR and SSIM of one label share a cell."""
    columns: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for metrics in rows.values() for name in metrics):
        kind, _, label = name.partition("_")
        columns.setdefault(label if kind in TOGETHER and label else name, []).append(name)
    lines = [
        ["method", *(column + _kinds(names) for column, names in columns.items())],
        ["---"] * (len(columns) + 1),
        *([method, *(_cell(metrics, names) for names in columns.values())] for method, metrics in rows.items()),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _kinds(names: list[str]) -> str:
    return "" if len(names) == 1 else f" ({' / '.join(name.partition('_')[0].upper() for name in sorted(names))})"


def _cell(metrics: Mapping[str, float], names: list[str]) -> str:
    return " / ".join(number(metrics[name]) if name in metrics else "-" for name in sorted(names))
