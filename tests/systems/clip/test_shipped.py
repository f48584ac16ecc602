"""The CLIP in the package does what its card says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lorgnette import build, evaluate, fit
from lorgnette.images.file import Image
from lorgnette.systems import clip
from lorgnette.systems.clip import glyphs
from lorgnette.systems.clip.weights import SHIPPED
from lorgnette.train.config import TrainConfig


@pytest.mark.parametrize(("preset", "least"), [("glyphs", 0.89), ("digits", 0.33)])
def test_it_knows_what_it_has_read_about(preset: str, least: float):
    rows = clip.evaluation({"zero-shot": build(clip.Recipe(lora=None))}, preset)  # type: ignore[dict-item]
    assert rows["zero-shot"]["accuracy"] > least


def test_handwriting_is_learnt_in_a_few_steps():
    config = TrainConfig(steps=60, batch_size=32, lr=3e-3, device="cpu")
    recipe = clip.Recipe(data=clip.Data(preset="digits"), train=config)
    batches, test = clip.loaders(recipe.data, config)
    task = build(recipe)
    before = evaluate(task, test)["accuracy"]
    assert before == evaluate(build(replace(recipe, lora=None)), test)["accuracy"]
    fit(task, batches, config)
    assert evaluate(task, test)["accuracy"] > before + 0.3


def test_it_is_small_and_text_and_head_agree():
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 1_000_000
    data = clip.Data(preset="digits")
    rows = [
        clip.evaluation({"x": build(clip.Recipe(model=clip.Model(head=head), data=data, lora=None))}, "digits")["x"]  # type: ignore[dict-item, arg-type]
        for head in ("linear", "text")
    ]
    assert rows[0]["accuracy"] == pytest.approx(rows[1]["accuracy"], abs=0.005)


def test_colours_are_known_too():
    data = clip.Data(classes=("red star", "blue star"))
    task: Any = build(clip.Recipe(model=clip.Model(head="text"), data=data, lora=None))
    right = 0
    for index in range(300):
        picture = glyphs.draw(np.random.default_rng((9, index)), 32, glyphs.THINGS.index("star"))
        said = [colour for colour in ("red", "blue") if f"a {colour} star" in picture.caption]
        if said:
            ((answer,),) = clip.classify(task, [Image(picture.image / np.float32(255))])
            right += 1 if answer.name == f"{said[0]} star" else -1
    assert right > 5
