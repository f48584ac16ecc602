"""`lorgnette doctor`: what is installed, what is missing and how to get it, and where files lie."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorgnette.cli.arguments import Arguments, add_json
from lorgnette.common.files import write_json
from lorgnette.common.text import size, table
from lorgnette.version import __version__

NAME = "lorgnette"
FOR_DEVELOPERS = ("bench", "browser", "dev", "docs", "test")
"""Extras that nobody needs who only uses the package."""


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = Arguments(
        "doctor",
        "lorgnette doctor",
        "Says what is installed, what is missing of each extra and how to get it, what the machine has, and where files"
        " and caches lie. Exit status 2 where something that everything needs is missing or too old.",
    )
    add_json(parser)
    options = parser.read(words)
    needs, machine, places = _needs(), _machine(), _places()
    print("\n".join(f"{name:<18} {value}" for name, value in machine.items()))
    lines = [[name or "all", _state(lacking), _cure(name, lacking)] for name, lacking in needs.items()]
    print("\n" + table(["extra", "state", "to get it"], lines, left=3))
    if any(needs.values()):
        print(f"pip of this environment: {sys.executable} -m pip")
    print("\n" + "\n".join(f"{name:<18} {value}" for name, value in places.items()))
    if options.json:
        write_json(options.json, {"machine": machine, "lacking": needs, "places": places})
    return 2 if needs[""] else 0


def _needs() -> dict[str, list[str]]:
    """What is missing or of another version than is needed: of the package itself under '', of each extra by name."""
    known = importlib.metadata.metadata(NAME).get_all("Provides-Extra") or []
    extras = [extra for extra in known if extra not in FOR_DEVELOPERS]
    return {extra: sorted(set(_lacking(extra))) for extra in ("", *sorted(extras))}


def _lacking(extra: str, package: str = NAME) -> Iterator[str]:
    """What an extra of a package needs beside what the package needs anyway."""
    from packaging.requirements import Requirement  # comes with accelerate

    for need in map(Requirement, importlib.metadata.requires(package) or ()):
        always = need.marker is None or need.marker.evaluate({"extra": ""})
        if always == bool(extra) or not (need.marker is None or need.marker.evaluate({"extra": extra})):
            continue
        try:
            there = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{need.name} is not there"
            continue
        if not need.specifier.contains(there, prereleases=True):
            yield f"{need.name} is {there}, {need.specifier} is needed"
        for other in need.extras:
            yield from _lacking(other, need.name)


def _state(lacking: list[str]) -> str:
    return "; ".join(lacking) if lacking else "there"


def _cure(extra: str, lacking: list[str]) -> str:
    return f"pip install '{NAME}[{extra}]'" if lacking and extra else f"pip install {NAME}" if lacking else ""


def _machine() -> dict[str, str]:
    found: dict[str, Any] = {
        NAME: __version__,
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.machine()}",
    }
    try:
        import torch
    except ImportError as error:
        return found | {"PyTorch": f"cannot be imported: {error}"}
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    found |= {"PyTorch": torch.__version__, "processor": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"}
    found["accelerator"] = "none" if accelerator is None else f"{accelerator.type}, {torch.accelerator.device_count()}"
    return found


def _places() -> dict[str, str]:
    """Where things lie, and how much room there is."""
    from lorgnette.common.memory import free_memory

    package, scratch, memory = Path(__file__).parents[1], Path(tempfile.gettempdir()), free_memory()
    compiled = os.environ.get("NUMBA_CACHE_DIR") or f"__pycache__ beside the kernels in {package / 'nn'}"
    return {
        "package": str(package),
        "models that ship": str(package / "systems" / "ROOM" / "base"),
        "adapters that ship": str(package / "systems" / "ROOM" / "adapters"),
        "runs": f"{Path('runs').absolute()}, unless a command says otherwise; {_free(Path.cwd())}",
        "compiled kernels": compiled,
        "temporary files": f"{scratch}; {_free(scratch)}",
        "memory": "not known" if memory is None else f"{size(memory)} free",
    }


def _free(folder: Path) -> str:
    return f"{size(shutil.disk_usage(folder).free)} free"
