"""The HTTP API: what it gives is what the command line writes, whatever comes in."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import pytest
import tifffile

from lorgnette.cli import main
from lorgnette.web.downloads import header


def png(width: int = 40, height: int = 32, seed: int = 0) -> bytes:
    out = io.BytesIO()
    rng = np.random.default_rng(seed)
    PIL.Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def claimed(width: int, height: int) -> bytes:
    """A small PNG file of very many black pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def begun(client: httpx.Client, body: bytes, who: str = "me", **settings: Any) -> dict[str, Any]:
    answer = client.post("/api/enhance", params={"adapter": "warm"} | settings, content=body, headers={"X-Client": who})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/api/jobs/{answer.json()['id']}"
    return answer.json()


def finished(client: httpx.Client, job: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        now = client.get(f"/api/jobs/{job['id']}").json()
        if now["state"] not in ("waiting", "running"):
            return now
        time.sleep(0.02)
    raise AssertionError(f"still {now['state']} after {seconds} s")


def detail(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    reason = answer.json()["detail"]
    assert "\n" not in reason
    assert "/tmp" not in reason, "nobody's business"
    return reason


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--adapter", "{lenses}/warm", "--scale", "1.7"], {"adapter": "warm", "scale": 1.7}),
        (["--adapter", "{lenses}/cold", "--size", "50x60", "--pad", "--strength", "0.5"],
         {"adapter": "cold", "width": 50, "height": 60, "shape": "pad", "strength": 0.5}),
        ([], {}),
        (["--adapter", "{lenses}/warm", "--clean", "0.7"], {"adapter": "warm", "clean": 0.7}),
        pytest.param(["--adapter", "{lenses}/warm", "--strength", "0", "--height", "48"],
                     {"adapter": "warm", "strength": 0, "height": 48}, marks=SLOW),
        pytest.param(["--adapter", "{lenses}/clean", "--format", "webp", "--quality", "80"],
                     {"adapter": "clean", "format": "webp", "quality": 80}, marks=SLOW),
        pytest.param(["--adapter", "photo", "--scale", "1.5"], {"adapter": "photo", "scale": 1.5}, marks=SLOW),
    ],
)  # fmt: skip
def test_the_file_is_the_command_line_s_byte_for_byte(
    client: httpx.Client, lenses: Path, tmp_path: Path, words: list[str], asked: dict[str, Any]
):
    source = tmp_path / "given.png"
    source.write_bytes(png(seed=3))
    out = tmp_path / f"made.{asked.get('format', 'png')}"
    words = [word.format(lenses=lenses) for word in words]
    assert main(["enhance", str(source), str(out), "--device", "cpu", *words]) == 0
    answer = client.post("/api/enhance", params=asked | {"wait": True, "name": "given.png"}, content=png(seed=3))
    assert answer.status_code == 200, answer.text
    assert answer.content == out.read_bytes()
    assert answer.headers["content-disposition"] == f'attachment; filename="{"given" + out.suffix}"'
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_all_pages_of_a_tiff_come_back(client: httpx.Client, lenses: Path, tmp_path: Path):
    source, out = tmp_path / "scan.tif", tmp_path / "out.tif"
    tifffile.imwrite(
        source, np.random.default_rng(0).integers(0, 65536, (3, 20, 24), dtype=np.uint16), photometric="minisblack"
    )
    assert main(["enhance", str(source), str(out), "--adapter", str(lenses / "warm"), "--device", "cpu"]) == 0
    job = finished(client, begun(client, source.read_bytes(), name="scan.tif"))
    assert (job["state"], job["files"], job["error"]) == ("done", ["scan.tif"], "")
    assert client.get(f"/api/jobs/{job['id']}/files/scan.tif").content == out.read_bytes()


def test_a_job_says_how_far_it_is_and_what_it_did(client: httpx.Client):
    job = finished(client, begun(client, png(), adapter="auto", name="cat.png"))
    assert (job["state"], job["ahead"], job["seconds_left"]) == ("done", 0, None)
    assert job["done"] == job["total"]
    assert "no network" in job["said"][0]
    assert client.delete(f"/api/jobs/{job['id']}").status_code == 204
    assert "no job" in detail(client.get(f"/api/jobs/{job['id']}"), 404)


def test_who_waits_for_the_file_is_told_in_its_header(client: httpx.Client):
    answer = client.post("/api/enhance", params={"adapter": "auto", "wait": True, "name": "bäume.png"}, content=png())
    assert answer.status_code == 200
    assert "no network" in json.loads(answer.headers["x-said"])[0]
    job = finished(client, begun(client, png(), adapter="auto"))
    file = client.get(f"/api/jobs/{job['id']}/files/{job['files'][0]}")
    assert json.loads(file.headers["x-said"]) == job["said"]


