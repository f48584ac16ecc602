"""The folder of a federation: its settings, the app that Flower carries, and where everything lies. Imports no torch.

DIR/deployment.yaml       room, recipe, rounds, address: the same at the server and, without its data, at every site
DIR/app/                  the Flower app: two lines that name Lorgnette; it depends on nothing
DIR/server/               certificate, keys of the sites (see `lorgnette.federate.deploy.keys`)
DIR/run/                  the server's: journal, adapter/, report.html, board.json, logs, Flower's own files
DIR/sites/NAME/           what goes to that site: README.md, deployment.yaml, ca.crt, node.key; run/ is made there
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from lorgnette.common.files import write_text
from lorgnette.federate.settings import FederateConfig
from lorgnette.recipe import recipe_from_dict, recipe_to_dict
from lorgnette.settings import read_yaml
from lorgnette.systems import room_of
from lorgnette.systems.protocol import RoomRecipe, without_own
from lorgnette.version import __version__

FORMAT_VERSION = 1
SETTINGS_FILE = "deployment.yaml"
OWN_GROUPS = ("data",)  # what a site may set for itself, beside OWN_SETTINGS
OWN_SETTINGS = ("train.device", "train.workers")

_APP = '''\
"""What Flower starts. Everything is in the installed package; this file only names it."""

from lorgnette.federate.flower.app import client, server

__all__ = ["client", "server"]
'''

_PROJECT = """\
[project]
name = "lorgnette-federation"
version = "1.0.0"
description = "Rounds of Lorgnette, carried by Flower"
license = "Apache-2.0"
# Nothing: Flower would install what stands here anew at every run. Lorgnette is installed before (README.md).
dependencies = []

[tool.flwr.app]
publisher = "lorgnette"

[tool.flwr.app.components]
serverapp = "federation_app:server"
clientapp = "federation_app:client"
"""

APP_FILES = {"pyproject.toml": _PROJECT, "federation_app.py": _APP}
"""The app of the server; at the sites no app runs."""


_README = """\
# A federation with Lorgnette {version}

Room: {room}. Sites reach the server at {address}.

At the server, with `lorgnette[{extras}]` {version} installed (from a checkout: Getting started in its docs), here:

    lorgnette federate keys . --sites {sites} --host {host}
    lorgnette federate serve .

Hand `sites/NAME` to that site, to nobody else: it holds the site's private key. There, with the data in a folder:

    lorgnette federate check NAME --data.root FOLDER
    lorgnette federate node NAME --data.root FOLDER

Both programs may be stopped and started again at any time; the rounds go on where they were.
"""

_SITE_README = """\
# {site}: a site of a federation with Lorgnette {version}

Room: {room}. The server is at {address}. On the machine that has the data, with `lorgnette[{extras}]`
{version} installed (from a checkout: Getting started in its docs):

    lorgnette federate check {site} --data.root FOLDER
    lorgnette federate node {site} --data.root FOLDER

`{site}` is this folder. `check` tries everything and sends nothing; `node` takes part until it is interrupted. The data
stays where it is: adapters and figures leave, no file names. `node.key` is this site's private key: keep it yours.
"""


@dataclass(frozen=True)
class Deployment:
    """Everything on which server and sites must agree."""

    recipe: RoomRecipe
    """The room's recipe; `data` is each site's own."""
    config: FederateConfig
    """Rounds, scheme, deadline."""
    address: str
    """Where sites reach the server, HOST:PORT."""
    listen: str = "0.0.0.0"
    """Where the server listens: 127.0.0.1 for this machine alone; its own programs reach it there in any case."""
    base: str = ""
    """Digest of the base model that every site must have."""
    schema: str = ""
    """Digest of names and shapes of what travels."""
    min_samples: int = 1
    """Training samples that a site must have."""
    gather: float = 120.0
    """Seconds that the server waits for all sites before it goes on with those that are there."""
    evaluate: bool = True
    """Whether the server scores each round on held-out data of its own (`data` of the recipe)."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}", self.address) or self.port > 65535:
            raise ValueError(f"address: {self.address!r} does not work; HOST:PORT does, as fed.example.org:8000")
        if self.listen not in ("0.0.0.0", "127.0.0.1"):
            raise ValueError(f"listen: {self.listen!r} does not work; 0.0.0.0 and 127.0.0.1 do")
        if self.min_samples < 1:
            raise ValueError(f"min_samples: {self.min_samples} is too small; at least 1 works")
        if not 0 <= self.gather < float("inf"):
            raise ValueError(f"gather: {self.gather} is not a number of seconds")

    @property
    def host(self) -> str:
        """The server's name."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The server's port."""
        return int(self.address.rpartition(":")[2])


