"""Running a federation: the server with Flower's link, a simulation, a site's node with its worker.

Imports neither flwr nor torch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lorgnette.common.files import make_folder, take_lock
from lorgnette.federate.deploy.board import Board, page
from lorgnette.federate.deploy.deployment import SETTINGS_FILE, Deployment, copy_settings_to_sites, read_deployment
from lorgnette.federate.deploy.keys import require_private
from lorgnette.federate.deploy.programs import (
    STOP_SECONDS,
    child,
    free_port,
    is_up,
    listens,
    require_free_port,
    says_ready,
    started,
)
from lorgnette.federate.deploy.worker import site_worker
from lorgnette.federate.flower.command import FlowerCommand, around_proxies, environment, flower_words, require_flower

RESTART_SECONDS = 5.0  # before a worker that ended is started again
LOOK_SECONDS = 0.5
ASK_FLOWER_SECONDS = 20.0
BEGIN_SECONDS = 600.0  # until there is a board; Flower would let a run wait for ever

Show = Callable[[str], None]


def serve(
    folder: str | os.PathLike[str], show: Show = print, show_page: Callable[[Board], None] | None = None
) -> Board:
    """Run the rounds of a federation's folder to their end, as its server.

    A server that was killed goes on at the same round when it is started again.

    Args:
        folder: of the federation, with keys.
        show: called with lines for the operator.
        show_page: called with the board whenever it changes.

    Returns:
        The board at the end; its phase says how the rounds ended.

    Raises:
        ValueError, FileNotFoundError: keys or settings are missing, the port is taken, or the rounds failed.
    """
    folder = Path(folder).resolve()
    deployment = read_deployment(folder)
    public_keys = sorted((folder / "server" / "sites").glob("*.pub"))
    if not public_keys:
        raise FileNotFoundError(
            f"{folder} has no keys: `lorgnette federate keys {folder} --sites north,south` makes them"
        )
    require_flower()
    copy_settings_to_sites(folder)
    run = make_folder(folder / "run")
    serving = secrets.token_hex(8)
    with _keeping(folder, show), _superlink(folder, deployment, serving) as link:
        flower = FlowerCommand(run / "flower", link, f"127.0.0.1:{deployment.port}", folder / "server" / "ca.crt")
        for file in public_keys:
            flower.register(file)
        show(f"listening on {deployment.listen}:{deployment.port} for {', '.join(file.stem for file in public_keys)}")
        run_id = flower.start_run(folder / "app")
        return _watch(flower, run_id, (run / "board.json", serving), show_page or (lambda board: show(page(board))))


def is_serving(folder: str | os.PathLike[str]) -> bool:
    """Whether the rounds of a federation's folder are being run now, on this machine."""
    lock = Path(folder) / "run" / "lock"
    if not lock.is_file():
        return False
    with lock.open("r+") as file:
        return not take_lock(file)


def simulate(
    folder: str | os.PathLike[str], show: Show = print, show_page: Callable[[Board], None] | None = None
) -> Board:
    """The same app with all clients on this machine, in Flower's simulation (Ray): the data is dealt out among them.

    Args, Returns, Raises: as `serve`; no keys are needed.
    """
    folder = Path(folder).resolve()
    deployment = read_deployment(folder)
    require_flower()
    if find_spec("ray") is None:
        raise ValueError("a simulation needs Ray: pip install 'lorgnette[simulation]'")
    run = make_folder(folder / "run")
    serving = secrets.token_hex(8)
    port, log = free_port(), run / "superlink.log"
    words = flower_words("superlink", "--simulation", "--insecure", "--host", "127.0.0.1", "--port", str(port))
    words += ["--isolation", "process"]
    executor = flower_words("superexec", "--insecure", "--runtime-api-address", f"127.0.0.1:{port}")
    env = environment(run / "flower") | {"LORGNETTE_FEDERATION": str(folder), "LORGNETTE_SIMULATED": "1"}
    env |= {"LORGNETTE_SERVING": serving, "RAY_USAGE_STATS_ENABLED": "0"}
    with (
        _keeping(folder, show),
        tempfile.TemporaryDirectory(prefix="l-") as scratch,  # Ray's sockets need a short path
        child(words, env, log) as link,
        started(link, log, lambda: listens(port)),
        child(executor, env | {"RAY_TMPDIR": scratch}, run / "app.log"),
    ):
        flower = FlowerCommand(run / "flower", link, f"127.0.0.1:{port}", None)
        show(f"{deployment.config.clients} clients on this machine")
        resources = f"num-supernodes={deployment.config.clients} client-resources-num-cpus=1"
        run_id = flower.start_run(folder / "app", "--federation-config", resources)
        return _watch(flower, run_id, (run / "board.json", serving), show_page or (lambda board: show(page(board))))