def test_a_header_holds_as_much_as_it_may():
    said = [f"größe {n}: {'x' * 300}" for n in range(40)]
    text = header(said)
    assert len(text) <= 4096
    assert text.isascii()
    first = json.loads(text)
    assert first[:-1] == said[: len(first) - 1]
    assert len(first) > 10
    assert "and more" in first[-1]
    assert json.loads(header(said[:3])) == said[:3]
    assert json.loads(header(["x" * 5000])) == []


def test_adapters_are_listed_with_their_rooms(client: httpx.Client):
    there = {(one["name"], one["room"], one["ships"]) for one in client.get("/api/adapters").json()}
    assert {("photo", "superres", True), ("jpeg", "restore", True)} <= there
    assert {("warm", "superres", False), ("cold", "superres", False), ("clean", "restore", False)} <= there
    assert not {"empty", "notes.txt"} & {one[0] for one in there}


@pytest.mark.parametrize(
    ("body", "asked", "complaint"),
    [
        (b"MZ" + bytes(200), {"name": "cat.png"}, "cat.png is not a PNG"),
        (png()[:300], {"name": "half.png"}, "damaged or incomplete"),
        (png(), {"adapter": "wram"}, "did you mean 'warm'"),
        (png(), {"adapter": "../../etc"}, "there is no '../../etc'"),
        (png(), {"adapter": "warm", "room": "restore"}, "there is no 'warm'"),
        (png(), {"room": "faceview", "adapter": "auto"}, "does not enhance"),
        (png(), {"scale": 2, "width": 10}, "exclude each other"),
        (png(), {"shape": "pad"}, "width and height together"),
        (png(), {"width": 90, "height": 10}, "has another shape"),
        (png(), {"black": 3}, "belong together"),
        (png(), {"format": "exe"}, "'exe' is not written here"),
        (png(), {"adapter": "clean", "scale": 3}, "scale: 3"),
        (claimed(9000, 9000), {"name": "bomb.png"}, "9000 x 9000 pixels"),
        (png(300, 300), {"scale": 4}, "more than the 400,000"),
        (png(300, 300), {"scale": 4, "adapter": "auto"}, "more than the 400,000"),
        (b"", {}, "nothing was sent"),
    ],
)
def test_what_does_not_work_is_said_in_one_line(
    client: httpx.Client, body: bytes, asked: dict[str, Any], complaint: str
):
    answer = client.post("/api/enhance", params={"adapter": "warm", "wait": True} | asked, content=body)
    assert complaint in detail(answer, 400)


@pytest.mark.parametrize("asked", [{"scale": "nan"}, {"scale": 33}, {"strength": 1.6}, {"scal": 2}, {"quality": 0}])
def test_settings_out_of_range_or_unknown_are_refused(client: httpx.Client, asked: dict[str, Any]):
    assert client.post("/api/enhance", params=asked, content=png()).status_code == 422


def test_names_of_files_lead_nowhere(client: httpx.Client):
    job = finished(client, begun(client, png(), name="../../../etc/passwd\r\n.png"))
    assert job["files"] == ["passwd__.png"]
    for name in ("..%2Fupload%2Fpasswd__.png", "upload", "%2Fetc%2Fpasswd"):
        assert client.get(f"/api/jobs/{job['id']}/files/{name}").status_code == 404


def test_too_large_an_upload_is_refused_before_and_while_it_comes(client: httpx.Client):
    assert "300,000 bytes" in detail(client.post("/api/enhance", content=bytes(300_001)), 413)
    pieces = (bytes(50_000) for _ in range(20))  # without a length said before
    before = gauge(client, "stored_bytes")
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # the server may hang up before all is sent
        assert client.post("/api/enhance", content=pieces).status_code == 413
    assert comes_true(lambda: gauge(client, "stored_bytes") == before)


def raw(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 10)


def gauge(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"lorgnette_{name} ")))


