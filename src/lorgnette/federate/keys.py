"""Who may talk to whom: an authority, a certificate for the server, a key pair for each site. Imports no torch.

    DIR/authority/ca.key            signs certificates: keep it off the server once the keys are made
    DIR/server/                     ca.crt, server.crt, server.key and sites/NAME.pub: stays with the server
    DIR/sites/NAME/                 ca.crt, node.key, node.pub: goes to that site, to nobody else

Certificates are X.509 with the server's names as subject alternative names; sites prove who they are with keys on
the curve P-384 in OpenSSH's format (the format that Flower's nodes read; `ssh-keygen -t ecdsa -b 384` makes the same).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorgnette.files import make_folder

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

SITE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")  # also a file name, a node name and a column of the report


LOCAL = ("localhost", "127.0.0.1")


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
        ValueError: no site, a name that is no plain lower-case word, or one that comes twice.
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
            raise ValueError(f"--sites: {name!r} comes twice; each site has a name of its own")
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
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = Path(folder)
    for name in sites:
        if not SITE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a site; lower-case letters, digits and '-' are")
    taken = [name for name in sites if any(path.exists() for path in _site_files(folder, name))]
    if taken:
        raise ValueError(f"{folder} has keys of {', '.join(taken)} already: give other names, or another folder")
    if not hosts:
        raise ValueError("--host: at least one name or address of the server is needed, as fed.example.org")
    if not 1 <= days <= 3650:
        raise ValueError(f"--days: {days} does not work; 1 to 3650 do")
    hosts = list(dict.fromkeys([*hosts, *LOCAL]))  # the server's own programs reach it under these
    names = [_host(host) for host in hosts]

    ca_key_file, ca_file = folder / "authority" / "ca.key", folder / "server" / "ca.crt"
    server_file = folder / "server" / "server.crt"
    if server_file.exists():
        authority, certificate = _read_certificate(ca_file), _read_certificate(server_file)
        lacking = [host for host in hosts if host not in certificate_hosts(certificate)]
        if lacking:
            raise ValueError(
                f"{server_file} does not name {', '.join(lacking)}: move it and server.key away to have a new one made"
            )
    else:
        if ca_file.exists():
            ca_key, authority = _read_key(ca_key_file), _read_certificate(ca_file)
        else:
            ca_key = ec.generate_private_key(ec.SECP384R1())
            authority = _sign_authority(ca_key, days)
            write_private(ca_key_file, _pem(ca_key))
            _write_public(ca_file, _certificate_pem(authority))
        server_key = ec.generate_private_key(ec.SECP384R1())
        certificate = _sign_server(server_key, names, ca_key, authority, days)
        write_private(folder / "server" / "server.key", _pem(server_key))
        _write_public(server_file, _certificate_pem(certificate))

    for name in sites:
        private_file, public_file, server_copy, ca_copy = _site_files(folder, name)
        private, public = _node_pair(name)
        write_private(private_file, private)
        _write_public(public_file, public)
        _write_public(server_copy, public)
        _write_public(ca_copy, _certificate_pem(authority))
    return KeyFiles(
        ca_key_file.parent,
        server_file.parent,
        {name: folder / "sites" / name for name in sites},
        certificate.not_valid_after_utc.date(),
    )


def certificate_hosts(certificate: x509.Certificate) -> list[str]:
    """The names and addresses that a certificate vouches for."""
    from cryptography import x509

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName) + [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]


def public_key_pem(path: str | os.PathLike[str]) -> bytes:
    """The public key of a site's `.pub` file as PEM bytes: how a server knows it again.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no OpenSSH public key on the curve P-384.
    """
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such public key: {path}")
    try:
        key = serialization.load_ssh_public_key(path.read_bytes()[:16384])
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path} is no OpenSSH public key ({error}): ssh-keygen -t ecdsa -b 384 makes one") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ValueError(f"{path} is no key on the curve P-384: ssh-keygen -t ecdsa -b 384 makes one")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def private_key_matches(private: str | os.PathLike[str], public: str | os.PathLike[str]) -> bool:
    """Whether two files are the two halves of one pair.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one is no OpenSSH key that Flower's nodes read.
    """
    pem = public_key_pem(public)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_ssh_private_key(Path(private).read_bytes()[:16384], None)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{private} is no OpenSSH private key: ssh-keygen -t ecdsa -b 384 -N '' makes one") from None
    return pem == key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def certificate_end(path: str | os.PathLike[str]) -> datetime.datetime:
    """When a certificate expires.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no certificate.
    """
    _require_cryptography()
    return _read_certificate(Path(path)).not_valid_after_utc


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


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise ValueError("keys need the package cryptography: pip install 'lorgnette[federated]'") from None


def _node_pair(name: str) -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public + f" {name}\n".encode()


def _sign_authority(key: EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    return (
        _certificate(key, "Lorgnette federation authority", "Lorgnette federation authority", days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA384())
    )


def _sign_server(
    key: EllipticCurvePrivateKey,
    names: Sequence[x509.GeneralName],
    ca_key: EllipticCurvePrivateKey,
    authority: x509.Certificate,
    days: int,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    return (
        _certificate(key, "Lorgnette federation server", "Lorgnette federation authority", days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),  # pyright: ignore[reportArgumentType]
            critical=False,
        )
        .sign(ca_key, hashes.SHA384())
    )


def _certificate(key: EllipticCurvePrivateKey, subject: str, issuer: str, days: int) -> x509.CertificateBuilder:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # a site's clock may be behind
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not re.fullmatch(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", host):
        raise ValueError(f"--host: {host!r} is no host name or address; fed.example.org or 10.0.0.5 are")
    return x509.DNSName(host)


def _read_key(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}: the authority's key is needed to sign a new certificate")
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} is no key of an authority that this program made")
    return key


def _read_certificate(path: Path) -> x509.Certificate:
    from cryptography import x509

    if not path.is_file():
        raise FileNotFoundError(f"no such certificate: {path}")
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise ValueError(f"{path} is no certificate in PEM format") from None


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)
