"""What enhances pictures: one model for all pictures, or for each the one that suits it."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lorgnette.common.hub import is_hub
from lorgnette.systems import room, rooms_with

if TYPE_CHECKING:
    from lorgnette.images.choosing import Choice
    from lorgnette.images.file import Image
    from lorgnette.train.task import Task

AUTO, NONE = "auto", "none"
EXPORTED = (".onnx", ".pte")


class Enhancer(Protocol):
    """Enhances pictures."""

    @property
    def of(self) -> str:
        """The name of the room whose models it works with."""
        ...

    def __call__(self, image: Image, source: Path, **settings: Any) -> Image:
        """A picture of a file, by the room's `enhance` with these settings."""
        ...

    def for_all_of(self, source: Path, pixels: Callable[[], Any]) -> Task:
        """One task for all of a clip or picture, of which `pixels()`, (H, W, 3) in [0, 1], are looked at if need be."""
        ...

    def identity(self) -> str:
        """Another one where results are others."""
        ...

    def said(self, *sources: Path) -> list[str]:
        """What was chosen for files, and why, a line each; for many files how often each."""
        ...

    def choices(self) -> dict[str, Any]:
        """The same by file, for JSON."""
        ...


def adapter(text: str) -> str:
    """What --adapter takes: auto, none, the name of an adapter that ships, a folder, or an exported file."""
    exists = Path(text).exists()
    if (Path(text).suffix in EXPORTED and not is_hub(text)) or (text in (AUTO, NONE) and not exists):
        return text  # before imports that a machine with exported files alone may lack
    from lorgnette.shipped import named_folder, rooms_with_adapter

    if rooms_with_adapter(text) and not exists:
        return text
    try:
        return str(named_folder(text, rooms_with("enhance")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None  # of others argparse shows no word


def enhancer(adapter: str, of: str | None, device: str) -> Enhancer:
    """What to work with.

    Args:
        adapter: see `adapter`.
        of: a room's name; None where nobody says.
        device: as for `lorgnette.common.devices.to_device`.

    Raises:
        ValueError: the adapter is of another room, in one line.
    """
    if Path(adapter).suffix in EXPORTED:
        return FromFile(adapter, of, device)
    from lorgnette.checkpoint import load, load_recipe
    from lorgnette.common.devices import to_device
    from lorgnette.shipped import load_shipped, rooms_with_adapter
    from lorgnette.systems import room_name

    usual = rooms_with("enhance")[0]
    if adapter == AUTO and room(of or usual).ABOUT.shipped:
        return chosen(of or usual, device)
    if adapter in (AUTO, NONE):
        return One(of or usual, to_device(load_shipped(of or usual), device))
    homes = [] if Path(adapter).exists() else rooms_with_adapter(adapter)
    if homes:
        home = of or (usual if usual in homes else homes[0])
        return One(home, to_device(load_shipped(home, adapter), device))
    home = room_name(load_recipe(adapter))
    if of not in (None, home):
        raise ValueError(f"--room: {adapter} is of the room {home}, not {of}; leave --room out")
    if home not in rooms_with("enhance"):
        raise ValueError(f"--adapter: {adapter} is of the room {home}, which does not enhance images")
    return One(home, to_device(load(adapter), device))


def chosen(of: str, device: str, task: Callable[[str, str], Task] | None = None) -> Chosen:
    """For each picture what suits it, of a room with adapters that ship.

    Args:
        of: the room's name.
        device: as for `lorgnette.common.devices.to_device`.
        task: gives the task of a room with `base` or an adapter; unset: each is loaded once, and kept.
    """
    from lorgnette.enhancing.cleaned import cleaning_room
    from lorgnette.shipped import Chooser

    def chooser(home: str) -> Chooser:
        return Chooser(home, device, task and partial(task, home))

    return Chosen(chooser(of), None if of == cleaning_room() else chooser(cleaning_room()))


class One:
    """One model for all."""

    def __init__(self, of: str, task: Task):
        self.of, self.task = of, task

    def __call__(self, image: Image, source: Path, **settings: Any) -> Image:
        home: Any = room(self.of)
        return home.enhance(self.task, image, **settings)

    def for_all_of(self, source: Path, pixels: Callable[[], Any]) -> Task:
        return self.task

    def identity(self) -> str:
        from lorgnette.common.identity import lasting_identity

        return lasting_identity(self.task.model)

    def said(self, *sources: Path) -> list[str]:
        return []

    def choices(self) -> dict[str, Any]:
        return {}


class FromFile:
    """A file that `lorgnette export` wrote; of `.onnx` nothing of PyTorch is imported."""

    def __init__(self, file: str, of: str | None, device: str):
        from lorgnette.export import Exported

        if device not in ("auto", "cpu"):
            raise ValueError(f"--device: an exported file runs on the processor, not on {device}; leave --device out")
        self.model = Exported(file)
        self.of = self.model.manifest.room
        if of not in (None, self.model.manifest.room):
            raise ValueError(f"--room: {file} is of the room {self.model.manifest.room}, not {of}; leave --room out")

    def __call__(self, image: Image, source: Path, **settings: Any) -> Image:
        if "cmsr" in settings:
            raise ValueError("--cmsr: an exported file renders exactly; leave --cmsr out")
        return self.model.enhance(image, **settings)

    def for_all_of(self, source: Path, pixels: Callable[[], Any]) -> Task:
        raise ValueError(f"{self.model.file}: an exported file enhances pictures; clips and --preview take an adapter")

    def identity(self) -> str:
        return f"{self.model.manifest.weights} {Path(self.model.file).stat().st_size}"

    def said(self, *sources: Path) -> list[str]:
        return []

    def choices(self) -> dict[str, Any]:
        return {}


WORTH = 2.0
"""dB that a denoiser must be expected to bring before it is used where nobody asked for it. Of white noise 5 to 6 are
expected, of counted light 1."""


class Chosen:
    """For each picture the model that suits it.

    Args:
        chooser: a `lorgnette.shipped.Chooser`.
        cleaner: that of a room that cleans. Where no network of the chooser's room helps, but the cleaner's base, which
            learnt white noise, that is used first: it is the noise that keeps the others from helping.
    """

    def __init__(self, chooser: Any, cleaner: Any = None):
        self.chooser, self.cleaner, self.of = chooser, cleaner, chooser.of
        self._found: Found = defaultdict(list)
        self._noisy: Found = defaultdict(list)

    def __call__(self, image: Image, source: Path, **settings: Any) -> Image:
        from lorgnette.enhancing.cleaned import Cleaned
        from lorgnette.images.choosing import BASE
        from lorgnette.shipped import scale_of

        choice = self.chooser.choose(image.pixels, scale_of(image.pixels.shape, settings))
        if choice.network is None and self.cleaner:
            noisy = self.cleaner.choose(image.pixels)
            if noisy.gains[BASE] >= WORTH:
                alone = Chosen(self.chooser)
                enhanced = Cleaned(One(self.cleaner.of, self.cleaner.task(BASE)), 1.0, alone)(image, source, **settings)
                self._noisy[source].append(replace(noisy, name=BASE))
                self._found[source] += alone._found[source]
                return enhanced
        enhanced = self.chooser.enhance_by(choice, image, **settings)
        self._found[source].append(choice)
        return enhanced

    def for_all_of(self, source: Path, pixels: Callable[[], Any]) -> Task:
        from lorgnette.images.choosing import BASE

        choice = self.chooser.choose(pixels())
        self._found[source].append(choice)
        return self.chooser.task(choice.network or BASE)

    def identity(self) -> str:
        from lorgnette.common.identity import lasting_identity
        from lorgnette.version import __version__

        base = lasting_identity(self.chooser.task("base").model)
        return f"{base} and what ships with {__version__}"

    def said(self, *sources: Path) -> list[str]:
        first = [f"cleaned first: {said}" for said in _said(self._noisy, sources)]
        return first + _said(self._found, sources)

    def choices(self) -> dict[str, Any]:
        own, first = _as_json(self._found), _as_json(self._noisy)
        return {path: own[path] | ({"cleaned by": first[path]} if path in first else {}) for path in own}


Found = defaultdict[Path, list["Choice"]]
"""For each file what was chosen: one choice, or one for each of its pages."""


def _said(found: Found, sources: Sequence[Path]) -> list[str]:
    """A line for one picture; how often each choice was made for several, be they files or pages."""
    chosen = [choice for source in sources if source in found for choice in found[source]]
    if len(chosen) == len(sources) == 1:
        return [str(chosen[0])]
    counts = Counter(choice.name for choice in chosen)
    pages = f"of {len(chosen)} pages: " if len(sources) == 1 else ""
    return [pages + ", ".join(f"{name} {count}" for name, count in counts.most_common())] if counts else []


def _as_json(found: Found) -> dict[str, Any]:
    """Of a file with several pages the first, and all of them under "pages"."""
    said = {
        str(path): [{"chosen": choice.name, "expected": choice.gains} for choice in chosen]
        for path, chosen in found.items()
    }
    return {path: pages[0] | ({"pages": pages} if len(pages) > 1 else {}) for path, pages in said.items()}
