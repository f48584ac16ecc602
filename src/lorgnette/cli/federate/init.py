"""`lorgnette federate init FOLDER ROOM`: the folder of a federation on several machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorgnette import settings
from lorgnette.cli.words import OwnOptions, settings_from_file
from lorgnette.systems import ROOMS, room

OPTIONS: OwnOptions = {
    "host": ("NAME", "name or address under which sites reach this server"),
    "port": ("N", "its port (8000)"),
    "listen": ("ADDRESS", "address to listen on (0.0.0.0; 127.0.0.1 where the host is this machine)"),
    "min-samples": ("N", "training samples that a site must have (1)"),
    "gather": ("SECONDS", "how long to wait for all sites before going on with those that are there (120)"),
    "config": ("FILE", "settings of the room from a YAML file; those on the command line count more"),
}

PAGE = """\
lorgnette federate init study clip --host fed.example.org --data.classes benign malignant --deadline 600

Makes the folder of a federation: settings (deployment.yaml), the app that Flower carries, a README with the commands.
Rooms: {rooms}. After these, the settings of the room and of the rounds, as `lorgnette federate ROOM --help` lists them;
--data.root is held-out data of the server's own, to score each round with.

{options}"""


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    if len(words) < 2 or {"-h", "--help"} & set(words):
        options = "\n".join(f"  {f'--{name} {value}':<24}{about}" for name, (value, about) in OPTIONS.items())
        print(PAGE.format(rooms=", ".join(ROOMS), options=options))
        return 0 if {"-h", "--help"} & set(words) else 2
    from lorgnette.cli.federate.here import FEDERATION, federation, sorted_words

    folder, name = words[0], words[1]
    recipe_class = room(name).Recipe
    own, of_federation, of_room = sorted_words(words[2:], OPTIONS)
    if "host" not in own:
        raise ValueError("--host: not given; the name under which sites reach this server, as fed.example.org")
    config = federation(of_federation)
    values = settings_from_file(name, recipe_class, own["config"]) if "config" in own else {}
    values = settings.override(values, settings.from_options(recipe_class, of_room, [*OPTIONS, *sorted(FEDERATION)]))
    recipe = settings.make_recipe(recipe_class, values)
    if getattr(recipe.data, "classes", None) == () and not getattr(recipe.data, "preset", ""):
        raise ValueError("--data.classes: name them, so that all sites number them alike; benign malignant, say")

    from lorgnette.federate.aggregation.adapter_state import Adapter
    from lorgnette.federate.deploy.deployment import Deployment, make_folder_of
    from lorgnette.federate.deploy.reach import LOCAL
    from lorgnette.recipe import build

    here = own["host"] in LOCAL
    deployment = Deployment(
        recipe,
        config,
        f"{own['host']}:{own.get('port', '8000')}",
        own.get("listen", "127.0.0.1" if here else "0.0.0.0"),
        min_samples=_number(own, "min-samples", 1),
        gather=float(_number(own, "gather", 120)),
        evaluate=_has_held_out(recipe),
    )
    from lorgnette.federate.wire.messages import facts_of

    adapter = Adapter(build(recipe).model)
    deployment = replace(deployment, **facts_of(adapter, adapter.read(), deployment.config.personal))
    made = make_folder_of(deployment, folder)
    print(f"made      {made} ({Path(folder) / 'README.md'} has the commands)")
    print(
        "scored    each round, on held-out data of this server"
        if deployment.evaluate
        else "scored    by no held-out data here: the last round is kept"
    )
    print(f"next      lorgnette federate keys {folder} --sites north,south")
    return 0


def _has_held_out(recipe: Any) -> bool:
    from lorgnette.federate.deploy.serving import held_out

    try:
        return len(held_out(recipe)) > 0
    except ValueError as error:
        if "not set" in str(error):
            return False
        raise


def _number(own: Mapping[str, str], name: str, default: int) -> int:
    text = own.get(name, str(default))
    if not text.isdecimal():
        raise ValueError(f"--{name}: {text!r} does not work; a whole number does")
    return int(text)
