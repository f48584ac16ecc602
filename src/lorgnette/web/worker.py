"""`python -m lorgnette.web.worker SETTINGS`: the process that does a server's jobs, one after the other.

Reads lines of JSON from stdin, `{"verb", "source", "settings"}`, and answers each with lines on what was stdout:

    {"progress": [done, total]}    as the work goes on
    {"points": [{...}]}            of the curve of a training
    {"done": {...}, "memory": N}   what came of it, and the bytes this process takes
    {"failed": "one line"}         why nothing did

The source lies alone in a folder within the job's. Nothing is read or written outside of that, but for what ships and
the folders of adapters.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import IO, Any

VERBS = ("enhance", "mesh", "classify", "adapt")
"""Each is a file in `lorgnette.web.work` with `run(request, wardrobe, tell) -> dict`."""
SECONDS = 0.1
"""Least time between two lines of progress."""


class Tell:
    """What the work says of itself as it goes on."""

    def __init__(self, out: IO[str]):
        self._out, self._last = out, 0.0

    def say(self, **what: Any) -> None:
        """One line."""
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()

    def progress(self, done: int, total: int) -> None:
        """How far it is; most of what is said within a short time is left out."""
        now = time.monotonic()
        if done in (0, total) or now - self._last >= SECONDS:
            self._last = now
            self.say(progress=[done, total])

    def through(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items, with progress while they are gone through."""
        items = list(items)
        for done, item in enumerate(items):
            self.progress(done, len(items))
            yield item
        self.progress(len(items), len(items))


def main(words: list[str]) -> None:
    """Do jobs until the server hangs up."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print does not come between
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until something runs that understands it
    given = json.loads(words[0])
    from lorgnette.web.settings import Limits
    from lorgnette.web.work.wardrobe import Wardrobe

    wardrobe = Wardrobe(given["device"], [Path(folder) for folder in given["folders"]], Limits(**given["limits"]))
    tell = Tell(out)
    work: dict[str, Callable[..., dict[str, Any]]] = {
        verb: import_module(f"lorgnette.web.work.{verb}").run for verb in VERBS
    }
    try:
        for line in sys.stdin:
            request = json.loads(line)
            tell.say(**_answer(work[request["verb"]], request, wardrobe, tell))
    except BrokenPipeError:
        pass
    shutil.rmtree(given["home"], ignore_errors=True)  # the server is gone: had it ended in good order, so had this


def _answer(run: Callable[..., dict[str, Any]], request: dict[str, Any], wardrobe: Any, tell: Tell) -> dict[str, Any]:
    from lorgnette.common.text import one_line

    source = Path(request["source"])
    try:
        done = run(source, request["settings"], wardrobe, tell)
    except (ValueError, OSError, MemoryError) as error:
        text = one_line(error)
        for folder in source.parents[:2]:  # nobody's business
            text = text.replace(f"{folder}{os.sep}", "")
        return {"failed": text}
    except Exception as error:  # ours: the next job may go well
        traceback.print_exc()
        return {"failed": f"{type(error).__name__} (the server's log says more)", "ours": True}
    return {"done": done, "memory": _memory()}


def _memory() -> int:
    """Bytes that this process takes just now; 0 where Linux does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


if __name__ == "__main__":
    main(sys.argv[1:])