def comes_true(what: Any, seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def test_an_upload_that_stands_still_or_breaks_off_leaves_nothing(client: httpx.Client, address: str):
    before = gauge(client, "stored_bytes")
    head = b"POST /api/enhance HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 200000\r\n\r\n" + bytes(1000)
    with raw(address) as slow:
        slow.sendall(head)
        assert comes_true(lambda: gauge(client, "stored_bytes") == before + 200_000)
        assert b" 408 " in slow.recv(1000)
    with raw(address) as leaving:
        leaving.sendall(head)
    assert comes_true(lambda: gauge(client, "stored_bytes") == before)


def big(client: httpx.Client, who: str = "slow") -> dict[str, Any]:
    """A job that takes minutes, and runs."""
    job = begun(client, png(300, 300, seed=9), who=who, adapter="photo", scale=2)
    assert comes_true(lambda: client.get(f"/api/jobs/{job['id']}").json()["state"] == "running", 60)
    return job


def test_a_client_that_leaves_while_it_waits_cancels_its_job(client: httpx.Client, address: str):
    body = png(300, 300, seed=9)
    with raw(address) as leaving:
        line = b"POST /api/enhance?adapter=photo&scale=2&wait=true HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        leaving.sendall(line + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert comes_true(lambda: gauge(client, "running") == 1, 60)
    assert comes_true(lambda: gauge(client, "running") == 0, 3)
    assert finished(client, begun(client, png()))["state"] == "done"


def test_cancelling_frees_the_place_at_once(client: httpx.Client, running: Any):
    jobs, seconds = running.server.jobs, []
    for _ in range(3):  # a tenth of a second on a quiet machine; where it is busy, once within one is enough
        slow, following = big(client), begun(client, png(), who="quick")
        assert client.get(f"/api/jobs/{following['id']}").json()["ahead"] == 0
        start = time.monotonic()
        assert jobs.cancel(jobs.get(slow["id"]))
        job = jobs.get(following["id"])
        assert comes_true(lambda job=job: job.started)
        seconds.append(job.started - start)
        assert job.over.wait(60)
        assert client.get(f"/api/jobs/{slow['id']}").json()["state"] == "cancelled"
        assert client.delete(f"/api/jobs/{slow['id']}").status_code == 204
        if seconds[-1] <= 1:
            return
    raise AssertionError(f"the next job began after {seconds} s")


def test_fifty_uploads_at_once_all_come_back(client: httpx.Client):
    """From five clients, with a bomb and a file that is no picture among them."""
    bodies = [png(seed=number) for number in range(48)]
    bodies[7:7] = [claimed(9000, 9000)]
    bodies[31:31] = [b"MZ" + bytes(5000)]
    before = gauge(client, "known")

    def one(number: int) -> int:
        asked, who = {"adapter": "warm", "wait": True}, {"X-Client": f"client {number % 5}"}
        return client.post("/api/enhance", params=asked, content=bodies[number], headers=who).status_code

    with ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(one, range(50)))
    assert statuses == [400 if number in (7, 31) else 200 for number in range(50)]
    assert gauge(client, "known") <= before + 2, "what was sent is not kept"
    assert client.get("/health").json()["status"] == "ok"


@pytest.mark.slow
def test_a_queue_that_is_full_says_so(client: httpx.Client):
    slow = big(client)
    jobs = [begun(client, png(), who="many") for _ in range(50)]
    answer = client.post("/api/enhance", content=png(), headers={"X-Client": "many"})
    assert "50 jobs of yours" in detail(answer, 503)
    assert answer.headers["retry-after"] == "5"
    for job in (*jobs, slow):
        client.delete(f"/api/jobs/{job['id']}")
    assert comes_true(lambda: client.get("/health").json() | {"version": ""} == {
        "status": "ok", "version": "", "waiting": 0, "running": 0
    })  # fmt: skip


@pytest.mark.slow
def test_a_worker_that_dies_takes_one_job_with_it(client: httpx.Client):
    import os
    import signal
    import subprocess

    slow, after = big(client, "unlucky"), begun(client, png(), who="lucky")
    found = subprocess.run(["ps", "-o", "pid,pcpu,args", "--ppid", str(os.getpid())], capture_output=True, text=True)
    workers = [line.split() for line in found.stdout.splitlines() if "lorgnette.web.worker" in line]
    assert len(workers) == 2
    for pid, *_ in workers[:1]:  # the elder one works
        os.kill(int(pid), signal.SIGKILL)
    job = finished(client, slow)
    assert (job["state"], "has ended" in job["error"]) == ("failed", True)
    assert finished(client, after)["state"] == "done"


def test_all_methods_of_an_address_are_named(client: httpx.Client):
    answer = client.put("/api/jobs/x")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")


def test_the_api_describes_itself(client: httpx.Client):
    about = client.get("/api/openapi.json").json()
    assert set(about["paths"]) >= {"/api/enhance", "/api/jobs/{id}", "/api/jobs/{id}/files/{file}", "/health"}
    names = {one["name"] for one in about["paths"]["/api/enhance"]["post"]["parameters"]}
    assert {"scale", "adapter", "strength", "wait", "X-Client"} <= names
