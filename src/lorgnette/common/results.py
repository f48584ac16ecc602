"""Which files of a folder are results of ours, what they were made of and how: old ones are not taken for new ones."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from lorgnette.common.files import make_folder, take_lock

RECORD = ".lorgnette-results.jsonl"
DONE = "done"


class Results:
    """The results in a folder, each noted in a hidden file there before it is begun and when it is done.

    Two processes cannot work in one folder at a time. A run that was stopped goes on where it was; one that may replace
    what it finds goes on replacing, if it is asked for the same.

    Args:
        folder: where results go; made where it does not exist.
        job: JSON that says how they are made: one value for each setting, by the name that a user knows.
        overwrite: results of others, of other settings and of other sources are replaced, and ours made anew.

    Raises:
        ValueError: another process works there, or the folder cannot be written to.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], overwrite: bool) -> None:
        self.folder, self.job, self.overwrite = make_folder(folder), dict(job), overwrite
        path = folder / RECORD
        try:
            self._file: IO[str] = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"cannot write {path} ({error.strerror}): another folder may work") from None
        if not take_lock(self._file):
            self._file.close()
            raise ValueError(f"{folder} is in use by another run: wait for it, or give another output")
        self._entries: dict[str, dict[str, Any]] = {}
        replacing = None
        self._file.seek(0)
        for line in self._file:
            entry = _parsed(line)
            if "result" in entry:
                self._entries[entry["result"]] = entry
            elif entry:
                replacing = entry.get("replacing")
        self._may_replace = overwrite or replacing == self.job
        if overwrite:
            self._note({"replacing": self.job})

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self._may_replace:
            self._note({"replacing": None})
        self._file.close()

    def standing(self, source: Path, target: Path) -> str:
        """What is to be done for a target: "" to make it, `DONE`, or why it is left as it is."""
        if self.overwrite or not os.path.lexists(target):
            return ""
        entry = self._entries.get(self._name(target))
        if entry is None:
            why = "is there already, and not by this program"
        elif entry["job"] == self.job and not entry.get("digest"):
            return ""  # begun, and stopped before that was noted
        elif not entry.get("digest") or entry["digest"] != digest(target):
            why = "was changed since it was made"
        elif entry["source"] != digest(source):
            why = f"was made of another {source.name}"
        else:
            differing = [n for n in {**self.job, **entry["job"]} if self.job.get(n) != entry["job"].get(n)]
            if not differing:
                return DONE
            why = f"was made with another {', '.join(differing)}"
        return "" if self._may_replace else f"{target} {why}: --overwrite replaces it"

    def begin(self, source: Path, target: Path) -> None:
        """Note that a target is about to be made."""
        self._entries[self._name(target)] = {
            "result": self._name(target),
            "source": digest(source),
            "job": self.job,
        }
        self._note(self._entries[self._name(target)])

    def end(self, target: Path) -> None:
        """Note that it is made."""
        entry = self._entries[self._name(target)]
        entry["digest"] = digest(target)
        self._note(entry)

    def _name(self, target: Path) -> str:
        return target.relative_to(self.folder).as_posix()

    def _note(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def digest(path: Path) -> str:
    """A hash of a file's bytes; "" where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parsed(line: str) -> dict[str, Any]:
    """An entry; empty for a line that a kill cut short."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    sound = isinstance(entry, dict) and isinstance(entry.get("job", {}), dict)
    return entry if sound and ("result" not in entry or "job" in entry) else {}
