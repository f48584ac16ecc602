"""A server under load: many requests of mixed size by several clients, its memory, and what an adapter swap costs.

    python benchmarks/serve_load.py                      # 500 requests, 8 clients
    python benchmarks/serve_load.py --requests 60        # a look

Starts `lorgnette serve --no-page` on a free port. Times are of this machine and of what else runs on it; failures and
the slope of memory are not.
"""

from __future__ import annotations

import argparse
import io
import json
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import PIL.Image

SIDES = (16, 24, 32, 48, 64, 96)
ADAPTERS = (
    ("superres", "photo"),
    ("superres", "web"),
    ("superres", "phone"),
    ("superres", "none"),
    ("restore", "jpeg"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if missing := [one for one in ("fastapi", "uvicorn", "prometheus_client", "httpx") if find_spec(one) is None]:
        print(f"left out: {', '.join(missing)} is missing; pip install 'lorgnette[web]' brings it")
        return
    words = [sys.executable, "-m", "lorgnette", "serve", "--no-page", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            match = re.search(r"answers at (http://\S+),", server.stdout.readline())
            assert match
            figures = measured(match[1], server.pid, options.requests, options.clients)
        finally:
            server.terminate()
    for name, value in figures.items():
        print(f"{name:<44} {value:.4g}" if isinstance(value, float) else f"{name:<44} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def measured(address: str, pid: int, count: int, clients: int) -> dict[str, float | int]:
    """The figures of one server."""
    with httpx.Client(base_url=address, timeout=600) as client:
        for room, adapter in ADAPTERS:  # all that is loaded is loaded
            for side in SIDES:
                assert ask(client, room, adapter, side, 0)[0] == 200
        processes = [pid, *children(pid)]  # the server, the worker, and the one that stands by
        work: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(count):
            work.put(number)
        seconds: list[float] = []
        failures: list[int] = []
        memory: list[tuple[int, list[float]]] = []

        def one_client(name: str) -> None:
            with httpx.Client(base_url=address, timeout=600, headers={"X-Client": name}) as mine:
                while not work.empty():
                    try:
                        number = work.get_nowait()
                    except queue.Empty:
                        return
                    room, adapter = ADAPTERS[number % len(ADAPTERS)]
                    status, took = ask(mine, room, adapter, SIDES[number // 5 % len(SIDES)], number)
                    seconds.append(took)
                    if status != 200:
                        failures.append(status)
                    if len(seconds) % 10 == 0:
                        memory.append((len(seconds), [megabytes(one) for one in processes]))

        start = time.perf_counter()
        threads = [threading.Thread(target=one_client, args=(f"client {n}",)) for n in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - start
        usual = statistics.median(ask(client, "superres", "photo", 96, 1)[1] for _ in range(15))
    swap = swap_seconds()
    later = memory[len(memory) // 5 :]
    slopes = np.polyfit([x for x, _ in later], np.array([y for _, y in later]), 1)[0] * 1000
    ordered = sorted(seconds)
    return {
        "requests": count,
        "clients": clients,
        "failures": len(failures),
        "requests per second": count / took,
        "median, s": statistics.median(ordered),
        "p95, s": ordered[int(0.95 * len(ordered))],
        "memory at the end, MB: server": memory[-1][1][0],
        "memory at the end, MB: worker and spare": sum(memory[-1][1][1:]),
        "memory slope, MB per 1,000 requests: server": float(slopes[0]),
        "memory slope, MB per 1,000 requests: worker": float(slopes[1:].sum()),
        "a request of 96 x 104 pixels, s": usual,
        "a swap of adapters, ms": 1000 * swap,
        "a swap, % of that request": 100 * swap / usual,
    }


def swap_seconds() -> float:
    """Median of putting on another adapter than the one before, as a worker does before a job; in this process."""
    from lorgnette.web.offered import Offer
    from lorgnette.web.settings import Limits
    from lorgnette.web.work.wardrobe import Wardrobe

    wardrobe, seconds = Wardrobe("cpu", [], Limits()), []
    for number in range(60):
        offer = Offer(("photo", "web")[number % 2], "superres")
        start = time.perf_counter()
        wardrobe.task(offer)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[4:])


def ask(client: httpx.Client, room: str, adapter: str, side: int, seed: int) -> tuple[int, float]:
    """Status and seconds of one request."""
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 8, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(out, "PNG")
    start = time.perf_counter()
    answer = client.post(
        "/api/enhance", params={"room": room, "adapter": adapter, "wait": True}, content=out.getvalue()
    )
    return answer.status_code, time.perf_counter() - start


def children(pid: int) -> list[int]:
    """The workers that a server has started."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "lorgnette.web.worker" in line]


def megabytes(pid: int) -> float:
    """Memory that a process holds."""
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(match[1]) / 1e3 if match else 0.0


if __name__ == "__main__":
    main()