def read_deployment(folder: str | os.PathLike[str]) -> Deployment:
    """The settings in a folder's `deployment.yaml`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: an unknown setting or a value that does not work, in one line.
    """
    file = Path(folder) / SETTINGS_FILE
    if not file.is_file():
        raise FileNotFoundError(f"no {SETTINGS_FILE} in {folder}: `lorgnette federate init` makes one")
    content = read_yaml(file)
    if content.pop("format_version", None) != FORMAT_VERSION:
        raise ValueError(f"{file}: format_version is not {FORMAT_VERSION}, the one this program reads")
    recipe = recipe_from_dict(_table(content, "recipe", file), str(file))
    config = _settings(FederateConfig, _table(content, "federate", file), file)
    return _settings(Deployment, {**content, "recipe": recipe, "config": config}, file)


def write_deployment(deployment: Deployment, folder: str | os.PathLike[str]) -> Path:
    """Write `deployment.yaml`; returns its path."""
    import yaml

    plain = {field.name: getattr(deployment, field.name) for field in fields(deployment)}
    config, recipe = plain.pop("config"), plain.pop("recipe")
    federate = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(config).items()}
    content = {"format_version": FORMAT_VERSION, **plain, "federate": federate, "recipe": recipe_to_dict(recipe)}
    file = Path(folder) / SETTINGS_FILE
    write_text(file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return file


def make_folder_of(deployment: Deployment, folder: str | os.PathLike[str], sites: str = "north,south") -> Path:
    """Make the folder of a new federation: settings, app and a README with the commands.

    Raises:
        ValueError: the folder holds one already.
    """
    folder = Path(folder)
    if (folder / SETTINGS_FILE).exists():
        raise ValueError(f"{folder} holds a federation already: give a new folder, or edit its {SETTINGS_FILE}")
    for name, text in APP_FILES.items():
        write_text(folder / "app" / name, text)
    write_text(folder / "README.md", _README.format(**_facts(deployment), host=deployment.host, sites=sites))
    write_deployment(deployment, folder)
    return folder


def copy_settings_to_sites(folder: str | os.PathLike[str]) -> list[Path]:
    """Put `deployment.yaml` and a README into every folder under `sites/`; returns those folders.

    The server's own folders of data are left out: they are not the sites' to know, and a site that forgets to name its
    own is told so.
    """
    found = sorted(path.parent for path in (Path(folder) / "sites").glob("*/ca.crt"))
    if not found:
        return []
    deployment = read_deployment(folder)
    without = without_own(deployment.recipe.data)
    facts = _facts(deployment)
    for site in found:
        write_deployment(replace(deployment, recipe=replace(deployment.recipe, data=without)), site)
        write_text(site / "README.md", _SITE_README.format(**facts, site=site.name))
    return found


def _facts(deployment: Deployment) -> dict[str, str]:
    about = room_of(deployment.recipe).ABOUT
    extras = ",".join(filter(None, ["federated", about.extra]))
    return {"version": __version__, "room": about.name, "extras": extras, "address": deployment.address}


def with_own_settings(deployment: Deployment, given: Mapping[str, Any]) -> Any:
    """The recipe with what a site sets for itself, by flat name such as `data.root`.

    Raises:
        ValueError: a setting in which all sites must be alike.
    """
    from lorgnette.settings import make_recipe, settings_of

    for name in given:
        if name.partition(".")[0] not in OWN_GROUPS and name not in OWN_SETTINGS:
            own = ", ".join([*(f"--{group}.*" for group in OWN_GROUPS), *(f"--{name}" for name in OWN_SETTINGS)])
            raise ValueError(f"--{name} is the same at every site ({SETTINGS_FILE}); a site sets {own}")
    recipe = deployment.recipe
    present = {}
    for name in settings_of(type(recipe)):
        group, _, field = name.partition(".")
        if getattr(recipe, group) is not None:
            present[name] = getattr(getattr(recipe, group), field)
    off = {field.name: None for field in fields(recipe) if getattr(recipe, field.name) is None}
    return make_recipe(type(recipe), {**present, **off, **given})


def _table(content: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    value = content.pop(name, None)
    if not isinstance(value, dict):
        raise ValueError(f"{file}: {name} is missing, or no table of settings")
    return value


def _settings(kind: type, values: Mapping[str, Any], file: Path) -> Any:
    from lorgnette.settings import unknown_setting

    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise ValueError(f"{file}: {unknown_setting(str(name), known)}")
    lists = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return kind(**lists)
    except TypeError as error:
        raise ValueError(f"{file}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
