"""What clients ask for, checked before anything is uploaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from lorgnette.enhancing.cleaned import check_not_cleaning
from lorgnette.enhancing.enhancer import AUTO, NONE
from lorgnette.enhancing.file import How
from lorgnette.images.formats.table import BY_SUFFIX
from lorgnette.settings import make_recipe
from lorgnette.systems import room, rooms_with
from lorgnette.systems.mesh.surface.settings import Surface
from lorgnette.web.offered import Offer, offer

Word = Annotated[str, StringConstraints(min_length=1, max_length=60)]
"""In a list: many and long ones would make an address longer than a server reads."""


class Asked(BaseModel):
    """What every verb takes. A setting that is not known is refused: it would be left out in silence."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="upload", max_length=200, description="Of the file; messages and the result bear it.")
    wait: bool = Field(default=False, description="Answer with the result itself; who hangs up cancels the job.")


class Enhancing(Asked):
    """How a picture is to be enhanced."""

    room: str | None = Field(default=None, description="superres enlarges, restore takes noise and artefacts away.")
    adapter: str = Field(default=AUTO, max_length=200, description="auto, none, or a name of /api/adapters.")
    scale: float | None = Field(default=None, ge=0.01, le=32, description="Factor, as 3.3; unset: 2, or the model's.")
    width: int | None = Field(default=None, ge=1, le=100_000, description="In pixels; with `height` too: see `shape`.")
    height: int | None = Field(default=None, ge=1, le=100_000, description="In pixels.")
    long_side: int | None = Field(default=None, ge=1, le=100_000, description="Longer side in pixels.")
    shape: Literal["fit", "crop", "pad", "stretch"] | None = Field(
        default=None, description="What becomes of a picture of another shape than width x height; unset: refused."
    )
    strength: float | None = Field(default=None, ge=0, le=1.5, description="Of the adapter or the change; unset: 1.")
    clean: float | None = Field(default=None, ge=0, le=1.5, description="First take noise away, by this; unset: no.")
    black: float | None = Field(default=None, ge=0, description="The picture's own number for black; with `white`.")
    white: float | None = Field(default=None, ge=0, description="The picture's own number for white.")
    format: str | None = Field(default=None, max_length=8, description="Suffix of the result; unset: that of `name`.")
    quality: int | None = Field(default=None, ge=1, le=100, description="Of JPEG, WebP and the like; unset: 95.")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="What the network computes in.")


class Meshing(Asked):
    """How a mask is to become surfaces."""

    name: str = Field(default="mask.nii.gz", max_length=200, description="Its suffix says what it is: .nii.gz, .dcm.")
    only: list[Word] = Field(default=[], max_length=100, description="These organs, by name or number; unset: all.")
    format: Literal["stl", "ply", "obj", "glb", "vtp"] = Field(default="stl", description="Of the result.")
    walls: Literal["own", "shared"] | None = Field(default=None, description="Of organs that touch; unset: shared.")
    largest: bool = Field(default=False, description="Only the largest part of each organ.")
    error: float | None = Field(default=None, gt=0, le=100, description="Save triangles: move no more than this, mm.")
    triangles: int | None = Field(default=None, ge=4, le=10**9, description="With error: how many are wished for.")


class Classifying(Asked):
    """By what a picture is to be classified: an adapter, or names of classes."""

    adapter: str | None = Field(default=None, max_length=200, description="A name of /api/adapters.")
    room: str | None = Field(default=None, max_length=50, description="Of the adapter.")
    classes: list[Word] = Field(default=[], max_length=100, description="Without an adapter: names to choose from.")
    prompt: str = Field(default="a photo of a {}", max_length=200, description="What the names are put into.")
    top: int = Field(default=5, ge=1, le=1000, description="Answers.")


class Adapting(Asked):
    """How an adapter is to be trained."""

    name: str = Field(default="photographs.zip", max_length=200, description="Of the zip file.")
    room: str | None = Field(default=None, max_length=50, description="superres or restore; unset: superres.")
    minutes: float = Field(default=3, ge=0.1, le=10_000, description="Of training, scores included.")
    damage: str = Field(default="", max_length=50, description="What the small pictures suffer; see docs/damage.md.")
    keep: str = Field(default="mine", pattern="^[A-Za-z0-9_-]{1,40}$", description="What the adapter is called.")


