"""Run the tests with several versions of Python and PyTorch, each pair in an environment of its own.

    python tools/matrix.py                                     # all pairs
    python tools/matrix.py --python 3.12 --torch 2.13.0 -- tests/lora -q

An environment takes 2 GB and some minutes; it is removed after its tests. A Python that is not found is named and left
out, and the exit status says so (2), as it says that tests failed (1).
"""

from __future__ import annotations

import argparse
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
TORCHES = ("2.11.0", "2.13.0")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS, metavar="VERSION")
    parser.add_argument("--torch", nargs="+", default=TORCHES, metavar="VERSION")
    parser.add_argument("--extra", default="test", help="of the package, to install (test)")
    parser.add_argument("words", nargs="*", default=["-q"], metavar="-- WORDS", help="for pytest")
    options = parser.parse_args()
    rows, status = [], 0
    for version in options.python:
        python = interpreter(version)
        if python is None:
            rows.append((version, "-", "not found", ""))
            status = status or 2
            continue
        for torch in options.torch:
            began = time.monotonic()
            code, last = tested(python, torch, options.extra, options.words)
            rows.append((version, torch, last, f"{time.monotonic() - began:.0f} s"))
            status = 1 if code else status
    print(f"\n{'Python':<8}{'torch':<9}{'result':<60}{'time':>8}")
    for version, torch, result, seconds in rows:
        print(f"{version:<8}{torch:<9}{result[:58]:<60}{seconds:>8}")
    return status


def interpreter(version: str) -> str | None:
    """A Python of that version: this one, one on the PATH that works, or one that pyenv built."""
    home = os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))
    built = sorted(glob.glob(f"{home}/versions/{version}*/bin/python"))
    for candidate in (sys.executable, shutil.which(f"python{version}"), *built):
        if candidate is None:
            continue
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        said = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if said.stdout.strip() == version:
            return candidate
    return None


def tested(python: str, torch: str, extra: str, words: list[str]) -> tuple[int, str]:
    """The exit status of the tests, and the last line that they said."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        own = str(Path(folder) / "bin" / "python")
        pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        installed = subprocess.run([*pip, f"torch=={torch}", "-e", f"{ROOT}[{extra}]"], check=False)
        if installed.returncode:
            return installed.returncode, "could not be installed"
        done = subprocess.run([own, "-m", "pytest", *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=False)
        print(done.stdout)
        return done.returncode, next(iter(reversed(done.stdout.splitlines())), "said nothing").strip("= ")


if __name__ == "__main__":
    sys.exit(main())
