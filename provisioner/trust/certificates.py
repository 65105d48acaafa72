"""Authorities, and certificates that they sign, as PEM (RFC 5280, RFC 7468). Pure but for chance."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS, CERTIFICATE_DAYS, RENEW_DAYS = 3650, 397, 30
"""A certificate is replaced when it has no more than :data:`RENEW_DAYS` left."""
DAY = datetime.timedelta(days=1)
NAME_LENGTH = 64
"""Of a common name, at most (RFC 5280, appendix A.1)."""


class Pair(NamedTuple):
    """A certificate and its private key (PKCS #8), each as PEM."""

    certificate: str
    key: str


def new_key() -> str:
    """An elliptic curve key (P-256)."""
    return write_key(ec.generate_private_key(ec.SECP256R1()))


def new_authority(name: str, now: float, key: str | None = None) -> Pair:
    """One that signs certificates of servers and clients, and no other authority.

    :param now: seconds since the epoch. :param key: its own; None for a new one.
    """
    own = read_key(new_key() if key is None else key)
    subject = _subject(name)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    built = (
        _builder(subject, own, AUTHORITY_DAYS, now)
        .issuer_name(subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .sign(own, hashes.SHA256())
    )
    return Pair(_write(built), write_key(own))


def new_certificate(authority: Pair, subject: str, names: Sequence[str], now: float) -> Pair:
    """For a server that is also a client of its like. :param names: host names and addresses by which it is reached.

    Its key usage is not critical: libvirt 9.0 refuses one that is critical and without key encipherment, which
    a key of this kind must not have (RFC 8813, section 3).
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    own = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    signer = read_key(authority.key)
    built = (
        _builder(_subject(subject), own, CERTIFICATE_DAYS, now)
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(read_names(names)), critical=False)
        .add_extension(usage, critical=False)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return Pair(_write(built), write_key(own))


def ends_at(certificate: str) -> float:
    """When a certificate ends, in seconds since the epoch."""
    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc.timestamp()


def is_due(ends: float, now: float) -> bool:
    """Whether a certificate is to be replaced. :param ends: as :func:`ends_at`."""
    return ends - now <= RENEW_DAYS * DAY.total_seconds()


def read_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Host names and addresses as a certificate has them, each once, in this order."""
    return [_alternative(name) for name in dict.fromkeys(names)]


def read_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "we made it"
    return key


def write_key(key: ec.EllipticCurvePrivateKey) -> str:
    words = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*words).decode()


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:NAME_LENGTH])])


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int, now: float) -> x509.CertificateBuilder:
    """Valid from the day before on: clocks differ."""
    begin = datetime.datetime.fromtimestamp(now, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - DAY)
        .not_valid_after(begin + days * DAY)
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
