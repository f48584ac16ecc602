"""Build the source archive and from it the wheel, install the wheel where nothing else is, and use it.

    python tools/check_wheel.py [--keep FOLDER]

The new environment has no extras: what a user has after `pip install lorgnette`. Needs `build` and the package index.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUST_HOLD = (
    "lorgnette/py.typed",
    "lorgnette/report/report.css",
    *(file.relative_to(ROOT / "src").as_posix() for file in (ROOT / "src").rglob("*.safetensors")),
)
PICTURE = "import numpy, PIL.Image; PIL.Image.fromarray(numpy.full((24, 32, 3), 90, numpy.uint8)).save('small.png')"
COMMANDS = (
    "lorgnette --help",
    "lorgnette --version",
    "lorgnette train superres --help",
    "lorgnette info BASE",
    "lorgnette enhance small.png large.png --scale 2.5",
    "lorgnette enhance small.png clean.png --room restore",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="put archive and wheel into this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(options.keep or folder / "dist")
        check_contents(wheel)
        use(wheel, folder)


def build(target: Path) -> Path:
    """The wheel, made from the source archive as an index would hold it."""
    run(sys.executable, "-m", "build", "--outdir", str(target), str(ROOT))
    (wheel,) = target.glob("*.whl")
    (archive,) = target.glob("*.tar.gz")
    print(f"{archive.name} {archive.stat().st_size:,} bytes; {wheel.name} {wheel.stat().st_size:,} bytes")
    return wheel


def check_contents(wheel: Path) -> None:
    """Nothing is missing, and nothing but the package is in it."""
    names = zipfile.ZipFile(wheel).namelist()
    if absent := [name for name in MUST_HOLD if name not in names]:
        sys.exit(f"{wheel.name} lacks {', '.join(absent)}")
    if others := [name for name in names if not name.startswith(("lorgnette/", "lorgnette-"))]:
        sys.exit(f"{wheel.name} holds {', '.join(others[:5])}")


def use(wheel: Path, folder: Path) -> None:
    """Install it into an environment of its own and run commands there."""
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    where = "import lorgnette, os; print(os.path.dirname(lorgnette.__file__))"
    package = run(str(python), "-c", where, folder=folder).strip()
    run(str(python), "-c", PICTURE, folder=folder)
    for command in COMMANDS:
        words = command.replace("BASE", f"{package}/systems/superres/base").split()
        said = run(str(python), "-m", *words, folder=folder)
        print(f"{command}: {len(said.splitlines())} lines")


def run(*words: str, folder: Path | None = None) -> str:
    """The output of a program; ends this one where it fails."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
