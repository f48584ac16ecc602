"""`lorgnette federate ROOM|NAME`: many holders of data train one adapter, here or on several machines."""

from __future__ import annotations

from importlib import import_module

from lorgnette.systems import ROOMS

SEVERAL_MACHINES = {
    "init": "make the folder of a federation on several machines",
    "keys": "make its certificates and keys",
    "serve": "run its rounds",
    "status": "show where its rounds are",
    "check": "try what a site needs, before the rounds",
    "node": "take part as a site, with the data of this machine",
}

ROOMS_PAGE = """\
lorgnette federate superres --data.root photos --clients 8 --rounds 20

Clients train one adapter on data that stays with them; here all of them run on this machine.
Rooms: {rooms}.
lorgnette federate ROOM --help lists all settings.

on several machines, carried by Flower (docs: federation-deployment):
{several}"""


def run(words: list[str]) -> int:
    """Run the verb; returns the exit status."""
    if not words or words[0].startswith("-"):
        from lorgnette.cli.federate.here import arguments

        several = "\n".join(f"  {name:<8}{about}" for name, about in SEVERAL_MACHINES.items())
        parser = arguments(None)
        parser.example, parser.description = ROOMS_PAGE.format(rooms=", ".join(ROOMS), several=several), None
        parser.print_help()
        return 0 if words and words[0] in ("-h", "--help") else 2
    if words[0] in SEVERAL_MACHINES:
        return import_module(f"{__name__}.{words[0]}").run(words[1:])
    from lorgnette.cli.federate import here

    return here.run(words)
