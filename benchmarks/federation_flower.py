"""What a round over Flower costs beside the training: three sites and the server on this machine, TLS on loopback.

    python benchmarks/federation_flower.py --peer        (needs lorgnette[federated])

A round lasts from asking to the last answer, aggregation and journal included; training is the slowest site's. The
peer is the usual Flower app: Flower's node as it comes, and a client app that makes model and data in the process that
Flower starts for each message. Server, rounds and messages are the same in both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorgnette.federate.deploy import programs
from lorgnette.federate.flower import command, launch

SAMPLES = {"north": 300, "south": 320, "west": 340}
PEER_APP = """\
import time
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from lorgnette.federate.flower.app import server

__all__ = ["client", "server"]
client = ClientApp()


def answer(kind, message, context):
    from lorgnette.federate.deploy.data_holder import open_site

    content, folder = message.content["lorgnette"], Path(context.node_config["folder"])
    site = open_site(folder, {"data.samples": context.node_config["samples"]})
    began = time.monotonic()
    data = site.answer(kind, content["round"], content["data"])
    seconds = time.monotonic() - began
    with (folder / "run" / "worker.log").open("a") as log:
        log.write(f"{kind} of round {content['round']}: {len(data)} bytes in {seconds:.2f} s\\n")
    return Message(RecordDict({"lorgnette": ConfigRecord({"data": data})}), reply_to=message)


@client.train()
def train(message, context):
    return answer("train", message, context)


@client.query()
def greet(message, context):
    return answer("greet", message, context)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[60, 200], help="training steps of a site in a round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--peer", action="store_true", help="also the usual Flower app, in turn with ours")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file as well")
    options = parser.parse_args()
    try:
        command.require_flower()
    except ValueError as error:
        print(f"left out: {error}")
        return
    found: list[dict[str, Any]] = []
    print(
        "| client | steps | training, s | round, s | round / training (range) | beside, s | bytes beyond the codec's |"
    )
    print("|---|---|---|---|---|---|---|")
    for steps in options.steps:
        for way in ("ours", "peer")[: 1 + options.peer]:
            with tempfile.TemporaryDirectory() as folder:
                found.append({"way": way, "steps": steps, **measured(way, steps, options.rounds, Path(folder))})
            print(row(found[-1]), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n")


def row(found: dict[str, Any]) -> str:
    """The medians of the rounds after the first."""
    rounds = found["rounds"][1:]
    ratios = [line["seconds"] / line["training"] for line in rounds]
    training, seconds = (statistics.median(line[name] for line in rounds) for name in ("training", "seconds"))
    beside = statistics.median(line["seconds"] - line["training"] for line in rounds)
    more = 100 * (found["wire"] / found["counted"] - 1)
    name = {"ours": "warm worker", "peer": "Flower's, anew for each message"}[found["way"]]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    return f"| {name} | {found['steps']} | {training:.1f} | {seconds:.1f} | {spread} | {beside:.1f} | {more:+.1f} % |"


def measured(way: str, steps: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Rounds with their seconds and the slowest training, bytes counted by the codec and by Flower."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    study = folder / "study"
    base = "--model.base none --model.architecture small --data.preset glyphs --data.samples 300 --train.device cpu"
    length = f"--rounds {rounds} --local_steps {steps}"
    federate("init", str(study), "clip", "--host", "127.0.0.1", "--port", port, *base.split(), *length.split())
    federate("keys", str(study), "--sites", ",".join(SAMPLES))
    if way == "peer":
        (study / "app" / "federation_app.py").write_text(PEER_APP)
    nodes = [{"ours": node, "peer": peer_node}[way](study, name, port) for name in SAMPLES]
    try:
        board = launch.serve(study, lambda line: None, lambda board: None)
    finally:
        stop(nodes)
    lines = [json.loads(line) for line in (study / "run" / "journal.jsonl").read_text().splitlines()]
    logs = [(study / "sites" / name / "run" / "worker.log").read_text() for name in SAMPLES]
    found, counted = [], 0
    for line in lines[1:]:
        pattern = rf"train of round {line['round']}: \d+ bytes in ([\d.]+) s"
        training = max(float(seconds) for log in logs for seconds in re.findall(pattern, log))
        found.append({"seconds": line["seconds"], "training": training})
        counted += line["bytes_up"] + line["bytes_down"]
    return {"rounds": found, "counted": counted, "wire": board.wire_bytes}


def stop(nodes: list[subprocess.Popen[bytes]]) -> None:
    """With all that they started; Flower's own does not always end when asked."""
    for process in nodes:
        os.killpg(process.pid, signal.SIGTERM)
    for process in nodes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(programs.STOP_SECONDS + 5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def federate(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "lorgnette", "federate", *words], check=True, stdout=subprocess.DEVNULL)


def node(study: Path, name: str, port: str) -> subprocess.Popen[bytes]:
    """Our node with its warm worker."""
    words = ["federate", "node", str(study / "sites" / name), "--data.samples", str(SAMPLES[name])]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return start([sys.executable, "-m", "lorgnette", *words], env, study / f"{name}.log")


def start(words: list[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(words, env=env, stdout=output, stderr=output, start_new_session=True)


def peer_node(study: Path, name: str, port: str) -> subprocess.Popen[bytes]:
    """Flower's node as it comes, started until the server is up and knows its key."""
    site = study / "sites" / name
    (site / "run").mkdir()
    shutil.copyfile(study / "deployment.yaml", site / "deployment.yaml")
    words = ["flower-supernode", "--superlink", f"127.0.0.1:{port}", "--root-certificates", str(site / "ca.crt")]
    words += ["--auth-supernode-private-key", str(site / "node.key"), "--port", str(programs.free_port())]
    words += ["--node-config", f'folder="{site}" samples={SAMPLES[name]}']
    env = command.environment(site / "run" / "flower") | {"OMP_NUM_THREADS": "1"}
    return start(["sh", "-c", 'while ! "$@"; do sleep 0.5; done', "sh", *words], env, study / f"{name}.log")


if __name__ == "__main__":
    main()