def run_node(folder: str | os.PathLike[str], given: Mapping[str, Any], show: Show = print) -> None:
    """Take part in a federation as the site of this folder, until interrupted.

    Args:
        folder: the site's.
        given: its own settings by flat name, such as `data.root`.
        show: called with lines for whoever looks.

    Raises:
        ValueError, FileNotFoundError: keys, settings or data are missing, or a node of this folder runs already.
    """
    folder = Path(folder).resolve()
    deployment = read_deployment(folder)
    for name in ("ca.crt", "node.key"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}: the server's operator hands it out with the folder")
    require_private(folder / "node.key")
    require_flower()
    os.environ.update(around_proxies())
    run = make_folder(folder / "run")
    logging.basicConfig(filename=run / "node.log", level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for every look
    log = run / "worker-output.log"
    with (run / "lock").open("w") as lock:
        if not take_lock(lock):
            raise ValueError(f"a node of {folder} is running already: stop it first, or leave it be")
        show(f"{folder.name} calls {deployment.address}")
        while True:
            stop = threading.Event()
            with site_worker(folder, given, log) as (process, worker):
                connection = threading.Thread(
                    target=_take_part, args=(folder, deployment.address, worker, stop, show), daemon=True
                )
                connection.start()
                try:
                    with started(process, log, lambda: says_ready(log)):
                        show(f"{folder.name} is ready")
                    while process.poll() is None and connection.is_alive() and not worker.is_lost:
                        time.sleep(LOOK_SECONDS)
                finally:
                    stop.set()
                    connection.join(STOP_SECONDS / 3)  # it takes leave of the server
            show(f"worker or connection ended (the logs in {run} may say why): starting again")
            time.sleep(RESTART_SECONDS)


def _take_part(*args: Any) -> None:
    from lorgnette.federate.flower.node import take_part  # two seconds, while the worker starts beside it

    take_part(*args)


@contextlib.contextmanager
def _keeping(folder: Path, show: Show) -> Iterator[None]:
    """Within the block, whatever ends it: once the programs are gone, what the rounds have come to is kept."""
    try:
        yield
    except BaseException:
        from lorgnette.federate.deploy.serving import keep_reached

        with contextlib.suppress(ValueError, OSError):  # what ended the rounds is told
            if said := keep_reached(folder):
                show(said)
        raise


@contextlib.contextmanager
def _superlink(folder: Path, deployment: Deployment, serving: str) -> Iterator[subprocess.Popen[bytes]]:
    run, keys = folder / "run", folder / "server"
    words = [
        *("superlink", "--host", deployment.listen, "--port", str(deployment.port)),
        *("--ssl-ca-certfile", str(keys / "ca.crt"), "--ssl-certfile", str(keys / "server.crt")),
        *("--ssl-keyfile", str(keys / "server.key"), "--enable-supernode-auth"),
        *("--isolation", "process", "--database", str(run / "superlink.db")),
    ]
    try:
        require_free_port(deployment.listen, deployment.port)
    except ValueError as error:
        if is_serving(folder):
            raise ValueError(f"a server of {folder} is running already: stop it first, or leave it be") from None
        raise ValueError(f"{error}: stop what listens there, or change the port in {SETTINGS_FILE}") from None
    env = environment(run / "flower") | {"LORGNETTE_FEDERATION": str(folder), "LORGNETTE_SERVING": serving}
    log = run / "superlink.log"
    address = f"127.0.0.1:{deployment.port}"
    trust = ("--root-certificates", str(keys / "ca.crt"))
    with (
        child(flower_words(*words), env, log) as link,
        started(link, log, lambda: is_up(address, keys / "ca.crt")),
        child(flower_words("superexec", *trust, "--runtime-api-address", address), env, run / "app.log"),
    ):
        yield link


def _watch(flower: FlowerCommand, run_id: str, kept: tuple[Path, str], show_page: Callable[[Board], None]) -> Board:
    """Show the board whenever it changes, until the rounds end."""
    last, began = None, time.monotonic()
    asked = began
    while True:
        board = _board(*kept)
        if last is None and board is None and time.monotonic() - began > BEGIN_SECONDS:
            raise ValueError(f"the rounds did not begin: {kept[0].parent / 'superlink.log'} may say why")
        if board is not None and board != last:
            show_page(board)
            last = board
        if board is not None and board.is_over:
            until = time.monotonic() + STOP_SECONDS
            while not (run := flower.run(run_id)).get("status", "").startswith("finished"):
                if time.monotonic() > until:
                    break
            if board.phase.startswith("failed"):
                raise ValueError(board.phase.removeprefix("failed: "))
            board.wire_bytes = run.get("network-traffic", {}).get("total-bytes")
            board.keep()
            return board
        if flower.link.poll() is not None:
            raise ValueError(f"Flower's link ended: {kept[0].parent / 'superlink.log'} says why; serve again to go on")
        if time.monotonic() - asked > ASK_FLOWER_SECONDS:
            asked = time.monotonic()
            status = flower.run(run_id).get("status", "")
            if status.startswith("finished") and not ((board := _board(*kept)) and board.is_over):
                raise ValueError(f"Flower ended the rounds ({status}): {kept[0].parent / 'server.log'} may say why")
        time.sleep(LOOK_SECONDS)


def _board(file: Path, serving: str) -> Board | None:
    """The board of this start of the server, once there is one."""
    try:
        board = Board.read(file)
    except (FileNotFoundError, ValueError):  # ValueError: of a start before this one, by another version
        return None
    return board if board.serving == serving else None
