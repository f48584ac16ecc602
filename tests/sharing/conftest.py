"""A hub on the loopback interface, and huggingface_hub pointed at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sharing.hub_server import Hub

from lorgnette import LoRAConfig, build, get_lora_params, save
from lorgnette.systems import superres

RECIPE = superres.Recipe(
    model=superres.Model(encoder="edsr-tiny", base="none"),
    data=superres.Data(root="/home/somebody/photos", scales=(1.0, 3.0)),
    lora=LoRAConfig(r=2, lora_alpha=4, target_modules=r"encoder\.body.*|hypernet\.layers\.0"),
)
LEARNT = {
    "samples": 93,
    "held_out": 12,
    "steps": 400,
    "best_step": 350,
    "reason": "done",
    "seconds": 61.5,
    "before": {"psnr": 29.41, "ssim": 0.80},
    "after": {"psnr": 30.61, "ssim": 0.83},
    "improved": True,
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that is empty, with a cache that is, and its token in the environment."""
    from huggingface_hub import constants

    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # it speaks to another server, in another protocol
    monkeypatch.setenv("HF_TOKEN", server.token)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def lens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of a small network that learnt from somebody's photographs; B is not zero."""
    import torch

    task = build(RECIPE)
    generator = torch.Generator().manual_seed(1)
    for parameter in get_lora_params(task.model):
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return save(task, RECIPE, tmp_path_factory.mktemp("lens") / "lens", LEARNT)


@pytest.fixture(scope="session")
def files(lens: Path) -> dict[str, bytes]:
    """The same, as a repository has it."""
    return {file.name: file.read_bytes() for file in lens.iterdir()}
