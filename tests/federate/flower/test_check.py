"""A site's dry run."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.federate.studies import free_port, make_pictures, make_study, own_data

from lorgnette.cli.federate.node import run as run_node_verb
from lorgnette.federate.deploy.deployment import read_deployment, write_deployment
from lorgnette.federate.deploy.reach import reachable
from lorgnette.federate.flower.check import check_site

PATIENCE = 300.0  # seconds for what takes ten on a machine of its own


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("federation"), noise=0.5, clip=1.0)


@contextlib.contextmanager
def https_server(study: Path, ahead: float = 0.0) -> Iterator[int]:
    """Answers as Flower's link does to a question for its health, with its clock `ahead` seconds."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(time.time() + ahead)

        def log_message(self, format: str, *args: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(study / "server" / "server.crt", study / "server" / "server.key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def tried(folder: Path, given: dict[str, str], strict: bool = False) -> dict[str, str]:
    """What the dry run finds wrong, by what was tried."""
    return {finding.what: finding.says for finding in check_site(folder, given, strict) if not finding.good}


def test_a_dry_run_finds_what_is_wrong(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lorgnette.federate.flower.command.version", lambda name: "1.41.0")
    site = tmp_path / "north"
    shutil.copytree(study / "sites" / "north", site)
    own = own_data(study, "north")
    with https_server(study) as port:
        deployment = replace(read_deployment(study), address=f"127.0.0.1:{port}")
        write_deployment(deployment, site)
        assert tried(site, own) == {}
        assert abs(reachable(deployment.address, site / "ca.crt")) < 3

        shutil.copytree(own["data.root"], tmp_path / "torn")
        (tmp_path / "torn" / "dark" / "torn.png").write_bytes(b"no picture")
        torn = {"data.root": str(tmp_path / "torn")}
        assert tried(site, torn) == {}
        found = tried(site, torn, strict=True)
        assert found.keys() == {"data"}
        assert "torn.png" in found["data"]
        with pytest.raises(ValueError, match=r"--strict: .*torn\.png"):  # before anything is sent
            run_node_verb([str(site), "--strict", "--data.root", torn["data.root"]])

        (site / "node.key").chmod(0o644)
        make_pictures(tmp_path / "few", 1, 9)
        write_deployment(replace(deployment, base="0" * 32), site)
        found = tried(site, {"data.root": str(tmp_path / "few")})
        assert "chmod 600" in found["own key"]
        assert "2 samples; 4 are needed" in found["data"]
        assert "the server has 0000" in found["base model"]
        assert found.keys() == {"own key", "data", "base model"}

        (site / "node.key").chmod(0o600)
        shutil.copyfile(study / "sites" / "south" / "node.pub", site / "node.pub")
        assert "not one pair" in tried(site, own)["own key"]
        assert "no such folder" in tried(site, {"data.root": str(tmp_path / "nowhere")})["data and model"].lower()

        other = make_study(tmp_path / "other")
        shutil.copyfile(other / "server" / "ca.crt", site / "ca.crt")
        assert "certificate" in tried(site, own)["server"]
    with https_server(study, ahead=120) as port:
        write_deployment(replace(deployment, address=f"127.0.0.1:{port}"), site)
        shutil.copyfile(study / "server" / "ca.crt", site / "ca.crt")
        assert "clock is +1" in tried(site, own)["server"]
    write_deployment(replace(deployment, address=f"127.0.0.1:{free_port()}"), site)
    assert "cannot be reached" in tried(site, own)["server"]
