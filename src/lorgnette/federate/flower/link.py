"""Flower's own programs, as they are started here: the server's link, and what starts the server's app.

    superlink    Flower's server behind `lorgnette.federate.flower.guard`; its settings are Flower's own
    superexec    starts the process in which `lorgnette.federate.flower.app.server` runs the rounds

Each ends with the process that started it, and with it all that it started.
"""

# pyright: reportMissingImports=false
# (flwr is optional)

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from lorgnette.federate.deploy.keys import public_key_pem
from lorgnette.federate.deploy.programs import end_group_with_input
from lorgnette.federate.flower.app import FOLDER
from lorgnette.federate.flower.guard import guarded


def _superlink() -> None:
    import uvicorn
    from flwr.superlink.main import create_app

    command: Any = import_module("flwr.superlink.cli.flower_superlink")  # the package has a function of that name
    config = command._parse_superlink_lifespan_config()
    keys = [public_key_pem(file) for file in (Path(os.environ[FOLDER]) / "server" / "sites").glob("*.pub")]
    uvicorn.run(
        guarded(create_app(config, command.SuperLinkLifespan), keys),
        host=config.host,
        port=config.port,
        ssl_certfile=config.ssl_certfile,
        ssl_keyfile=config.ssl_keyfile,
        log_config=command.get_uvicorn_log_config(command.console_handler.level),
        access_log=False,  # a line for every look of every node
        forwarded_allow_ips="127.0.0.1",
    )


def _superexec() -> None:
    from flwr.supercore.cli import flower_superexec

    flower_superexec()


def run_program() -> None:
    """Run the program that the first word of the command line names."""
    program = {"superlink": _superlink, "superexec": _superexec}[sys.argv.pop(1)]
    end_group_with_input()
    program()
