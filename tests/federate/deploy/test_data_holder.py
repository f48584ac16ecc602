"""A site: what it answers, and its worker's program."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import PIL.Image
import pytest
from tests.federate.processes import SOURCE, wait_for
from tests.federate.studies import make_study, own_data

from lorgnette.common.parts import LeftOut, Parts
from lorgnette.federate.deploy.data_holder import open_site
from lorgnette.federate.deploy.deployment import read_deployment
from lorgnette.federate.deploy.worker import WorkerLost, WorkerRefused, site_worker, unpacked
from lorgnette.federate.wire.codec import peek
from lorgnette.federate.wire.messages import Local, encode_work
from lorgnette.recipe import build

PATIENCE = 300.0  # seconds for what takes ten on a machine of its own


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("federation"), noise=0.5, clip=1.0)


def work_of(study: Path) -> bytes:
    """What a server sends in round 1."""
    from lorgnette.federate.aggregation.adapter_state import Adapter

    deployment = read_deployment(study)
    adapter = Adapter(build(deployment.recipe).model)
    local = Local(steps=1, clip=1.0, noise=0.5)
    return encode_work(1, "svd", "fp32", None, local, adapter.base, adapter.read(), {})


def test_a_site_greets_and_trains(study: Path):
    site = open_site(study / "sites" / "north", own_data(study, "north"))
    deployment = read_deployment(study)
    said = json.loads(site.answer("greet", 0, b""))
    assert (said["base"], said["schema"], said["samples"]) == (deployment.base, deployment.schema, 12)
    update = site.answer("train", 1, work_of(study))
    assert peek(update)["samples"] == 12
    again = open_site(study / "sites" / "north", own_data(study, "north"))
    assert again.answer("train", 1, work_of(study)) == update  # noise and all: a round that is asked again is the same


def test_a_site_that_starts_again_learns_from_what_is_new_and_never_from_what_it_held_out(tmp_path: Path):
    study = make_study(tmp_path / "federation")
    folder, own = study / "sites" / "north", own_data(study, "north")
    first = open_site(folder, own)
    began = Parts.read(folder / "run" / "kept" / "data.json")
    assert began is not None
    assert len(began.training) == first.samples
    secret = Path(next(iter(began.held_out)))
    secret.rename(secret.with_name("0-renamed.png"))
    pictures = sorted((Path(own["data.root"]) / "dark").iterdir())
    for number in range(8):
        PIL.Image.new("RGB", (16, 16), (number, 0, 0)).save(pictures[0].with_name(f"a-new-{number}.png"))
    pictures[0].with_name("broken.png").write_bytes(b"x")
    with pytest.warns(LeftOut, match=r"1 of .* images left out: .*broken\.png"):
        again = open_site(folder, own)
    assert again.samples == first.samples + 8
    now = Parts.read(folder / "run" / "kept" / "data.json")
    assert now is not None
    assert set(now.held_out.values()) == set(began.held_out.values())
    assert str(secret.with_name("0-renamed.png")) in now.held_out


def test_the_noise_of_a_site_is_not_the_server_s_to_know(study: Path):
    """Sites that differ in their secret alone send different updates, whatever seed the server names."""
    updates = []
    for _ in range(2):
        shutil.rmtree(study / "sites" / "south" / "run", ignore_errors=True)
        site = open_site(study / "sites" / "south", own_data(study, "south"))
        updates.append(site.answer("train", 1, work_of(study)))
    assert updates[0] != updates[1]


def test_the_worker_is_a_program_that_ends_with_who_started_it(study: Path, monkeypatch: pytest.MonkeyPatch):
    folder, log = study / "sites" / "west", study / "worker-output.log"
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with site_worker(folder, own_data(study, "west"), log) as (process, worker):
        said = worker.ask("greet", 0, b"", PATIENCE)
        assert json.loads(said)["samples"] == 18
        with pytest.raises(WorkerRefused, match="too few for a message"):
            worker.ask("train", 1, b"xyz", PATIENCE)
        with pytest.raises(WorkerRefused, match="unknown request"):
            worker.ask("delete", 1, b"", PATIENCE)
        assert process.stdin is not None
        process.stdin.close()  # what the system does when the node is killed
        wait_for("the worker ended", lambda: process.poll() is not None, PATIENCE)
        with pytest.raises(WorkerLost):
            worker.ask("greet", 0, b"", PATIENCE)
    assert "ready" in log.read_text()
    assert "Refused" in (folder / "run" / "worker.log").read_text()


def test_requests():
    assert unpacked(b"train 12\na\nb\0") == ("train", 12, b"a\nb\0")
    for request in (b"", b"train 1", b"train -1\n", b"train 1 2\n", b"rm 1\n", b"greet x\n"):
        with pytest.raises(ValueError, match="unknown request"):
            unpacked(request)