def meshing(asked: Meshing) -> dict[str, Any]:
    """The settings of a job; a ValueError of one line where they do not fit together."""
    shared = asked.walls == "shared" or (asked.walls is None and asked.error is None)
    return asdict(Surface(shared, asked.largest, asked.error, asked.triangles)) | {
        "only": asked.only,
        "format": asked.format,
        "preview": False,
    }


def classifying(asked: Classifying, offers: Iterable[Offer]) -> dict[str, Any]:
    """The settings of a job; a ValueError of one line where they do not fit together."""
    if asked.adapter and asked.classes:
        raise ValueError("classes: an adapter knows its own; leave one of the two out")
    if not (asked.adapter or asked.classes):
        raise ValueError("classes: not set; give their names, or an adapter that knows some")
    if asked.adapter:
        offer(asked.adapter, asked.room, offers, "classify")
    elif "{}" not in asked.prompt or len(set(asked.classes)) != len(asked.classes):
        raise ValueError("prompt: needs {} where the name goes; classes: each once")
    return asked.model_dump(exclude={"name", "wait"})


def adapting(asked: Adapting, most_minutes: float) -> dict[str, Any]:
    """The settings of a job; a ValueError of one line where they do not fit together."""
    settings = asked.model_dump(exclude={"name", "wait"})
    settings["room"] = home = asked.room or rooms_with("enhance")[0]
    if home not in rooms_with("enhance"):
        raise ValueError(f"room: {home} is not adapted here; {' or '.join(rooms_with('enhance'))} is")
    if asked.keep in (AUTO, NONE):
        raise ValueError(f"keep: {asked.keep!r} has a meaning of its own; another name works")
    if asked.minutes > most_minutes:
        raise ValueError(f"minutes: {asked.minutes:g} is too long; up to {most_minutes:g} work here")
    make_recipe(room(home).Recipe, {"data.damage": asked.damage})  # says which there are
    return settings


def enhancing(asked: Enhancing, offers: Iterable[Offer]) -> dict[str, Any]:
    """The settings of a job.

    Args:
        asked: by a client.
        offers: what there is.

    Raises:
        ValueError: they do not fit together, or there is no such adapter, in one line.
    """
    both = asked.width is not None and asked.height is not None
    sizes = [name for name in ("scale", "width", "height", "long_side") if getattr(asked, name) is not None]
    if len(sizes) > 1 and sizes != ["width", "height"]:
        raise ValueError(f"{' and '.join(sizes)} exclude each other; width and height alone go together")
    if asked.shape and not both:
        raise ValueError("shape: is for width and height together")
    if (asked.black is None) != (asked.white is None):
        raise ValueError("black and white belong together")
    if asked.adapter not in (AUTO, NONE):
        offer(asked.adapter, asked.room, offers, "enhance")
    if asked.clean:
        check_not_cleaning(asked.room or rooms_with("enhance")[0])
    how = How(
        scale=asked.scale,
        size=(asked.height, asked.width) if asked.height and asked.width else None,
        width=None if both else asked.width,
        height=None if both else asked.height,
        long_side=asked.long_side,
        shape=asked.shape,
        strength=asked.strength,
        range=None if asked.black is None or asked.white is None else (asked.black, asked.white),
        precision=asked.precision,
        quality=asked.quality,
    )
    more = {"adapter": asked.adapter, "room": asked.room, "clean": asked.clean}
    return asdict(how) | more | {"format": _suffix(asked.format, asked.name)}


def _suffix(format: str | None, name: str) -> str:
    suffix = f".{format.lower().removeprefix('.')}" if format else PurePath(name).suffix.lower()
    known = BY_SUFFIX.get(suffix)
    if known and known.is_written_here:
        return suffix.removeprefix(".")
    if format:
        works = ", ".join(s.removeprefix(".") for s, f in BY_SUFFIX.items() if f.is_written_here)
        raise ValueError(f"format: {format!r} is not written here; {works} are")
    return "png"
