"""Replace several files of an adapter's folder together, all or none. Imports no torch.

New contents are first written beside the old ones as `<name>.lorgnette-pending`, the manifest last. The pending
manifest is the commit: once it is there, readers prefer pending files to final ones, and the next save finishes the
renaming. A process that is killed at any moment leaves all of the old files or all of the new ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorgnette.common.files import atomic_write, make_folder, read_json
from lorgnette.common.hub import downloaded, is_hub

WEIGHTS = "adapter_model.safetensors"
MODEL = "model.safetensors"  # of a whole model
PEFT_CONFIG = "adapter_config.json"
PICKLED = "adapter_model.bin"
MANIFEST = "lorgnette.json"
FORMAT_VERSION = 1
_PENDING = ".lorgnette-pending"


def replace_files(folder: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
    """Replace these files of a folder (made if need be), all or none; other files stay as they are.

    Args:
        folder: where to write.
        files: name -> contents; `lorgnette.json` must be among them.
    """
    folder = make_folder(folder)
    _finish(folder)
    for leftover in folder.glob(f"*{_PENDING}"):
        leftover.unlink()
    for name in sorted(files, key=lambda name: name == MANIFEST):
        assert Path(name).name == name, "files lie in the folder itself"
        with atomic_write(folder / (name + _PENDING)) as temporary:
            temporary.write_bytes(files[name])
    _finish(folder)


def current_file(folder: str | os.PathLike[str], name: str) -> Path:
    """Where the present contents of a file of the folder are, also after a save was killed half-way."""
    final, pending = Path(folder) / name, Path(folder) / (name + _PENDING)
    return pending if pending.is_file() and (Path(folder) / (MANIFEST + _PENDING)).is_file() else final


def finished_files(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Name -> where the present contents are, of every file in the folder itself."""
    names = {path.name.removesuffix(_PENDING) for path in Path(folder).iterdir() if path.is_file()}
    return {name: path for name in names if (path := current_file(folder, name)).is_file()}


def adapter_folder(folder: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of an adapter or a whole model: `folder` itself, or what lies in it where it is that of a run.

    Args:
        folder: a folder, or `hub:user/name@revision`, which is brought here.
        revision: the same, apart: a branch, a tag or a commit of the hub's.

    Raises:
        ValueError: it cannot be had from the hub, or a folder was given a revision; in one line.
    """
    if is_hub(folder):
        folder = downloaded(folder, revision)
    elif revision is not None:
        raise ValueError(f"revision={revision!r}: {folder} is a folder; hub:user/name has revisions")
    folder = Path(folder)
    of_run = folder / "adapter"
    holds_none = not any(current_file(folder, name).is_file() for name in (WEIGHTS, MANIFEST, MODEL))
    return of_run if holds_none and of_run.is_dir() else folder


def adapter_info(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest `lorgnette.json` of an adapter: layers, base fingerprint and extras, no weights.

    Returns:
        The manifest; empty for an adapter that another program wrote.

    Raises:
        FileNotFoundError: the folder is missing or holds no adapter.
        ValueError: the manifest is damaged or of a newer format.
    """
    folder = adapter_folder(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such adapter folder: {folder}")
    path = current_file(folder, MANIFEST)
    if not path.is_file():
        if not current_file(folder, WEIGHTS).is_file() and not (folder / PICKLED).is_file():
            pickled = sorted(path.name for path in folder.glob("adapter_model.*") if path.suffix in (".bin", ".pt"))
            why = f": {pickled[0]} is a pickle and is not opened" if pickled else ""
            raise FileNotFoundError(f"no {WEIGHTS} in {folder}{why}")
        return {}
    manifest = read_json(path)
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"{path} is not an adapter's manifest: it has no format_version")
    if version > FORMAT_VERSION:
        raise ValueError(f"{path} has format_version {version}; this Lorgnette reads up to {FORMAT_VERSION}: update it")
    return manifest


def _finish(folder: Path) -> None:
    if not (folder / (MANIFEST + _PENDING)).is_file():
        return
    for pending in sorted(folder.glob(f"*{_PENDING}"), key=lambda path: path.name == MANIFEST + _PENDING):
        pending.replace(pending.with_name(pending.name.removesuffix(_PENDING)))
