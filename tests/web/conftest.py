"""A server with small limits and small adapters, at a port of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest


@pytest.fixture(scope="session")
def lenses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters: two of one tiny base, the whole of another, and what is no adapter."""
    import torch

    from lorgnette import LoRAConfig, build, get_lora_params, save
    from lorgnette.systems import restore, superres

    home = tmp_path_factory.mktemp("lenses")
    config = LoRAConfig(r=2, lora_alpha=4, target_modules=r"encoder\.body.*|imnet\.layers\.\d+")
    for seed, name in enumerate(("warm", "cold")):
        recipe = superres.Recipe(
            model=superres.Model(encoder="edsr-tiny", base="none"),
            data=superres.Data(root=f"photos of {name}"),
            lora=config,
        )
        task = build(recipe)
        generator = torch.Generator().manual_seed(seed)
        for parameter in get_lora_params(task.model):
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
        save(task, recipe, home / name)
    whole = replace(restore.tiny()[0], lora=None)
    save(build(whole), whole, home / "clean")
    (home / "empty").mkdir()
    (home / "notes.txt").write_text("not an adapter")
    return home


class Running(NamedTuple):
    """A server, and where it answers."""

    server: Any
    address: str


@pytest.fixture(scope="session")
def running(lenses: Path) -> Iterator[Running]:
    """A server that answers until the tests are over."""
    pytest.importorskip("prometheus_client", reason="the server needs the extra 'web'")
    from lorgnette.web.run import Listening
    from lorgnette.web.server import Server
    from lorgnette.web.settings import Limits, Settings

    limits = Limits(
        upload_bytes=300_000,
        pixels=100_000,
        result_pixels=400_000,
        voxels=20_000,
        photographs=4,
        minutes=5,
        stalled_seconds=0.5,
        waiting=60,
        waiting_each=50,
    )
    server = Server(Settings(port=0, adapters=lenses, device="cpu", page=False, limits=limits))
    found: queue.SimpleQueue[str] = queue.SimpleQueue()
    listening = Listening(server, found.put)
    thread = threading.Thread(target=listening.run)
    thread.start()
    yield Running(server, found.get(timeout=30))
    listening.should_exit = True
    thread.join(30)
    assert not server.home.exists(), "the temporary folder is removed at the end"


@pytest.fixture(scope="session")
def address(running: Running) -> str:
    return running.address


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=300) as client:
        yield client
