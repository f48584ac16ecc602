"""Small files, written whole or not at all. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends without an error.

    The temporary file keeps the suffix of `path`, so libraries that choose a format by suffix work on it.

    Raises:
        FileNotFoundError: the folder of `path` does not exist and cannot be made.
        ValueError: the folder cannot be written to.
    """
    path = Path(path)
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror}): another folder may work") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)  # mkstemp makes files for the owner only; a saved file should obey the umask
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        _flush_to_disk(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make `folder` with its parents; a one-line ValueError where that is not possible."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"cannot make the folder {folder}: a file of that name exists") from None
    except (PermissionError, NotADirectoryError, OSError) as error:
        raise ValueError(f"cannot make the folder {folder}: {error.strerror or error}") from None
    return folder


def take_lock(file: IO[Any]) -> bool:
    """Lock an open file until it is closed or this process ends; False where another process holds the lock.

    Without effect on Windows.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text to `path`, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str | os.PathLike[str], max_bytes: int = 16 * 2**20) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is larger than `max_bytes` or is not JSON.
    """
    try:
        return json.loads(read_small(path, max_bytes))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from None


def read_small(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read a file that should be small.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is larger than `max_bytes`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes} bytes: not a settings file")
    return path.read_bytes()


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse to replace what is there already; a one-line ValueError."""
    if not overwrite and os.path.lexists(path):
        raise ValueError(f"{path} is there already: --overwrite replaces it, or give another output")


def check_writable(path: Path) -> None:
    """Find out before the work whether a file can be written there; a one-line ValueError if not."""
    folder = make_folder(path.parent)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write {path}: the folder {folder} is not writable")
