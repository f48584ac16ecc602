"""tools/mutants.py: small faults, put in one at a time, and whether the tests notice them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SOURCE = '''\
"""What stands here is said and not done: 1 + 1."""

from __future__ import annotations


def clamped(x: int | None, low: int = 2) -> int:
    if x is None or x < low:
        raise ValueError(f"x: {x + 1} is below {low}")
    tidy(x)
    return min(x, 9)
'''

TEST = """\
from lorgnette.clamp import clamped


def test_clamped():
    assert clamped(3) == 3
    assert clamped(12) == 9
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one file and one test, with the tool."""
    for name, text in {
        "src/lorgnette/__init__.py": "",
        "src/lorgnette/clamp.py": SOURCE.replace("    tidy(x)\n", ""),
        "tests/__init__.py": "",
        "tests/test_clamp.py": TEST,
        "pyproject.toml": "[tool.coverage.run]\nsource=['src']\n[tool.pytest.ini_options]\npythonpath=['.','src']\n",
        "LICENSE": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for folder in ("tools", "examples", "benchmarks", "docs"):
        (tmp_path / folder).mkdir()
    for tool in ("faults.py", "mutants.py"):
        (tmp_path / "tools" / tool).write_bytes((ROOT / "tools" / tool).read_bytes())
    return tmp_path


def output(*words: str | Path, cwd: Path) -> str:
    # Where coverage of this run is written is none of theirs: they would replace it.
    own = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=own, check=True, capture_output=True, text=True).stdout


def test_faults_are_of_what_is_done_and_not_of_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from faults import faults_of  # pyright: ignore[reportMissingImports]

    (tmp_path / "a.py").write_text(SOURCE, encoding="utf-8")
    faults = list(faults_of(tmp_path / "a.py", tmp_path))
    assert [fault.what for fault in faults] == [
        "2  ->  3",
        "x is None or x < low  ->  (x is None and x < low)",
        "x is None  ->  (x is not None)",
        "x < low  ->  (x <= low)",
        "tidy(x)  ->  pass",
        "min(x, 9)  ->  (max(x, 9))",
        "9  ->  10",
    ]
    trees = {ast.dump(ast.parse(fault.source)) for fault in faults}
    assert len(trees | {ast.dump(ast.parse(SOURCE))}) == len(faults) + 1


def test_what_no_test_asks_is_named_and_the_tree_stays_as_it_was(project: Path):
    output("-m", "pytest", "-q", "--cov", "--cov-context=test", "--cov-report=", cwd=project)
    words = ["tools/mutants.py", "--only", "clamp.py", "--sample", "50", "--jobs", "2", "--json", "results.jsonl"]
    said = output(*words, cwd=project)
    survivors = said.partition("not noticed:")[2].split("\n\n")[0]
    assert survivors.count("clamp.py") == 3
    assert "2  ->  3" in survivors  # the default
    assert "(x is None and x < low)" in survivors
    assert "(x <= low)" in survivors
    assert "| clamp.py     |      6 |     50% |" in said
    assert (project / "src/lorgnette/clamp.py").read_text(encoding="utf-8") == SOURCE.replace("    tidy(x)\n", "")
    assert "noticed    " not in output(*words, cwd=project)  # what was tried is not tried again
