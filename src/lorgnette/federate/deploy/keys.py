"""Who may talk to whom: an authority, a certificate for the server, a key pair for each site. Imports no torch.

    DIR/authority/ca.key            signs certificates: keep it off the server once the keys are made
    DIR/server/                     ca.crt, server.crt, server.key and sites/NAME.pub: stays with the server
    DIR/sites/NAME/                 ca.crt, node.key, node.pub: goes to that site, to nobody else

Certificates are X.509 with the server's names as subject alternative names; sites prove who they are with keys on
the curve P-384 in OpenSSH's format (the format that Flower's nodes read; `ssh-keygen -t ecdsa -b 384` makes the same).
"""

from __future__ import annotations

import datetime
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorgnette.common.files import make_folder
from lorgnette.federate.deploy.certificates import (
    certificate_hosts,
    certificate_pem,
    general_name,
    key_pem,
    read_certificate,
    read_key,
    require_cryptography,
    sign_authority,
    sign_server,
)
from lorgnette.federate.deploy.reach import LOCAL

SITE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")  # also a file name, a node name and a column of the report


@dataclass(frozen=True)
class KeyFiles:
    """What `make_keys` wrote."""

    authority: Path
    """Folder of the key that signs certificates."""
    server: Path
    """Folder that stays with the server."""
    sites: dict[str, Path]
    """Folder of each site, by name."""
    expires: datetime.date
    """Last day of the certificates."""


def site_names(text: str) -> tuple[str, ...]:
    """Names of sites from `"3"` (site-1, site-2, site-3) or `"north,south"`.

    Raises:
        ValueError: no site, a name other than a plain lower-case word, or a name given twice.
    """
    if text.isdecimal() and text.isascii():
        if not 1 <= int(text) <= 1000:
            raise ValueError(f"--sites: {text} does not work; 1 to 1000 do")
        return tuple(f"site-{number}" for number in range(1, int(text) + 1))
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not SITE_NAME.fullmatch(name):
            raise ValueError(f"--sites: {name!r} does not work; lower-case letters, digits and '-' do, as north,south")
        if names.count(name) > 1:
            raise ValueError(f"--sites: {name!r} is given twice; each site needs its own name")
    return names


def make_keys(
    folder: str | os.PathLike[str],
    sites: Sequence[str],
    hosts: Sequence[str] = LOCAL,
    days: int = 365,
) -> KeyFiles:
    """Make the authority, the server's certificate and a key pair for each site.

    Called again with more sites it adds theirs and leaves every file that exists as it is.

    Args:
        folder: where they go, as the top of this file shows.
        sites: names of the sites.
        hosts: names and IP addresses under which sites reach the server.
        days: how long the certificates hold.

    Returns:
        The folders, and the last day of a certificate.

    Raises:
        ValueError: a site that has keys already, hosts that the present certificate does not name, bad names, or the
            package `cryptography` is missing.
    """
    require_cryptography()
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = Path(folder)
    for name in sites:
        if not SITE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be a site's name; lower-case letters, digits and '-' can")
    taken = [name for name in sites if any(path.exists() for path in _site_files(folder, name))]
    if taken:
        raise ValueError(f"{folder} has keys of {', '.join(taken)} already: give other names, or another folder")
    if not hosts:
        raise ValueError("--host: at least one name or address of the server is needed, as fed.example.org")
    if not 1 <= days <= 3650:
        raise ValueError(f"--days: {days} does not work; 1 to 3650 do")
    hosts = list(dict.fromkeys([*hosts, *LOCAL]))  # the server's own programs reach it under these
    names = [general_name(host) for host in hosts]

    ca_key_file, ca_file = folder / "authority" / "ca.key", folder / "server" / "ca.crt"
    server_file = folder / "server" / "server.crt"
    if server_file.exists():
        authority, certificate = read_certificate(ca_file), read_certificate(server_file)
        lacking = [host for host in hosts if host not in certificate_hosts(certificate)]
        if lacking:
            raise ValueError(
                f"{server_file} does not name {', '.join(lacking)}: move it and server.key away to have a new one made"
            )
    else:
        if ca_file.exists():
            ca_key, authority = read_key(ca_key_file), read_certificate(ca_file)
        else:
            ca_key = ec.generate_private_key(ec.SECP384R1())
            authority = sign_authority(ca_key, days)
            write_private(ca_key_file, key_pem(ca_key))
            _write_public(ca_file, certificate_pem(authority))
        server_key = ec.generate_private_key(ec.SECP384R1())
        certificate = sign_server(server_key, names, ca_key, authority, days)
        write_private(folder / "server" / "server.key", key_pem(server_key))
        _write_public(server_file, certificate_pem(certificate))

    for name in sites:
        private_file, public_file, server_copy, ca_copy = _site_files(folder, name)
        private, public = _node_pair(name)
        write_private(private_file, private)
        _write_public(public_file, public)
        _write_public(server_copy, public)
        _write_public(ca_copy, certificate_pem(authority))
    return KeyFiles(
        ca_key_file.parent,
        server_file.parent,
        {name: folder / "sites" / name for name in sites},
        certificate.not_valid_after_utc.date(),
    )


def public_key_pem(path: str | os.PathLike[str]) -> bytes:
    """The public key of a site's `.pub` file as PEM bytes: how a server knows it again.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not an OpenSSH public key on the curve P-384.
    """
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such public key: {path}")
    try:
        key = serialization.load_ssh_public_key(path.read_bytes()[:16384])
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(
            f"{path} is not an OpenSSH public key ({error}): ssh-keygen -t ecdsa -b 384 makes one"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError(f"{path} is not a key on the curve P-384: ssh-keygen -t ecdsa -b 384 makes one")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_node_key(path: str | os.PathLike[str]) -> tuple[Any, bytes]:
    """A site's private key, as Flower signs with it, and its public half as PEM bytes.

    Raises:
        ValueError: it is not an OpenSSH private key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_ssh_private_key(Path(path).read_bytes()[:16384], None)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{path} is not an OpenSSH private key: ssh-keygen -t ecdsa -b 384 -N '' makes one") from None
    pem, kind = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key, key.public_key().public_bytes(pem, kind)


def private_key_matches(private: str | os.PathLike[str], public: str | os.PathLike[str]) -> bool:
    """Whether two files are the two halves of one pair.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one is no OpenSSH key that Flower's nodes read.
    """
    return read_node_key(private)[1] == public_key_pem(public)


def require_private(path: Path) -> None:
    """A one-line ValueError where others than its owner can read a key."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ValueError(f"{path} can be read by others (mode {mode:o}): chmod 600 {path}")


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read; one that exists is never replaced."""
    make_folder(path.parent)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ValueError(f"{path} exists: private files are never overwritten; move it away first") from None
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # whatever the umask
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_public(path: Path, content: bytes) -> None:
    make_folder(path.parent)
    with path.open("xb") as file:
        file.write(content)


def _site_files(folder: Path, name: str) -> tuple[Path, Path, Path, Path]:
    """A site's private key, its public key, the server's copy of that, the site's copy of the authority."""
    site = folder / "sites" / name
    return site / "node.key", site / "node.pub", folder / "server" / "sites" / f"{name}.pub", site / "ca.crt"


def _node_pair(name: str) -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public + f" {name}\n".encode()
