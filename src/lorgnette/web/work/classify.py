"""What is on a picture: as `lorgnette classify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorgnette.images.file import read_image
from lorgnette.recipe import build
from lorgnette.systems import clip, verb_of

if TYPE_CHECKING:
    from lorgnette.web.work.wardrobe import Wardrobe
    from lorgnette.web.worker import Tell


def run(source: Path, settings: dict[str, Any], wardrobe: Wardrobe, tell: Tell) -> dict[str, Any]:
    """Do it; see `lorgnette.web.worker`.

    Args:
        source: the picture.
        settings: `adapter` and `room`, or `classes` and `prompt`; how many answers are wanted, `top`.
        wardrobe: the models.
        tell: what is done so far.
    """
    image = read_image(source, wardrobe.limits.pixels)
    if settings["adapter"]:
        offer = wardrobe.offer(settings["adapter"], settings["room"], "classify")
        name, task = offer.room, wardrobe.task(offer)
    else:  # by names alone, which is what CLIP does
        data = clip.Data(classes=tuple(settings["classes"]), prompts=(settings["prompt"],))
        data.check_alike()
        name = clip.ABOUT.name
        task = wardrobe.placed(build(clip.Recipe(model=clip.Model(head="text"), data=data, lora=None)))
    (labels,) = verb_of(name, "classify")(task, [image], top=settings["top"])
    tell.progress(1, 1)
    return {"files": [], "said": [], "found": {"labels": [label._asdict() for label in labels]}}
