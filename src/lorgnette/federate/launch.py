"""Starting and watching the programs of a federation: the server with its link, a site's node with its worker.

Each program is a child that ends when the process that started it does, killed or not: it watches its standard input.
Imports neither flwr nor torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lorgnette.federate.folder import Deployment, copy_settings_to_sites, read_deployment
from lorgnette.federate.operator import Board, page
from lorgnette.files import make_folder, write_text

START_SECONDS = 60.0
STOP_SECONDS = 15.0
RESTART_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0)  # waits before a node that ended is started again
LOOK_SECONDS = 0.5
ASK_FLOWER_SECONDS = 20.0

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
        raise FileNotFoundError(f"{folder} has no keys: `lorgnette federate keys {folder}` makes them")
    _require_flower()
    copy_settings_to_sites(folder)
    run = make_folder(folder / "run")
    (run / "board.json").unlink(missing_ok=True)
    with _superlink(folder, deployment) as link:
        flower = _Flower(run / "flower", link, f"127.0.0.1:{deployment.port}", folder / "server" / "ca.crt")
        for file in public_keys:
            flower.register(file)
        show(f"listening on {deployment.listen}:{deployment.port} for {', '.join(file.stem for file in public_keys)}")
        run_id = flower.start_run(folder / "app")
        return _watch(flower, run_id, run / "board.json", show_page or (lambda board: show(page(board))))


def simulate(
    folder: str | os.PathLike[str], show: Show = print, show_page: Callable[[Board], None] | None = None
) -> Board:
    """The same app with all clients on this machine, in Flower's simulation (Ray): the data is dealt out among them.

    Args, Returns, Raises: as `serve`; no keys are needed.
    """
    folder = Path(folder).resolve()
    deployment = read_deployment(folder)
    _require_flower()
    if find_spec("ray") is None:
        raise ValueError("a simulation needs Ray: pip install 'lorgnette[simulation]'")
    run = make_folder(folder / "run")
    (run / "board.json").unlink(missing_ok=True)
    port, log = _free_port(), run / "superlink.log"
    words = _flower_words("superlink", "--simulation", "--insecure", "--host", "127.0.0.1", "--port", str(port))
    words += ["--disable-runtime-dependency-installation"]
    env = environment(run / "flower") | {"LORGNETTE_FEDERATION": str(folder), "LORGNETTE_SIMULATED": "1"}
    with (
        tempfile.TemporaryDirectory(prefix="l-") as scratch,  # Ray's sockets need a short path
        _child(words, env | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": scratch}, log) as link,
        _started(link, log, lambda: _listens(port)),
    ):
        flower = _Flower(run / "flower", link, f"127.0.0.1:{port}", None)
        show(f"{deployment.config.clients} clients on this machine")
        resources = f"num-supernodes={deployment.config.clients} client-resources-num-cpus=1"
        run_id = flower.start_run(folder / "app", "--federation-config", resources)
        return _watch(flower, run_id, run / "board.json", show_page or (lambda board: show(page(board))))


def run_node(
    folder: str | os.PathLike[str],
    given: Mapping[str, Any],
    show: Show = print,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Take part in a federation as the site of this folder, until interrupted.

    Args:
        folder: the site's.
        given: its own settings by flat name, such as `data.root`.
        show: called with lines for whoever looks.
        stopped: asked now and then whether to end.

    Raises:
        ValueError, FileNotFoundError: keys, settings or data are missing.
    """
    folder = Path(folder).resolve()
    deployment = read_deployment(folder)
    for name in ("ca.crt", "node.key"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}: the server's operator hands it out with the folder")
    _require_flower()
    run = make_folder(folder / "run")
    worker = [sys.executable, "-m", "lorgnette.federate.site", str(folder), json.dumps(dict(given))]
    tries = 0
    while not stopped():
        with (
            _child(worker, os.environ, run / "worker-output.log") as warm,
            _started(warm, run / "worker-output.log", lambda: _says_ready(run / "worker-output.log")),
            _supernode(folder, deployment) as node,
        ):
            show(f"node {folder.name} is up; {deployment.address} may ask it now")
            began = time.monotonic()
            while node.poll() is None and warm.poll() is None and not stopped():
                time.sleep(LOOK_SECONDS)
            ended = "the node" if node.poll() is not None else "the worker"
        if stopped():
            return
        tries = 0 if time.monotonic() - began > 60 else tries + 1
        wait = RESTART_SECONDS[min(tries, len(RESTART_SECONDS) - 1)]
        show(f"{ended} ended ({run / 'node.log'} says why): starting again in {wait:.0f} s")
        time.sleep(wait)


