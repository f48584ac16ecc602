"""What a round over Flower costs beside the training: three sites and the server on this machine, TLS on loopback.

    python benchmarks/federation_flower.py --steps 200 --rounds 4        (needs lorgnette[federated])

A round lasts from asking to the last answer, aggregation and journal included; training is the slowest worker's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SITES = ("north", "south", "west")


def run(steps: int, rounds: int, folder: Path) -> list[dict[str, float]]:
    """Rounds with their seconds, the slowest training, and bytes counted by the codec and on the wire."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    study = folder / "study"
    base = "--model.base none --model.architecture small --data.preset glyphs --data.samples 300 --train.device cpu"
    rounds_of = f"--rounds {rounds} --local_steps {steps}"
    command("init", str(study), "clip", "--host", "127.0.0.1", "--port", port, *base.split(), *rounds_of.split())
    command("keys", str(study), "--sites", ",".join(SITES))
    nodes = [start("node", str(study / "sites" / name)) for name in SITES]
    try:
        command("serve", str(study))
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait()
    lines = [json.loads(line) for line in (study / "run" / "journal.jsonl").read_text().splitlines()]
    logs = [(study / "sites" / name / "run" / "worker.log").read_text() for name in SITES]
    found = []
    for line in lines[1:]:
        pattern = rf"train of round {line['round']}: \d+ bytes in ([\d.]+) s"
        training = max(float(seconds) for log in logs for seconds in re.findall(pattern, log))
        found.append({"seconds": line["seconds"], "training": training, "bytes": line["bytes_up"] + line["bytes_down"]})
    board = json.loads((study / "run" / "board.json").read_text())
    counted = sum(line["bytes"] for line in found)
    more = 100 * (board["wire_bytes"] / counted - 1)
    print(f"{counted} bytes by the codec, {board['wire_bytes']} on the wire (+{more:.1f} %)")
    return found


def command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "lorgnette", "federate", *words], check=True, stdout=subprocess.DEVNULL)


def start(*words: str) -> subprocess.Popen[bytes]:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "lorgnette", "federate", *words], stdout=subprocess.DEVNULL, env=env)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50, help="training steps of a site in a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file as well")
    options = parser.parse_args()
    try:
        import flwr  # noqa: F401
    except ImportError:
        print("left out: needs lorgnette[federated]")
        return
    with tempfile.TemporaryDirectory() as folder:
        found = run(options.steps, options.rounds, Path(folder))
    print("round  seconds  training  ratio")
    for number, line in enumerate(found, start=1):
        ratio = line["seconds"] / line["training"]
        print(f"{number:5}  {line['seconds']:7.1f}  {line['training']:8.1f}  {ratio:5.2f}")
    beside = statistics.median(line["seconds"] - line["training"] for line in found[1:])
    print(f"beside the training, after round 1: {beside:.1f} s a round (median)")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
