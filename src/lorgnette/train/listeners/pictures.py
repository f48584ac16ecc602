"""Sample pictures of a run, a few of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import PIL.Image

from lorgnette.common.files import atomic_write
from lorgnette.report.page import Captioned
from lorgnette.train.events import Evaluated, Event, Started


class SamplePictures:
    """Writes the pictures of evaluations as `<step>-<name>.png` into `folder`.

    Only three evaluations are kept: the first, the best and the last.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._first: int | None = None
        self._best: int | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._recall(event.step)
            case Evaluated() if event.pictures:
                self._keep(event)

    def _recall(self, step: int) -> None:
        """What earlier legs of the run left: first <= best <= last, so the order tells which is which."""
        _remove(path for s, path in _samples(self.folder) if s > step or step == 0)
        steps = sorted({s for s, _ in _samples(self.folder)})
        self._first = steps[0] if steps else None
        self._best = steps[min(1, len(steps) - 1)] if steps else None

    def _keep(self, event: Evaluated) -> None:
        taken: set[str] = set()
        for name, pixels in event.pictures.items():
            safe = _safe_name(name, taken)
            taken.add(safe)
            with atomic_write(self.folder / f"{event.step:06d}-{safe}.png") as temporary:
                PIL.Image.fromarray(pixels).save(temporary, "PNG")
        if self._first is None:
            self._first = event.step
        if event.is_best or self._best is None:
            self._best = event.step
        kept = (self._first, self._best, event.step)
        _remove(path for step, path in _samples(self.folder) if step not in kept)


def _samples(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the sample pictures in `folder`, sorted."""
    files = folder.glob("*.png") if folder.is_dir() else []
    matches = [(re.fullmatch(r"(\d{6,})-.+", path.stem), path) for path in files]
    return sorted((int(match[1]), path) for match, path in matches if match)


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)


def _safe_name(name: str, taken: set[str]) -> str:
    """`name` as a part of a file name on any system, different from those taken."""
    safe = re.sub(r"[^\w.+-]+", "_", name).encode()[:120].decode(errors="ignore").strip("._") or "picture"
    numbered = (f"{safe}-{count}" for count in range(2, len(taken) + 3))
    return safe if safe not in taken else next(other for other in numbered if other not in taken)


def before_and_after(folder: Path, best_step: int) -> list[Captioned]:
    """The sample pictures of the first evaluation, each with its counterpart of the best one."""
    samples = _samples(folder)
    named = {(step, path.stem.partition("-")[2]): path for step, path in samples}
    first_step = samples[0][0] if samples else 0
    pictures: list[Captioned] = []
    for (step, name), path in named.items():
        after = named.get((best_step, name))
        if step == first_step:
            pictures.append((name, path) if after in (None, path) else (name, path, after))
    return pictures
