"""The site's own certificate authority, and the certificate that the service shows (RFC 5280)."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from provisioner.system.files import create_file, write_file

CA_KEY, CA_CERTIFICATE = "ca.key", "ca.crt"
SERVER_KEY, SERVER_CERTIFICATE = "server.key", "server.crt"
CA_DAYS, SERVER_DAYS, RENEW_DAYS = 3650, 397, 30
DAY = datetime.timedelta(days=1)


def ensure_ca(folder: Path) -> Path:
    """The authority's certificate; made first where it is missing, the same for all who start at once.

    Its key never leaves the folder.
    """
    certificate = folder / CA_CERTIFICATE
    if not certificate.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        create_file(folder / CA_KEY, _private(ec.generate_private_key(ec.SECP256R1())), mode=0o600)
        key = _read_key(folder / CA_KEY)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provisioner site")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        built = (
            _builder(name, key, CA_DAYS)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        create_file(certificate, built.public_bytes(serialization.Encoding.PEM))
    return certificate


def ensure_server(folder: Path, place: Path, names: Sequence[str], now: float) -> tuple[Path, Path]:
    """(certificate, key) of the service for these host names and addresses; another one when they changed, or soon end.

    :param folder: of the authority. :param place: where the two are kept: hosts that share keys have each their own.
    :param now: seconds since the epoch.
    """
    ca_file = ensure_ca(folder)
    certificate, key_file = place / SERVER_CERTIFICATE, place / SERVER_KEY
    alternatives = [_alternative(name) for name in dict.fromkeys(names)]
    ca = x509.load_pem_x509_certificate(ca_file.read_bytes())
    if certificate.exists() and key_file.exists() and _fits(certificate, key_file, ca, alternatives, now):
        return certificate, key_file
    ca_key = _read_key(folder / CA_KEY)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provisioner")])
    built = (
        _builder(name, key, SERVER_DAYS)
        .issuer_name(ca.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_file(key_file, _private(key), mode=0o600)
    write_file(certificate, built.public_bytes(serialization.Encoding.PEM))
    return certificate, key_file


def _builder(name: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    """Valid from yesterday on: clocks differ."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + days * DAY)
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _fits(
    certificate: Path, key_file: Path, ca: x509.Certificate, alternatives: Sequence[x509.GeneralName], now: float
) -> bool:
    """Whether a certificate is the authority's for this key and these names, for some time to come."""
    try:
        known = x509.load_pem_x509_certificate(certificate.read_bytes())
        known.verify_directly_issued_by(ca)
        same = known.public_key() == _read_key(key_file).public_key()
        said = known.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    ends = known.not_valid_after_utc.timestamp()
    return same and list(said) == list(alternatives) and ends - now > RENEW_DAYS * DAY.total_seconds()


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "we made it"
    return key


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
