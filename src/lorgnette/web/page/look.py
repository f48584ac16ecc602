"""How the page looks, and the pieces of HTML in it. Everything is drawn by the browser's own means and fonts."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from gradio.themes import Base

from lorgnette.common.text import duration, number
from lorgnette.report.charts import line_chart
from lorgnette.web.jobs import Job, Jobs, State

PURPOSE = {"superres": "Enlarge", "restore": "Restore"}
"""What a room is for, where that is not its name."""
THEME = Base(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
CSS = """
.ba { position: relative; display: inline-block; max-width: 100%; line-height: 0; --at: 50%; }
.ba img { max-width: 100%; max-height: 70vh; display: block; }
.ba .after { position: absolute; inset: 0; width: 100%; height: 100%; clip-path: inset(0 0 0 var(--at)); }
.ba::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; background: #fff;
  box-shadow: 0 0 3px #000; pointer-events: none; }
.ba input { position: absolute; inset: 0; width: 100%; height: 100%; opacity: 0; cursor: ew-resize; margin: 0; }
.ba:focus-within { outline: 3px solid #0d9488; outline-offset: 2px; }
.said progress { width: 100%; height: 1rem; accent-color: #0d9488; }
.files { line-height: 2; }
.files a { font-weight: 600; }
.wide { overflow-x: auto; }
.turn { width: 100%; height: 60vh; border: 0; }
figure { margin: 0 0 1rem; } figure svg { width: 100%; height: auto; } figure text { font-size: 12px; fill: #64748b; }
figure .grid { stroke: #cbd5e1; fill: none; } figure .curve { stroke: #0d9488; stroke-width: 2; fill: none; }
figure .pale { stroke: #99f6e4; fill: none; } figure .band { fill: transparent; } figure .dot { fill: #0d9488; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .3rem .8rem; align-items: center; }
.bars meter { width: 100%; height: 1.2rem; }
"""


def address(job: Job, name: str) -> str:
    """Where a file of a job is."""
    return f"/api/jobs/{job.id}/files/{quote(name)}"


def slider(before: str, after: str, name: str) -> str:
    """Two pictures over each other, and how much of the second is seen: by pointer or arrow keys."""
    return (
        f'<div class="ba"><img src="{escape(before)}" alt="{escape(name)} as given">'
        f'<img class="after" src="{escape(after)}" alt="{escape(name)} enhanced">'
        '<input type="range" min="0" max="100" value="50" aria-label="How much is shown as given"'
        " oninput=\"this.parentNode.style.setProperty('--at', this.value + '%')\"></div>"
    )


def frame(where: str, name: str) -> str:
    """A page of the house within this one, which can do nothing but show itself."""
    title = f"{escape(name)}: drag, or arrow keys, to turn"
    return f'<iframe class="turn" sandbox="allow-scripts" src="{escape(where)}" title="{title}"></iframe>'


def progress(text: str, done: float = 0, total: float = 0) -> str:
    """A bar with words under it, read aloud by screen readers."""
    bar = f'<progress value="{done}" max="{total}"></progress>' if total else ""
    return f'<div class="said" role="status" aria-live="polite">{bar}<p>{escape(text)}</p></div>'


def links(named: dict[str, str], said: list[str]) -> str:
    """Addresses to download from, and what is said of the files."""
    items = "".join(f'<a href="{escape(where)}" download>{escape(name)}</a><br>' for name, where in named.items())
    notes = "".join(f"{escape(line)}<br>" for line in said)
    return f'<p class="files">{items}</p><p>{notes}</p>'


def bars(shares: dict[str, float]) -> str:
    """Names with shares of one, as bars."""
    rows = "".join(
        f'<span>{escape(name)}</span><meter value="{share:.4f}"></meter><span>{100 * share:.1f} %</span>'
        for name, share in shares.items()
    )
    return f'<div class="bars">{rows}</div>'


def figures(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of figures by name."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{escape(number(value))}</td>' for value in row.values())}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def curves(points: Sequence[Mapping[str, Any]]) -> str:
    """What a training has said of itself, a figure for each thing."""
    names = dict.fromkeys(name for point in points for name in point if name != "step")
    drawn = []
    for name in names:
        line = [(point["step"], point[name]) for point in points if point.get(name) is not None]
        drawn.append(line_chart(name, line, noisy=name == "loss"))
    return "".join(drawn)


def standing(job: Job, jobs: Jobs, unit: str = "tile") -> str:
    """How far a job is, in words."""
    if job.state is State.WAITING:
        ahead = jobs.ahead(job)
        return f"waiting, {ahead} before it" if ahead else "next"
    if job.state is not State.RUNNING:
        return job.error or job.state
    if not job.total:
        return "begins"
    left = "" if job.seconds_left is None else f", {duration(job.seconds_left)} left"
    return f"{unit} {job.done} of {job.total}{left}"
