"""The folder of a federation: what all agree on, and what a site sets for itself."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from tests.federate.studies import SITES, make_study, own_data

from lorgnette.federate.deploy.deployment import (
    Deployment,
    make_folder_of,
    read_deployment,
    with_own_settings,
    write_deployment,
)
from lorgnette.federate.settings import FederateConfig
from lorgnette.systems import clip
from lorgnette.systems.superres import Recipe


def test_settings_come_back(tmp_path: Path):
    study = make_study(tmp_path, ranks=(2, 4), scheme="stack")
    deployment = read_deployment(study)
    assert deployment.config.ranks == (2, 4)
    for name in SITES:  # all but the server's own data
        at_site = read_deployment(study / "sites" / name)
        assert at_site.recipe.data == replace(deployment.recipe.data, root=None)
        assert replace(at_site, recipe=deployment.recipe) == deployment
        assert "held-out" not in (study / "sites" / name / "deployment.yaml").read_text()
        with pytest.raises(ValueError, match=r"data\.root: not set"):
            clip.loaders(with_own_settings(at_site, {}).data)
    other = Deployment(Recipe(lora=None), FederateConfig(), "[2001:db8::1]:9000")
    (tmp_path / "other").mkdir()
    write_deployment(other, tmp_path / "other")
    assert read_deployment(tmp_path / "other") == other
    assert (other.host, other.port) == ("2001:db8::1", 9000)


def test_the_app_depends_on_nothing(tmp_path: Path):
    """Flower installs what an app names at every run; torch would come in its largest build."""
    study = make_study(tmp_path)
    project = tomllib.loads((study / "app" / "pyproject.toml").read_text())
    assert project["project"]["dependencies"] == []
    assert sorted(path.name for path in (study / "app").iterdir()) == ["federation_app.py", "pyproject.toml"]
    with pytest.raises(ValueError, match="holds a federation already"):
        make_folder_of(read_deployment(study), study)


def test_whoever_gets_a_site_s_folder_reads_what_to_do(tmp_path: Path):
    study = make_study(tmp_path)
    for folder, command in ((study, "serve ."), (study / "sites" / "west", "node west --data.root FOLDER")):
        text = (folder / "README.md").read_text()
        assert f"lorgnette federate {command}" in text
        assert "lorgnette[federated,clip]" in text
        assert read_deployment(study).address in text


def test_a_site_sets_its_data_and_device_alone(tmp_path: Path):
    study = make_study(tmp_path)
    deployment = read_deployment(study)
    recipe = with_own_settings(deployment, {**own_data(study, "west"), "train.device": "cpu"})
    assert recipe.data.root.endswith("west")
    assert replace(recipe, data=deployment.recipe.data) == deployment.recipe
    for name in ("lora.r", "train.lr", "model.base", "model"):
        with pytest.raises(ValueError, match=f"--{name} is the same at every site"):
            with_own_settings(deployment, {name: 3})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("format_version: 2", "format_version"),
        ("addres: fed:1", "did you mean 'address'"),
        ("address: https://fed.example.org:8000/", "HOST:PORT"),
        ("address: fed.example.org:99999", "HOST:PORT"),
        ("listen: 10.0.0.5", "0.0.0.0 and 127.0.0.1 do"),
        ("min_samples: 0", "at least 1"),
        ("recipe: 3", "recipe"),
        ("federate: {roundz: 3}", "did you mean 'rounds'"),
        ("federate: {rounds: -1}", "rounds"),
        ("recipe: {format_version: 1, room: ../../etc}", "room"),
    ],
)
def test_what_does_not_work_is_one_line(tmp_path: Path, line: str, says: str):
    study = make_study(tmp_path)
    file = study / "deployment.yaml"
    name = line.partition(":")[0]
    kept, skip = [], False
    for old in file.read_text().splitlines():
        if not old.startswith((" ", "-")):
            skip = old.startswith(f"{name}:")
        if not skip:
            kept.append(old)
    file.write_text("\n".join([*kept, line]) + "\n")
    with pytest.raises(ValueError, match=says) as error:
        read_deployment(study)
    assert "\n" not in str(error.value)


def test_no_folder_says_what_makes_one(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="lorgnette federate init"):
        read_deployment(tmp_path)
