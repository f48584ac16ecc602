"""`lorgnette demo`: the whole tour on photographs that come with scikit-image."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.cli.arguments import Arguments, add_json
from lorgnette.common.files import write_json
from lorgnette.common.text import number, size, table
from lorgnette.common.values import whole

if TYPE_CHECKING:
    from lorgnette.checkpoint import RunFolder
    from lorgnette.demo import Outcome
    from lorgnette.train.events import Listener


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _arguments().read(words)

    from lorgnette import demo

    steps = {} if options.steps is None else {"steps": options.steps}
    outcome = demo.run(options.out, seed=options.seed, full=options.full, listeners=_listeners, **steps)
    print(f"\n{_table(outcome)}\n\n{outcome.in_words()}\n")
    for title, path in (
        ("adapter", outcome.adapter),
        ("side by side", outcome.comparison),
        ("other pictures", outcome.any_picture),
        ("enlarged x3.3", outcome.enlarged),
        ("report", outcome.report),
    ):
        print(f"{title:<14} {path}")
    if options.json:
        write_json(options.json, _figures(outcome, options.seed))
    return 0


def _arguments() -> Arguments:
    parser = Arguments(
        "demo",
        "lorgnette demo",
        "Plays a stated camera on real photographs, adapts the shipped model to it on some scenes, and "
        "compares on others: bicubic, denoised bicubic, the frozen model, LoRA. Then enhances a noisy photo, a scan "
        "and a screenshot with what suits each. Needs no network.",
    )
    parser.add_argument("--full", action="store_true", help="fine-tune the whole network as well, to compare")
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of noise and training; unset: 0")
    parser.add_argument("--steps", type=whole(1), metavar="N", help="of training; fewer for a quick look")
    parser.add_argument("--out", default="demo-output", metavar="FOLDER", help="unset: demo-output")
    add_json(parser)
    return parser


def _listeners(folder: RunFolder) -> list[Listener]:
    from lorgnette.train import listeners

    return [listeners.ProgressBar(), listeners.MetricsFile(folder.metrics_file)]


def _table(outcome: Outcome) -> str:
    header = ["held-out scenes", "PSNR", "SSIM", "trained", "of the model", "file", "seconds"]
    rows = []
    for row in outcome.rows:
        share = f"{100 * row.trained / outcome.base_parameters:.1f} %" if row.trained else "-"
        trained = f"{row.trained:,}" if row.trained else "-"
        bytes_kept = size(row.file_bytes) if row.file_bytes else "-"
        seconds = f"{row.seconds:.1f}" if row.seconds else "-"
        scores = [number(row.metrics["psnr"]), number(row.metrics["ssim"])]
        rows.append([row.method, *scores, trained, share, bytes_kept, seconds])
    return table(header, rows)


def _figures(outcome: Outcome, seed: int) -> dict[str, Any]:
    from lorgnette.train.listeners.record import finite

    paths = {
        name: str(Path(getattr(outcome, name)))
        for name in ("adapter", "comparison", "any_picture", "enlarged", "report")
    }
    rows = [asdict(row) | {"metrics": finite(row.metrics)} for row in outcome.rows]
    return {"seed": seed, "base_parameters": outcome.base_parameters, "rows": rows} | paths
