"""Two models, one after the other: noise and artefacts are taken away first, then the picture is enhanced."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.systems import room, rooms_with

if TYPE_CHECKING:
    from lorgnette.enhancing.enhancer import Enhancer
    from lorgnette.images.file import Image
    from lorgnette.train.task import Task

PASSED_ON = ("tile", "precision", "progress")
"""Settings of both; size, strength and the like are those of the second model."""

MOST = 1.5


def cleaning_room() -> str:
    """The name of the room whose `enhance` takes damage away and leaves the size."""
    return next(name for name in rooms_with("enhance") if room(name).ABOUT.cleans)


def check_not_cleaning(of: str) -> None:
    """Refuse to clean before a room that cleans by itself, in one line."""
    if of == cleaning_room():
        raise ValueError(f"clean: the room {of} cleans by itself; leave it out (strength says how much)")


class Cleaned:
    """An enhancer of pictures that others have cleaned.

    Args:
        first: takes the damage away, by what suits the picture as it is given.
        strength: how much of that is done, 0 to 1.5.
        then: enhances what the first one made; what suits it is chosen by looking at that.

    Raises:
        ValueError: the second is of the room that cleans, or the strength does not work, in one line.
    """

    def __init__(self, first: Enhancer, strength: float, then: Enhancer):
        if not 0 <= strength <= MOST:  # nan compares false
            raise ValueError(f"clean: {strength:g} does not work; 0 to {MOST} does")
        check_not_cleaning(then.of)
        self.first, self.strength, self.then = first, strength, then
        self.of = then.of

    def __call__(self, image: Image, source: Path, **settings: Any) -> Image:
        passed_on = {name: settings[name] for name in PASSED_ON if name in settings}
        return self.then(self.first(image, source, strength=self.strength, **passed_on), source, **settings)

    def for_all_of(self, source: Path, pixels: Any) -> Task:
        raise ValueError(
            f"{source}: clips and --preview take one model: clean first (--room {self.first.of}), then enhance that"
        )

    def identity(self) -> str:
        return f"{self.first.identity()} by {self.strength:g}, then {self.then.identity()}"

    def said(self, *sources: Path) -> list[str]:
        return [f"cleaned first: {said}" for said in self.first.said(*sources)] + self.then.said(*sources)

    def choices(self) -> dict[str, Any]:
        first, then = self.first.choices(), self.then.choices()
        return {name: {**then.get(name, {}), "cleaned by": cleaned} for name, cleaned in first.items()}