def reachable(address: str, ca_file: str | os.PathLike[str], timeout: float = 10.0) -> float:
    """Ask the server for its time over TLS.

    Args:
        address: HOST:PORT.
        ca_file: the authority's certificate.
        timeout: seconds.

    Returns:
        How many seconds the server's clock is ahead of ours; exact to about one second.

    Raises:
        ValueError: not reachable, or its certificate is not one of this authority for this name; one line.
    """
    from email.utils import parsedate_to_datetime

    try:
        context = ssl.create_default_context(cafile=str(ca_file))
        with urllib.request.urlopen(f"https://{address}/health", timeout=timeout, context=context) as reply:
            date = reply.headers.get("date")
    except ssl.SSLCertVerificationError as error:
        raise ValueError(
            f"{address} shows a certificate that ca.crt does not vouch for ({error.verify_message})"
        ) from None
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            reason = f"its certificate: {reason.verify_message}"
        raise ValueError(f"{address} cannot be reached ({reason}): is the server up, the port open?") from None
    return parsedate_to_datetime(date).timestamp() - time.time() if date else 0.0


# ------------------------------------------------------------------------------------------ programs


@contextlib.contextmanager
def _superlink(folder: Path, deployment: Deployment) -> Iterator[subprocess.Popen[bytes]]:
    run, keys = folder / "run", folder / "server"
    words = [
        *("superlink", "--host", deployment.listen, "--port", str(deployment.port)),
        *("--ssl-ca-certfile", str(keys / "ca.crt"), "--ssl-certfile", str(keys / "server.crt")),
        *("--ssl-keyfile", str(keys / "server.key"), "--enable-supernode-auth"),
        *("--disable-runtime-dependency-installation", "--database", str(run / "superlink.db")),
    ]
    _port_is_free(deployment.listen, deployment.port)
    env = environment(run / "flower") | {"LORGNETTE_FEDERATION": str(folder)}
    log = run / "superlink.log"
    address = f"127.0.0.1:{deployment.port}"
    with _child(_flower_words(*words), env, log) as link, _started(link, log, lambda: _is_up(address, keys / "ca.crt")):
        yield link


@contextlib.contextmanager
def _supernode(folder: Path, deployment: Deployment) -> Iterator[subprocess.Popen[bytes]]:
    words = [
        *("supernode", "--superlink", deployment.address, "--root-certificates", str(folder / "ca.crt")),
        *("--auth-supernode-private-key", str(folder / "node.key")),
        *("--host", "127.0.0.1", "--port", str(_free_port())),
    ]
    env = environment(folder / "run" / "flower") | {"LORGNETTE_WORKER": str(folder / "run" / "worker.json")}
    with _child(_flower_words(*words), env, folder / "run" / "node.log") as node:
        yield node


