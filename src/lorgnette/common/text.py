"""What verbs print: tables and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table; the first column leans left, the others right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def metrics_table(rows: Mapping[str, Mapping[str, float]], title: str = "") -> str:
    """One line for each metric, one column for each row name: what was measured, side by side."""
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    cells = [[n, *(figure(metrics[n]) if n in metrics else "-" for metrics in rows.values())] for n in names]
    return table([title, *rows], cells)


def figure(value: float) -> str:
    """33.661 -> '33.66', 0.91324 -> '0.9132'."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.2f}" if abs(value) >= 2 else f"{value:.4f}"


def size(n_bytes: int) -> str:
    """1234567 -> '1.2 MB'."""
    for unit, bytes_per_unit in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= bytes_per_unit:
            return f"{n_bytes / bytes_per_unit:.1f} {unit}"
    return f"{n_bytes} bytes"
