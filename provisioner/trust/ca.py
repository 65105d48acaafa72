"""The site's own certificate authority, and the certificate that the service shows (RFC 5280)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from provisioner.system.clock import HostClock
from provisioner.system.files import create_file, write_file
from provisioner.trust.certificates import Pair, is_due, new_authority, new_certificate, new_key, read_key, read_names

CA_KEY, CA_CERTIFICATE = "ca.key", "ca.crt"
SERVER_KEY, SERVER_CERTIFICATE = "server.key", "server.crt"


def ensure_ca(folder: Path) -> Path:
    """The authority's certificate; made first where it is missing, the same for all who start at once.

    Its key never leaves the folder.
    """
    certificate = folder / CA_CERTIFICATE
    if not certificate.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        create_file(folder / CA_KEY, new_key().encode(), mode=0o600)
        authority = new_authority("provisioner site", HostClock().now(), (folder / CA_KEY).read_text())
        create_file(certificate, authority.certificate.encode())
    return certificate


def ensure_server(folder: Path, place: Path, names: Sequence[str], now: float) -> tuple[Path, Path]:
    """(certificate, key) of the service for these host names and addresses; another one when they changed, or soon end.

    :param folder: of the authority. :param place: where the two are kept: hosts that share keys have each their own.
    :param now: seconds since the epoch.
    """
    ca_file = ensure_ca(folder)
    certificate, key_file = place / SERVER_CERTIFICATE, place / SERVER_KEY
    authority = Pair(ca_file.read_text(), (folder / CA_KEY).read_text())
    if certificate.exists() and key_file.exists() and _fits(certificate, key_file, authority, names, now):
        return certificate, key_file
    built = new_certificate(authority, "provisioner", names, HostClock().now())
    write_file(key_file, built.key.encode(), mode=0o600)
    write_file(certificate, built.certificate.encode())
    return certificate, key_file


def _fits(certificate: Path, key_file: Path, authority: Pair, names: Sequence[str], now: float) -> bool:
    """Whether a certificate is the authority's for this key and these names, for some time to come."""
    try:
        known = x509.load_pem_x509_certificate(certificate.read_bytes())
        known.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate.encode()))
        same = known.public_key() == read_key(key_file.read_text()).public_key()
        said = known.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return same and list(said) == read_names(names) and not is_due(known.not_valid_after_utc.timestamp(), now)