def environment(flower_home: Path) -> dict[str, str]:
    """What Flower's programs are started with: no reports home, its files in `flower_home`."""
    make_folder(flower_home)
    own = {
        "FLWR_HOME": str(flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",  # seconds; every message starts a process
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return os.environ | own | {"PATH": path}  # its programs find each other by name


def _flower_words(*words: str) -> list[str]:
    return [sys.executable, "-m", "lorgnette.federate.flower", *words]


@contextlib.contextmanager
def _child(words: list[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that ends with the block, or with this process."""
    if log.exists():
        log.replace(log.with_suffix(".previous.log"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=dict(env), start_new_session=True
        )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # with what it started: it leads a group of its own
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def stopping_on_terminate() -> Iterator[None]:
    """Within the block SIGTERM, as service managers send it, ends this process as Ctrl-C does: programs first."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _started(process: subprocess.Popen[bytes], log: Path, is_up: Callable[[], bool]) -> Iterator[None]:
    """Wait until a program is up; a ValueError with the end of its log where it ends instead."""
    until = time.monotonic() + START_SECONDS
    while not is_up():
        if process.poll() is not None or time.monotonic() > until:
            lines = log.read_text(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
            raise ValueError(f"{last[:300]} (all of it: {log})")
        time.sleep(0.2)
    yield


def _says_ready(log: Path) -> bool:
    return b"ready\n" in log.read_bytes()


def _is_up(address: str, ca_file: Path) -> bool:
    try:
        reachable(address, ca_file, timeout=2.0)
    except ValueError:
        return False
    return True


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2.0).close()
    except OSError:
        return False
    return True


def _port_is_free(host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port} ({error.strerror}): another port may work") from None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _require_flower() -> None:
    if find_spec("flwr") is None:
        raise ValueError("this needs Flower: pip install 'lorgnette[federated]'")


# --------------------------------------------------------------------------------- Flower's command line


class _Flower:
    """Flower's command line, against our own link."""

    def __init__(self, home: Path, link: subprocess.Popen[bytes], address: str, ca_file: Path | None):
        self.env, self.link = environment(home), link
        self.program = shutil.which("flwr", path=self.env["PATH"]) or "flwr"
        text = f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\n'
        trust = "insecure = true" if ca_file is None else f"root-certificates = {json.dumps(str(ca_file))}"
        write_text(home / "config.toml", f"{text}{trust}\n")

    def register(self, public_key: Path) -> None:
        """Let the owner of a key in; who is in already stays."""
        said = self._call("supernode", "register", str(public_key), "here")
        if not said.get("success") and "already in use" not in said.get("error-message", ""):
            raise ValueError(f"{public_key.name} was not registered ({_line(said)})")

    def start_run(self, app: Path, *options: str) -> str:
        """Start the app's server; gives Flower's number of the run."""
        said = self._call("run", str(app), "here", *options)
        if not said.get("success"):
            raise ValueError(f"the rounds could not be started ({_line(said)})")
        return str(said["run-id"])

    def run(self, run_id: str) -> dict[str, Any]:
        """What Flower knows of a run: `status`, such as 'running' or 'finished:failed', `network-traffic`, ..."""
        return (self._call("list", "here", "--run-id", run_id).get("runs") or [{}])[0]

    def _call(self, *words: str) -> dict[str, Any]:
        done = subprocess.run(
            [self.program, *words, "--format", "json"],
            env=self.env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        start = done.stdout.find("{")
        try:
            return json.loads(done.stdout[start:]) if start >= 0 else {"error-message": done.stderr}
        except json.JSONDecodeError:
            return {"error-message": done.stdout + done.stderr}


def _line(said: Mapping[str, Any]) -> str:
    return " ".join(str(said.get("error-message", said)).split())[:300]


def _watch(flower: _Flower, run_id: str, file: Path, show_page: Callable[[Board], None]) -> Board:
    """Show the board whenever it changes, until the rounds end."""
    last, asked = None, time.monotonic()
    while True:
        board = _board(file)
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
            raise ValueError(f"Flower's link ended: {file.parent / 'superlink.log'} says why; serve again to go on")
        if time.monotonic() - asked > ASK_FLOWER_SECONDS:
            asked = time.monotonic()
            status = flower.run(run_id).get("status", "")
            if status.startswith("finished") and not ((board := _board(file)) and board.is_over):
                raise ValueError(f"Flower ended the rounds ({status}): {file.parent / 'server.log'} may say why")
        time.sleep(LOOK_SECONDS)


def _board(file: Path) -> Board | None:
    try:
        return Board.read(file)
    except FileNotFoundError:
        return None
