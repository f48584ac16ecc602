"""How figures, tables and suggestions look wherever this package prints or writes them. Imports no torch."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence


def decimals(largest: float) -> int:
    """How many digits after the point suit numbers up to `largest` in size."""
    if not math.isfinite(largest) or largest >= 1000:
        return 0
    return 1 if largest >= 100 else 2 if largest >= 1 else 4


def number(value: object, digits: int | None = None) -> str:
    """`value` for a reader: 29.41, 0.8421, 1,234,567, 3.2e-05; a dash for None and nan."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if digits is None and 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.{decimals(abs(value)) if digits is None else digits}f}"


def size(n_bytes: float) -> str:
    """1234567 -> '1.2 MB', 252300 -> '252 kB'."""
    for unit, bytes_per_unit in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= bytes_per_unit:
            count = n_bytes / bytes_per_unit
            return f"{count:.{0 if count >= 100 else 1}f} {unit}"
    return f"{n_bytes:.0f} bytes"


def duration(seconds: float) -> str:
    """75 -> '1 min 15 s', 7300 -> '2 h 1 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A plain table; the first `left` columns are aligned left, the others right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def aligned(line: Sequence[str]) -> str:
        cells = zip(line, widths, strict=True)
        return "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(cells)).rstrip()

    return "\n".join(map(aligned, lines))


def metrics_table(rows: Mapping[str, Mapping[str, float]], title: str = "") -> str:
    """One line for each metric, one column for each row name: what was measured, side by side."""
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    cells = [[n, *(number(metrics[n]) if n in metrics else "-" for metrics in rows.values())] for n in names]
    return table([title, *rows], cells)


def is_number(word: str) -> bool:
    """Whether a word can be read as a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint `" (did you mean 'x'?)"` with the most similar of `names`, or an empty string."""
    return did_you_mean(difflib.get_close_matches(name, list(names), n=1))


def did_you_mean(likely: Sequence[str]) -> str:
    """`" (did you mean 'x' or 'y'?)"` for names that are likely; an empty string for none."""
    return f" (did you mean {' or '.join(map(repr, likely))}?)" if likely else ""


def one_line(error: Exception) -> str:
    """What went wrong, without line breaks or error numbers."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__
