"""An adapter trained on a person's photographs: as `lorgnette train ROOM --minutes`."""

from __future__ import annotations

import shutil
import time
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.checkpoint import load_data, save, what_was_learnt
from lorgnette.common.text import size
from lorgnette.images.formats.table import BY_SUFFIX
from lorgnette.recipe import build
from lorgnette.settings import make_recipe
from lorgnette.systems import room
from lorgnette.train.budget import steps_within
from lorgnette.train.config import DEVICES
from lorgnette.train.events import Evaluated, Started, Stepped
from lorgnette.train.listeners.record import in_words, record
from lorgnette.train.loop import fit

if TYPE_CHECKING:
    from lorgnette.train.events import Event
    from lorgnette.web.work.wardrobe import Wardrobe
    from lorgnette.web.worker import Tell

KEPT = 20
"""How many adapters that were trained here are offered; the oldest go."""
POINT_SECONDS = 0.5
"""Between two points of the curve."""


def run(source: Path, settings: dict[str, Any], wardrobe: Wardrobe, tell: Tell) -> dict[str, Any]:
    """Do it; see `lorgnette.web.worker`.

    Args:
        source: a zip file of photographs.
        settings: `room`; `minutes` of training; `damage`, see docs/damage.md; `keep`, what the adapter is to be called.
        wardrobe: where it is offered afterwards.
        tell: what is done so far.
    """
    photographs = source.parents[1] / "photographs"
    count = unpack(source, photographs, wardrobe.limits.photographs, wardrobe.limits.pixels)
    device = wardrobe.device if wardrobe.device in DEVICES else "auto"
    given = {"data.root": str(photographs), "data.damage": settings["damage"], "train.device": device}
    recipe: Any = make_recipe(room(settings["room"]).Recipe, given)
    batches, test = load_data(recipe)
    task = build(recipe)
    budget = steps_within(settings["minutes"], recipe, task, batches, test)
    recipe = replace(recipe, train=replace(recipe.train, steps=budget.steps, eval_every=budget.eval_every))
    recipe = task.completed(recipe)
    start = time.perf_counter()
    end = fit(task, batches, recipe.train, [_Curve(tell)], test=test if len(test) else None)
    said = [f"{count} photographs; {budget}", in_words(record(end))]
    home = _free(wardrobe.folders[-1], settings["keep"])
    # Nothing of this machine's folders goes with the adapter.
    save(task, replace(recipe, data=replace(recipe.data, root=None)), home,
         what_was_learnt(end, batches, test, time.perf_counter() - start))  # fmt: skip
    archive = Path(shutil.make_archive(str(source.parents[1] / home.name), "zip", home.parent, home.name))
    said.append(f"kept as {home.name}, {size(archive.stat().st_size)} as a zip file")
    found = {"adapter": home.name, "before": dict(end.first), "after": dict(end.best), "improved": end.improved}
    return {"files": [archive.name], "said": said, "found": found}


def unpack(source: Path, folder: Path, most: int, pixels: int) -> int:
    """The pictures of a zip file into a folder, under names of our own; returns how many there are.

    Args:
        source: the zip file.
        folder: is made.
        most: pictures.
        pixels: of a picture; no file is unpacked to more bytes than so many pixels take.

    Raises:
        ValueError: it is no zip file, is damaged, or holds no pictures, too many or too large ones.
    """
    folder.mkdir()
    try:
        with zipfile.ZipFile(source) as archive:
            files = [one for one in archive.infolist() if Path(one.filename).suffix.lower() in BY_SUFFIX]
            if not 0 < len(files) <= most:
                raise ValueError(f"{source.name} holds {len(files)} pictures; 1 to {most} work")
            for number, one in enumerate(files):
                path = folder / f"{number:04}{Path(one.filename).suffix.lower()}"
                with archive.open(one) as packed, path.open("wb") as out:
                    _copy(packed, out, 8 * pixels, one.filename)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise ValueError(f"{source.name} is no whole zip file ({error})") from None
    return len(files)


def _copy(packed: Any, out: Any, most: int, name: str) -> None:
    while piece := packed.read(2**20):
        most -= len(piece)
        if most < 0:
            raise ValueError(f"{name} unpacks to more than a picture that is taken here can have")
        out.write(piece)


class _Curve:
    """Progress and points for whoever watches."""

    def __init__(self, tell: Tell):
        self._tell, self._total, self._last = tell, 0, 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._total = event.total
                self._tell.progress(0, event.total)
            case Stepped():
                self._tell.progress(event.step, self._total)
                now = time.monotonic()
                if now - self._last >= POINT_SECONDS:
                    self._last = now
                    self._tell.say(points=[{"step": event.step, "loss": record(event)["loss"]}])
            case Evaluated():
                self._tell.say(points=[{"step": event.step, **record(event)["metrics"]}])


def _free(home: Path, name: str) -> Path:
    """A folder of that name, or with a number after it; the oldest of too many are removed."""
    home.mkdir(exist_ok=True)
    old = sorted((one for one in home.iterdir()), key=lambda one: one.stat().st_mtime_ns)
    for one in old[: max(0, len(old) - KEPT + 1)]:
        shutil.rmtree(one)
    names = (name if number == 1 else f"{name}-{number}" for number in range(1, KEPT + 2))
    return next(home / one for one in names if not (home / one).exists())
