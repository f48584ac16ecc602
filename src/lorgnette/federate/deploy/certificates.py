"""X.509 certificates of a federation's authority and server. Imports no torch; cryptography when it is used."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


def require_cryptography() -> None:
    """A one-line ValueError where the package `cryptography` is missing."""
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise ValueError("keys need the package cryptography: pip install 'lorgnette[federated]'") from None


def certificate_hosts(certificate: x509.Certificate) -> list[str]:
    """The names and addresses that a certificate vouches for."""
    from cryptography import x509

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName) + [str(ip) for ip in names.get_values_for_type(x509.IPAddress)]


def certificate_end(path: str | os.PathLike[str]) -> datetime.datetime:
    """When a certificate expires.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a certificate.
    """
    require_cryptography()
    return read_certificate(Path(path)).not_valid_after_utc


def sign_authority(key: EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    """The authority's certificate, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    return (
        _certificate(key, "Lorgnette federation authority", "Lorgnette federation authority", days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA384())
    )


def sign_server(
    key: EllipticCurvePrivateKey,
    names: Sequence[x509.GeneralName],
    ca_key: EllipticCurvePrivateKey,
    authority: x509.Certificate,
    days: int,
) -> x509.Certificate:
    """The server's certificate, signed by the authority, with its names as subject alternative names."""
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


def general_name(host: str) -> x509.GeneralName:
    """A host as certificates name it; a one-line ValueError where it is none."""
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not re.fullmatch(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", host):
        raise ValueError(f"--host: {host!r} is not a host name or address; fed.example.org or 10.0.0.5 would be")
    return x509.DNSName(host)


def read_key(path: Path) -> EllipticCurvePrivateKey:
    """The authority's private key, as `key_pem` gives it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}: the authority's key is needed to sign a new certificate")
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} is not an authority's key made by this program")
    return key


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate in PEM format; a one-line error where the file holds none."""
    from cryptography import x509

    if not path.is_file():
        raise FileNotFoundError(f"no such certificate: {path}")
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise ValueError(f"{path} is not a certificate in PEM format") from None


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    """A private key in PEM format, PKCS 8, without a passphrase."""
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """A certificate in PEM format."""
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)
