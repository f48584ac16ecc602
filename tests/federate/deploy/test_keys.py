"""Keys and certificates: usable by what reads them, private, and never overwritten."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lorgnette.federate.deploy.certificates import certificate_hosts
from lorgnette.federate.deploy.keys import make_keys, public_key_pem, site_names


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("keys")
    return folder, make_keys(folder, ["north", "south"], ["localhost", "127.0.0.1", "fed.example.org", "2001:db8::1"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def handshake(folder: Path, authority: Path, host: str) -> str:
    """A TLS connection to a server with the keys of `folder`, trusting `authority`; the client's error, or ''."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server" / "server.crt", folder / "server" / "server.key")
    client = ssl.create_default_context(cafile=str(authority))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            try:
                server.wrap_socket(connection, server_side=True).close()
            except (ssl.SSLError, OSError):
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as connection,
                client.wrap_socket(connection, server_hostname=host) as secure,
            ):
                assert secure.version() == "TLSv1.3"
            return ""
        except ssl.SSLError as error:
            return str(error)
        finally:
            thread.join(10)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "fed.example.org", "2001:db8::1"])
def test_sites_trust_the_server_under_each_of_its_names(keys, host: str):
    folder, made = keys
    assert handshake(folder, made.sites["south"] / "ca.crt", host) == ""


def test_other_names_and_other_authorities_are_refused(keys, tmp_path: Path):
    folder, made = keys
    assert "verify failed" in handshake(folder, made.sites["north"] / "ca.crt", "evil.example.org")
    other = make_keys(tmp_path, ["north"])
    assert "verify failed" in handshake(folder, other.sites["north"] / "ca.crt", "localhost")


def test_private_files_are_for_the_owner_alone(keys):
    folder, _ = keys
    private = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.key"))
    assert private == ["authority/ca.key", "server/server.key", "sites/north/node.key", "sites/south/node.key"]
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in private} == {0o600}


def test_a_site_s_folder_holds_no_key_but_its_own(keys):
    folder, made = keys
    assert sorted(path.name for path in made.sites["north"].iterdir()) == ["ca.crt", "node.key", "node.pub"]
    assert sorted(path.name for path in (folder / "server").iterdir()) == [
        "ca.crt",
        "server.crt",
        "server.key",
        "sites",
    ]


def test_node_keys_are_what_flower_reads(keys):
    """OpenSSH's format on P-384; a key in PEM format is refused by its nodes."""
    _, made = keys
    points = []
    for site in made.sites.values():
        private = serialization.load_ssh_private_key((site / "node.key").read_bytes(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert private.curve.name == "secp384r1"
        pem = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        assert public_key_pem(site / "node.pub") == pem
        points.append(pem)
    assert len(set(points)) == 2


def test_more_sites_join_and_nothing_is_overwritten(tmp_path: Path):
    make_keys(tmp_path, ["north"], days=30)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="keys of north already"):
        make_keys(tmp_path, ["south", "north"])
    assert contents(tmp_path) == before
    make_keys(tmp_path, ["south"])
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert sorted(after.keys() - before.keys()) == [
        "server/sites/south.pub", "sites/south/ca.crt", "sites/south/node.key", "sites/south/node.pub",
    ]  # fmt: skip
    (tmp_path / "authority" / "ca.key").unlink()  # kept elsewhere: sites can join without it
    make_keys(tmp_path, ["west"])
    with pytest.raises(ValueError, match=r"server\.crt does not name fed\.example\.org"):
        make_keys(tmp_path, ["east"], ["fed.example.org"])
    assert not (tmp_path / "sites" / "east").exists()


def test_a_certificate_for_other_hosts_comes_from_the_same_authority(tmp_path: Path):
    made = make_keys(tmp_path, ["north"])
    for name in ("server.crt", "server.key"):
        (tmp_path / "server" / name).unlink()
    make_keys(tmp_path, ["south"], ["fed.example.org"])
    assert handshake(tmp_path, made.sites["north"] / "ca.crt", "fed.example.org") == ""


def test_how_long_a_certificate_holds(tmp_path: Path):
    made = make_keys(tmp_path, ["north"], days=30)
    certificate = x509.load_pem_x509_certificate((made.server / "server.crt").read_bytes())
    today = datetime.datetime.now(datetime.UTC).date()
    assert made.expires == certificate.not_valid_after_utc.date() == today + datetime.timedelta(days=30)
    assert certificate_hosts(certificate) == ["localhost", "127.0.0.1"]


@pytest.mark.parametrize("hosts", [["http://fed.example.org"], ["a b"], [""], []])
def test_what_is_no_host_is_refused_before_anything_is_written(tmp_path: Path, hosts: list[str]):
    with pytest.raises(ValueError, match="--host"):
        make_keys(tmp_path / "new", ["north"], hosts)
    assert not (tmp_path / "new").exists()


def test_names_of_sites():
    assert site_names("3") == ("site-1", "site-2", "site-3")
    assert site_names("north, south-2") == ("north", "south-2")
    for text in ("0", "1001", "", "North", "a/b", "..", "north,north", "a,,b"):
        with pytest.raises(ValueError, match="--sites"):
            site_names(text)


@pytest.mark.parametrize("content", [b"", b"ssh-rsa AAAA", b"ssh-ed25519 " + b"A" * 60])
def test_what_is_no_key_of_a_node(tmp_path: Path, content: bytes):
    (tmp_path / "x.pub").write_bytes(content)
    with pytest.raises(ValueError, match="ssh-keygen -t ecdsa -b 384"):
        public_key_pem(tmp_path / "x.pub")
