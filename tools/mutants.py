"""Put small faults into the package, one at a time, and see whether the tests notice.

    python -m pytest --cov --cov-context=test --cov-report=     # once: which test runs which line (writes .coverage)
    python tools/mutants.py --sample 300                        # an equal share of faults for each folder
    python tools/mutants.py --sample 40 --only lora/kernels train/loop.py

Each fault is tried against at most 40 tests that run its line, those nearest to its file first, and what survives them
against all the others that run it. Whoever survives is printed with its line, then a table: kills by folder. The sample
is a function of `--seed` and of the sources. A fault that only makes the tests hang is noticed (`--timeout` seconds).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from faults import Fault, faults_of

ROOT = Path(__file__).parents[1]
UNKNOWN = "a test is not found"  # or cannot be imported
FOLDERS = ("lora", "train", "nn", "images", "tiles", "federate", "systems", "video", "common")


@dataclass
class Trial:
    """What became of one fault."""

    file: str
    line: int
    what: str
    killed: bool
    by: str
    tests: int
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=300, metavar="N", help="faults in all (300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=FOLDERS, metavar="PATH", help="folders or files of the package")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="faults at a time")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="for the tests of a fault (300)")
    parser.add_argument("--coverage", type=Path, default=ROOT / ".coverage", metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append each result as a line; those there are kept")
    parser.add_argument("--list", action="store_true", help="print the sample and try nothing")
    options = parser.parse_args()
    chosen = sample(options.only, options.sample, options.seed)
    if options.list:
        print("\n".join(f"{fault.file}:{fault.line}  {fault.what}" for fault in chosen))
        return 0
    if not options.coverage.is_file():
        parser.error(f"{options.coverage} is not there; the first command above makes it")
    with tempfile.TemporaryDirectory() as scratch:
        results = options.json or Path(scratch) / "results.jsonl"
        try_all(chosen, tests_by_line(options.coverage), results, Path(scratch), options)
        trials = read(results)
    wanted = {(fault.file, fault.line, fault.what) for fault in chosen}
    show([trial for trial in trials if (trial.file, trial.line, trial.what) in wanted], options.only)
    return 0


def sample(only: list[str], size: int, seed: int) -> list[Fault]:
    """An equal share of the faults that can be made in each of the folders or files `only`."""
    chosen: list[Fault] = []
    for number, part in enumerate(only):
        path = ROOT / "src" / "lorgnette" / part
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        if not files:
            raise SystemExit(f"{part} is no file or folder of the package")
        possible = [fault for file in files for fault in faults_of(file, ROOT)]
        share = size // len(only) + (number < size % len(only))
        chosen += random.Random(f"{seed} {part}").sample(possible, min(share, len(possible)))
    random.Random(seed).shuffle(chosen)  # so that what is done so far says something about every folder
    return chosen


def tests_by_line(coverage_file: Path) -> dict[str, dict[int, list[str]]]:
    """For each file of the package, as a path in the project, and each line: the test functions that run it."""
    from coverage import CoverageData

    data = CoverageData(str(coverage_file))
    data.read()
    found: dict[str, dict[int, list[str]]] = {}
    for file in data.measured_files():
        name = "src/lorgnette/" + file.replace("\\", "/").rpartition("/src/lorgnette/")[2]
        lines = data.contexts_by_lineno(file)
        found[name] = {line: sorted({c.split("|")[0].split("[")[0] for c in cs if c}) for line, cs in lines.items()}
    return found


def nearest_first(fault: Fault, lines: dict[int, list[str]]) -> list[str]:
    """The tests that run the line of a fault; where that is done at import, all those of its file.

    What runs in compiled kernels is not seen: of those, the tests of the folder nearest to them.
    """
    own = Path(fault.file).relative_to("src/lorgnette")
    tests = lines.get(fault.line) or sorted({test for of_line in lines.values() for test in of_line})
    if not lines.get(fault.line) and any(f"import {way}" in fault.source for way in ("numba", "triton")):
        folder = next(place for place in (ROOT / "tests" / own).parents if place.is_dir())
        tests = [path.relative_to(ROOT).as_posix() for path in sorted(folder.rglob("test_*.py"))]

    def distance(test: str) -> tuple[int, str]:
        file = Path(test.split("::")[0]).relative_to("tests")
        shared = sum(a == b for a, b in zip(file.parts[:-1], own.parts[:-1], strict=False))
        return (-10 * (own.stem in file.stem) - shared, test)

    return sorted(tests, key=distance)


def try_all(chosen: list[Fault], lines: dict[str, dict[int, list[str]]], results: Path, scratch: Path, options) -> None:
    """Try those that have no result yet, in processes which have imported what is slow to import."""
    done = {(trial.file, trial.line, trial.what) for trial in read(results)}
    left = [fault for fault in chosen if (fault.file, fault.line, fault.what) not in done]
    os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    import hypothesis.strategies  # noqa: F401
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch.nn.functional  # noqa: F401

    jobs = []
    for job in range(options.jobs):
        if (process := os.fork()) == 0:
            tree = scratch / f"tree-{job}"
            for folder in ("src", "tests", "tools", "examples", "benchmarks", "docs"):
                shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
            for file in (*ROOT.glob("*.toml"), *ROOT.glob("*.md"), *ROOT.glob("*.yml"), ROOT / "LICENSE"):
                shutil.copy(file, tree)
            for fault in left[job :: options.jobs]:
                trial = tried(fault, nearest_first(fault, lines.get(fault.file, {})), tree, options.timeout)
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(trial)) + "\n")
                found = "noticed    " if trial.killed else "NOT NOTICED"
                print(f"{found} {trial.file}:{trial.line}  {trial.what}", flush=True)
            os._exit(0)
        jobs.append(process)
    for process in jobs:
        os.waitpid(process, 0)


def tried(fault: Fault, tests: list[str], tree: Path, timeout: float) -> Trial:
    """Run the tests over the package with this fault in it."""
    file, began, killed_by = tree / fault.file, time.monotonic(), ""
    sound = file.read_text(encoding="utf-8")
    file.write_text(fault.source, encoding="utf-8")
    try:
        for some in (tests[:40], tests[40:]):
            if some and not killed_by:
                killed_by = first_failure(some, tree, timeout)
    finally:
        file.write_text(sound, encoding="utf-8")
    if killed_by == UNKNOWN and first_failure(["--collect-only", *tests], tree, timeout):  # also without the fault
        raise SystemExit(f"pytest does not know one of {tests}: make the coverage file anew")
    seconds = round(time.monotonic() - began, 1)
    return Trial(fault.file, fault.line, fault.what, bool(killed_by), killed_by, len(tests), seconds)


def first_failure(tests: list[str], tree: Path, timeout: float) -> str:
    """Which way the tests failed, empty where they passed."""
    if (process := os.fork()) == 0:
        os.setsid()
        os.chdir(tree)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(tree / "src"), os.environ.get("PYTHONPATH"))))
        sys.path[:0] = [str(tree / "src")]
        import pytest
        import torch

        torch.set_num_threads(1)
        imported = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis was, before pytest could rewrite it
        os._exit(pytest.main(["-x", "-q", "-W", imported, "-p", "no:cacheprovider", "-p", "no:cov", *tests]))
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        finished, status = os.waitpid(process, os.WNOHANG)
        if finished:
            code = os.waitstatus_to_exitcode(status)
            return {0: "", 1: "a test", 4: UNKNOWN, 5: UNKNOWN}.get(code, f"status {code}")
        time.sleep(0.1)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "hangs"


def read(results: Path) -> list[Trial]:
    if not results.is_file():
        return []
    return [Trial(**json.loads(line)) for line in results.read_text(encoding="utf-8").splitlines()]


def show(trials: list[Trial], only: list[str]) -> None:
    survivors = sorted((t for t in trials if not t.killed), key=lambda t: (t.file, t.line))
    print("\nnot noticed:")
    for trial in survivors:
        print(f"  {trial.file.removeprefix('src/lorgnette/')}:{trial.line}  {trial.what}  ({trial.tests} tests run it)")
    counts: dict[str, list[bool]] = defaultdict(list)
    for trial in trials:
        part = next(p for p in only if trial.file.startswith(f"src/lorgnette/{p}"))
        counts[part].append(trial.killed)
    print(f"\n| {'part':<12} | faults | noticed |\n|---|---|---|")
    for part, killed in [*counts.items(), ("all", [trial.killed for trial in trials])]:
        print(f"| {part:<12} | {len(killed):>6} | {sum(killed) / max(len(killed), 1):>7.0%} |")


if __name__ == "__main__":
    sys.exit(main())
