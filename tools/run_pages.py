"""Run every command block of README and of the tutorials as it is written, page by page, in folders of their own.

    python tools/run_pages.py                           # all of them; half an hour and more
    python tools/run_pages.py --short                   # 2 small steps a training, 1 round a federation: minutes
    python tools/run_pages.py docs/tutorials/video.md   # one page

The files that a page takes for given (`photos`, `noisy.mp4`, ...) are small made-up ones (`page_data.py`). What is not
run is marked in the page, by a comment before the block that says why, and is listed at the end:

    <!-- not run: needs your own ONNX models -->

`runs/NAME` stands for the run that the page made last. Exit status 1 where a block failed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs/tutorials").glob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]+?) -->\n|^<!-- run -->\n)?"
    r"^```(?P<kind>bash|python)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
SNIPPET = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
FEW = {
    "train": ["--train.steps", "2", "--train.batch_size", "2", "--train.eval_every", "2"],
    "federate": ["--rounds", "1", "--local-steps", "1"],
}
"""What `--short` adds to commands."""
LESS = {"steps=400": "steps=2"}
"""What `--short` puts into Python."""
LIMIT = 1800
"""Seconds for a page."""


@dataclass(frozen=True)
class Block:
    """A command block of a page."""

    page: Path
    line: int
    kind: str
    text: str
    why: str | None
    """Why it is not run; None: it is."""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The command blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        code = SNIPPET.sub(lambda m: (ROOT / m[1]).read_text(encoding="utf-8"), match["text"])
        found.append(Block(page, text.count("\n", 0, match.start("text")) + 1, match["kind"], code, match["why"]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="unset: README and all tutorials")
    parser.add_argument(
        "--short", action="store_true", help="trainings of 2 steps of 2 samples, federations of 1 round"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process and folder
    options = parser.parse_args()
    pages = [page.resolve() for page in options.pages] or PAGES
    if options.here:
        return sum(not run(block, options.short) for block in blocks(pages[0]) if block.why is None)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each page is one thread where OMP_NUM_THREADS=1
        results = list(pool.map(lambda page: in_own_folder(page, options.short), pages))
    skipped = [block for page in pages for block in blocks(page) if block.why is not None]
    failed = [page for page, status in zip(pages, results, strict=True) if status]
    print(f"\n{sum(len(blocks(page)) for page in pages) - len(skipped)} blocks of {len(pages)} pages were run")
    print(f"{len(skipped)} were not:")
    for block in skipped:
        print(f"  {block.place}  {block.why}")
    for page in failed:
        print(f"FAILED: {page.relative_to(ROOT)}")
    return 1 if failed else 0


def in_own_folder(page: Path, short: bool) -> int:
    """Run a page in a process and a folder of its own; prints what came of it when it is done."""
    words = [sys.executable, __file__, str(page), "--here", *(["--short"] if short else [])]
    with tempfile.TemporaryDirectory(prefix="page-") as folder:
        env = os.environ | {"LORGNETTE_PAGE": page.stem, "MPLBACKEND": "agg"}
        try:
            done = subprocess.run(words, cwd=folder, env=env, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)  # fmt: skip
        except subprocess.TimeoutExpired as error:
            print(f"{error.stdout}\n{page.relative_to(ROOT)} took more than {LIMIT} s", flush=True)
            return 1
    print(done.stdout, end="", flush=True)
    return done.returncode


def run(block: Block, short: bool) -> bool:
    """Run a block in this process; prints how long it took, and what it said where it failed."""
    start, said = time.perf_counter(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            run_python(block, short) if block.kind == "python" else run_lines(block, short)
    except BaseException as error:
        trace = "" if isinstance(error, Failed) else traceback.format_exc()
        print(f"{block.place}  FAILED: {error}\n{said.getvalue()[-3000:]}{trace}", flush=True)
        return False
    print(f"{block.place}  {time.perf_counter() - start:.1f} s", flush=True)
    return True


class Failed(Exception):
    """A command ended with another status than 0."""


names: dict[str, Any] = {"__name__": "__main__"}
"""What Python blocks of the page share."""


def run_python(block: Block, short: bool) -> None:
    text = block.text
    for long, less in LESS.items() if short else ():
        text = text.replace(long, less)
    exec(compile(text, block.place, "exec"), names)


def run_lines(block: Block, short: bool) -> None:
    for line in lines(block.text):
        words = shlex.split(line, comments=True)
        if words[:1] != ["lorgnette"]:
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
            print(done.stdout, done.stderr)
            status = done.returncode
        else:
            from lorgnette.cli import main

            status = main([*words[1:], *added(words[1:], short)])
            latest_run()
        if status:
            raise Failed(f"status {status} of: {line}")


def lines(text: str) -> Iterator[str]:
    """Commands of a block, those over several lines in one."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def added(words: list[str], short: bool) -> list[str]:
    if not short or "--resume" in words or "--help" in words:
        return []
    return FEW.get(words[0], [])


def latest_run() -> None:
    """Have `runs/NAME` mean the run that was made last."""
    link = Path("runs/NAME")
    made = [run for run in Path("runs").glob("*") if run.is_dir() and not run.is_symlink()]
    if made:
        link.unlink(missing_ok=True)
        link.symlink_to(max(made, key=lambda run: run.stat().st_mtime).name)


def prepare() -> None:
    """What a page finds around it: its data, and the recipes of a checkout."""
    from page_data import stage

    stage(os.environ["LORGNETTE_PAGE"], Path.cwd())
    for name in ("recipes", "options"):
        Path(name).symlink_to(ROOT / name)


if __name__ == "__main__":
    if "--here" in sys.argv:
        prepare()
    sys.exit(main())
