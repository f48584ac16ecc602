"""A federation in miniature on disk: pictures for each site, settings, app and keys."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image

from lorgnette.federate.deploy.deployment import Deployment, copy_settings_to_sites, make_folder_of
from lorgnette.federate.deploy.keys import make_keys
from lorgnette.federate.settings import FederateConfig

SITES = ("north", "south", "west")
CLASSES = ("dark", "light")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def make_pictures(folder: Path, count: int, seed: int) -> None:
    """Dark and light pictures, a subfolder for each."""
    rng = np.random.default_rng(seed)
    for name, level in zip(CLASSES, (60, 180), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(rng.normal(level, 50, (16, 16, 3)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / name / f"patient-{seed}-{number}.png")


def make_study(folder: Path, held_out: int = 6, **rounds: object) -> Path:
    """Make a federation with its data; gives its folder.

    Args:
        folder: where it and the data go.
        held_out: pictures of each class that the server has; in a simulation they are dealt out.
        rounds: settings of `FederateConfig`.
    """
    from lorgnette.federate.aggregation.adapter_state import Adapter
    from lorgnette.federate.wire.messages import facts_of
    from lorgnette.recipe import build
    from lorgnette.systems import clip

    for seed, name in enumerate(("held-out", *SITES)):
        make_pictures(folder / "data" / name, 6 + 2 * seed if seed else held_out, seed)
    recipe = clip.tiny()[0]
    recipe = replace(
        recipe,
        data=clip.Data(root=str(folder / "data" / "held-out"), classes=CLASSES, image_size=16),
        train=replace(recipe.train, device="cpu", batch_size=4),
    )
    config = FederateConfig(**{"rounds": 3, "local_steps": 2, "deadline": 600.0, "clients": 3} | rounds)  # type: ignore[arg-type]
    deployment = Deployment(recipe, config, f"127.0.0.1:{free_port()}", "127.0.0.1", min_samples=4, gather=600.0)
    adapter = Adapter(build(recipe).model)
    deployment = replace(deployment, **facts_of(adapter, adapter.read(), config.personal))
    study = make_folder_of(deployment, folder / "study", ",".join(SITES))
    make_keys(study, SITES)
    copy_settings_to_sites(study)
    return study


def own_data(study: Path, site: str) -> dict[str, str]:
    """A site's own settings."""
    return {"data.root": str(study.parent / "data" / site)}
