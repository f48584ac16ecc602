"""Small pictures and a small adapter for the commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.pictures import picture

from lorgnette.cli import main


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four 64 x 64 images, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for number, name in enumerate(("a.png", "b.png", "c.png", "more/d.png")):
        picture(64, number).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of a small network, as `lorgnette.save` writes it; B is not zero."""
    import torch

    from lorgnette import LoRAConfig, build, get_lora_params, save
    from lorgnette.systems import superres

    recipe = superres.Recipe(
        model=superres.Model(encoder="edsr-tiny", base="none"),
        lora=LoRAConfig(r=2, lora_alpha=4, target_modules=r"encoder\.body.*|hypernet\.layers\.0|imnet\.layers\.\d+"),
    )
    task = build(recipe)
    generator = torch.Generator().manual_seed(1)
    for parameter in get_lora_params(task.model):
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return save(task, recipe, tmp_path_factory.mktemp("adapter") / "lens")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """Call with words: they must give exit status 2 and one line on stderr, which comes back."""

    def call(*words: object) -> str:
        capsys.readouterr()
        status = main([str(word) for word in words])
        lines = capsys.readouterr().err.splitlines()
        assert status == 2
        assert len(lines) == 1, lines
        assert lines[0].startswith("lorgnette: error: ")
        return lines[0].removeprefix("lorgnette: error: ")

    return call


@pytest.fixture(scope="session")
def lenses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole tiny model of each image room, as `lorgnette.save` writes it."""
    from dataclasses import replace

    from lorgnette import build, save
    from lorgnette.systems import restore, superres

    folders = {}
    for name, room in (("restore", restore), ("superres", superres)):
        recipe = replace(room.tiny()[0], lora=None)
        folders[name] = save(build(recipe), recipe, tmp_path_factory.mktemp("lens") / name)
    return folders
