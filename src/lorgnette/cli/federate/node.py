"""`lorgnette federate node FOLDER`: take part in a federation with this machine's data."""

from __future__ import annotations

from pathlib import Path

from lorgnette.cli.arguments import left_out
from lorgnette.cli.federate.check import site_words


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    folder, given, strict = site_words(
        words,
        "federate node",
        "lorgnette federate node north --data.root /data/north",
        "Waits for the server and trains when it asks, until interrupted. The data stays where it is; what leaves are "
        "adapters and figures. Logs are in FOLDER/run.",
    )
    from lorgnette.federate.deploy.data_holder import open_site
    from lorgnette.federate.deploy.programs import stopping_on_terminate
    from lorgnette.federate.flower.launch import run_node

    if strict:
        with left_out(strict):
            open_site(Path(folder), given)
    with stopping_on_terminate():
        run_node(folder, given, lambda line: print(line, flush=True))
    return 0
