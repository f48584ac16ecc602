"""An encoder that looks at windows (SwinIR) leaves the package too, for pictures of any size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.export.test_pictures import picture
from tests.systems.superres.goldens import fill, golden
from tests.systems.superres.test_networks import lively

from lorgnette.export import Exported, export, read_manifest
from lorgnette.export.tiles import in_tiles
from lorgnette.systems import superres
from lorgnette.systems.protocol import OnPictures
from lorgnette.systems.superres.model import make_network
from lorgnette.systems.superres.task import SuperResolution

RECIPE = replace(superres.Recipe(), lora=None)


def test_crops_begin_at_windows():
    """What a window holds depends on where the crop begins."""
    seen = set[float]()

    def run(given: dict[str, Any]) -> np.ndarray:
        seen.add(float(given["image"][0, 0, 0, 0]))
        return given["image"]

    columns = np.broadcast_to(np.arange(64, dtype=np.float32) / 64, (1, 3, 16, 64))
    how = OnPictures(tile=16, halo=3, blend=2, align=8, factor=1)
    in_tiles(run, how, "a", columns, (16, 64), 16, 3)
    assert sorted(64 * start for start in seen) == [0, 8, 24, 40]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_pictures_of_any_size_in_tiles_that_begin_at_windows(suffix: str, tmp_path: Path):
    task, file = SuperResolution(lively("lm-lte", "swinir")), tmp_path / f"a{suffix}"
    assert export(task, RECIPE, file).difference <= 1e-5
    manifest = read_manifest(file)
    assert manifest is not None
    assert manifest.pictures is not None
    assert (manifest.pictures.align, manifest.pictures.halo) == (8, task.model.receptive_radius)
    if suffix == ".pt2":
        return
    for how in ({}, {"scale": 3.3}, {"tile": 20, "halo": 5}, {"size": (41, 80), "tile": 16, "halo": 3}):
        given: dict[str, Any] = how
        for size in ((37, 50), (5, 3)):
            got, wanted = (run(picture(*size), **given) for run in (Exported(file).enhance, _enhance(task)))
            np.testing.assert_allclose(got.pixels, wanted.pixels, rtol=0, atol=1e-5)


def _enhance(task: SuperResolution) -> Any:
    return lambda image, **how: superres.enhance(task, image, **how)


def test_what_is_exported_gives_what_the_published_code_gives():
    data = golden("swinir_x2")
    meta, inp = data["meta"], torch.from_numpy(data["image"])[None] * 2 - 1
    model = make_network(meta["method"], meta["encoder"]).eval()
    fill(model)
    program = superres.program(SuperResolution(model.requires_grad_(False)))
    as_exported: Any = program.answering(program.module)
    with torch.no_grad():
        out = as_exported.model.render(inp, (meta["H"], meta["W"]))[0].permute(1, 2, 0).numpy()
    assert np.abs(out - data["out"]).max() < 5e-4  # as the network itself
    assert np.abs(out - data["out"]).mean() < 2e-5


def test_attention_across_scales_is_refused():
    with pytest.raises(ValueError, match=r"^model: lm-ciaosr cannot be exported for pictures of any size; other"):
        superres.program(SuperResolution(lively("lm-ciaosr", "swinir")))
