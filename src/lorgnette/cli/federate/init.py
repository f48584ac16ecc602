"""`lorgnette federate init FOLDER ROOM`: the folder of a federation on several machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lorgnette import settings
from lorgnette.cli.arguments import Arguments, add_config, given_settings
from lorgnette.common.values import whole
from lorgnette.systems import ROOMS, room
from lorgnette.systems.protocol import RoomRecipe


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    options = arguments(words[1] if len(words) > 1 and not words[1].startswith("-") else None).read(words)
    from lorgnette.cli.federate.here import federation

    folder = options.folder
    if options.host is None:
        raise ValueError("--host: not given; the name under which sites reach this server, as fed.example.org")
    config = federation(options.federation)
    recipe = settings.make_recipe(room(options.room).Recipe, given_settings(options.room, options))
    try:
        recipe.data.check_alike()
    except ValueError as error:
        raise ValueError(f"--{error}") from None

    from lorgnette.federate.aggregation.adapter_state import Adapter
    from lorgnette.federate.deploy.deployment import Deployment, make_folder_of
    from lorgnette.federate.deploy.reach import LOCAL
    from lorgnette.recipe import build

    here = options.host in LOCAL
    deployment = Deployment(
        recipe,
        config,
        f"{options.host}:{options.port}",
        options.listen or ("127.0.0.1" if here else "0.0.0.0"),
        min_samples=options.min_samples,
        gather=float(options.gather),
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


def _has_held_out(recipe: RoomRecipe) -> bool:
    from lorgnette.federate.deploy.serving import held_out

    return recipe.data.all_held_out() is not None and len(held_out(recipe)) > 0


def arguments(name: str | None) -> Arguments:
    """What may stand after `lorgnette federate init`, for a room where it is known."""
    from lorgnette.cli.federate.here import add_federation

    parser = Arguments(
        "federate init",
        "lorgnette federate init study clip --host fed.example.org --data.classes benign malignant --deadline 600",
        "Makes the folder of a federation: settings (deployment.yaml), the app that Flower carries, a README with the "
        "commands. --data.root is held-out data of the server's own, to score each round with. `lorgnette federate "
        "ROOM --help` lists the settings of a room, which can be given too.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="is made")
    parser.add_argument("room", metavar="ROOM", help=f"one of {', '.join(ROOMS)}")
    parser.add_argument("--host", metavar="NAME", help="name or address under which sites reach this server")
    parser.add_argument("--port", metavar="N", default="8000", help="its port (8000)")
    listen = "address to listen on (0.0.0.0; 127.0.0.1 where the host is this machine)"
    parser.add_argument("--listen", metavar="ADDRESS", help=listen)
    least = "training samples that a site must have (1)"
    parser.add_argument("--min-samples", type=whole(), default=1, metavar="N", help=least)
    gather = "how long to wait for all sites before going on with those that are there (120)"
    parser.add_argument("--gather", type=whole(0), default=120, metavar="SECONDS", help=gather)
    add_federation(parser)
    add_config(parser, name)
    return parser
