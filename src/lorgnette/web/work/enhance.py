"""A picture enhanced: by the very function of `lorgnette enhance`, so that the files are the same."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.enhance_file import How, Most, enhance_file
from lorgnette.images.notes import Notes

if TYPE_CHECKING:
    from lorgnette.web.work.wardrobe import Wardrobe
    from lorgnette.web.worker import Tell


def run(source: Path, settings: dict[str, Any], wardrobe: Wardrobe, tell: Tell) -> dict[str, Any]:
    """Do it; see `lorgnette.web.worker`.

    Args:
        source: the picture.
        settings: those of `How`; `adapter`, `room`, and `format`, a suffix.
        wardrobe: the models.
        tell: what is done so far.
    """
    given: dict[str, Any] = {field.name: settings[field.name] for field in fields(How)}
    for name in ("size", "range"):  # JSON knows no tuples
        given[name] = given[name] and tuple(given[name])
    how = How(**given)
    target = source.parents[1] / f"{source.stem}.{settings['format']}"
    enhancer = wardrobe.enhancer(settings["adapter"], settings["room"])
    notes = Notes(lambda path: path.name)
    most = Most(wardrobe.limits.pixels, wardrobe.limits.result_pixels)
    with notes.of(source, target):
        enhance_file(source, target, enhancer, how, tell.through, most)
    return {"files": [target.name], "said": [*enhancer.said(source), *notes.lines()]}
