"""A picture enhanced: by the very function of `lorgnette enhance`, so that the files are the same."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from lorgnette.enhancing.cleaned import Cleaned, cleaning_room
from lorgnette.enhancing.enhancer import AUTO
from lorgnette.enhancing.file import How, Most, enhance_file
from lorgnette.images.file import Image, read_image, write_image
from lorgnette.images.notes import Notes

if TYPE_CHECKING:
    from lorgnette.web.work.wardrobe import Wardrobe
    from lorgnette.web.worker import Tell

PREVIEWS = ("preview-before.jpg", "preview-after.jpg")
SIDE = 1600
"""Longest side of a preview."""


def run(source: Path, settings: dict[str, Any], wardrobe: Wardrobe, tell: Tell) -> dict[str, Any]:
    """Do it; see `lorgnette.web.worker`.

    Args:
        source: the picture.
        settings: those of `How`; `adapter`, `room`, `clean`, and `format`, a suffix.
        wardrobe: the models.
        tell: what is done so far.
    """
    given: dict[str, Any] = {field.name: settings[field.name] for field in fields(How)}
    for name in ("size", "range"):  # JSON knows no tuples
        given[name] = given[name] and tuple(given[name])
    how = How(**given)
    target = source.parents[1] / f"{source.stem}.{settings['format']}"
    enhancer = wardrobe.enhancer(settings["adapter"], settings["room"])
    if settings["clean"]:
        enhancer = Cleaned(wardrobe.enhancer(AUTO, cleaning_room()), settings["clean"], enhancer)
    notes = Notes(lambda path: path.name)
    most = Most(wardrobe.limits.pixels, wardrobe.limits.result_pixels)
    with notes.of(source, target):
        enhance_file(source, target, enhancer, how, tell.through, most)
        shown = write_previews(source, target, PREVIEWS) if settings.get("preview") else []
    return {"files": [target.name], "preview": shown, "said": [*enhancer.said(source), *notes.lines()]}


def write_previews(source: Path, target: Path, names: tuple[str, str]) -> list[str]:
    """Two small pictures of one size, before and after, beside the result; returns their names."""
    after = read_image(target).pixels
    factor = min(1.0, SIDE / max(after.shape[:2]))
    size = (max(1, round(after.shape[1] * factor)), max(1, round(after.shape[0] * factor)))
    for pixels, name in zip((read_image(source).pixels, after), names, strict=True):
        smaller = pixels.shape[1] > size[0]
        shown = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
        write_image(target.parent / name, Image(shown), quality=90)
    return list(names)
