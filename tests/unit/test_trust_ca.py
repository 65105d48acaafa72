"""The site's authority: the same for all who start at once, and certificates that it really signed."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path

from cryptography import x509

from provisioner.trust.ca import CA_CERTIFICATE, CA_KEY, ensure_ca, ensure_server

NOW = 1_800_000_000.0
SEEDS = 8


def shake_hands(authority: str, certificate: Path, key: Path) -> None:
    """In memory. :raises ssl.SSLError: the authority did not sign it, or the key is another one's."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificate, key)
    client.load_verify_locations(cadata=authority)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(there, back, server_side=True),
        client.wrap_bio(back, there, server_hostname="localhost"),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[1].version()


def test_all_who_start_at_once_end_up_with_the_same_authority(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    told: list[str] = []
    start = threading.Barrier(SEEDS)

    def ensure(number: int) -> None:
        start.wait()
        told.append(ensure_ca(keys).read_text())
        ensure_server(keys, tmp_path / f"seed-{number}", ["localhost"], NOW)

    threads = [threading.Thread(target=ensure, args=(number,)) for number in range(SEEDS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(told)) == 1
    for number in range(SEEDS):
        shake_hands(told[0], tmp_path / f"seed-{number}/server.crt", tmp_path / f"seed-{number}/server.key")
    assert sorted(path.name for path in keys.iterdir()) == [CA_CERTIFICATE, CA_KEY]


def test_a_kill_between_key_and_certificate_leaves_what_the_next_start_goes_on_with(tmp_path: Path) -> None:
    ensure_ca(tmp_path)
    key = (tmp_path / CA_KEY).read_bytes()
    (tmp_path / CA_CERTIFICATE).unlink()
    authority = ensure_ca(tmp_path).read_text()
    assert (tmp_path / CA_KEY).read_bytes() == key
    shake_hands(authority, *ensure_server(tmp_path, tmp_path / "seed", ["localhost"], NOW))


def test_a_certificate_that_is_not_of_its_key_or_its_authority_is_made_anew(tmp_path: Path) -> None:
    here, place = tmp_path / "keys", tmp_path / "seed"
    other = ensure_server(tmp_path / "other", tmp_path / "elsewhere", ["localhost"], NOW)
    authority = ensure_ca(here).read_text()
    for mixed in (0, 1):
        pair = ensure_server(here, place, ["localhost"], NOW)
        pair[mixed].write_bytes(other[mixed].read_bytes())
        shake_hands(authority, *ensure_server(here, place, ["localhost"], NOW))


def test_libvirt_takes_a_certificate(tmp_path: Path) -> None:
    """It refuses one whose key usage is critical and has no key encipherment, which no elliptic curve has."""
    ensure_ca(tmp_path)
    path, _ = ensure_server(tmp_path, tmp_path / "seed", ["localhost"], NOW)
    usage = x509.load_pem_x509_certificate(path.read_bytes()).extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.value.digital_signature and (usage.value.key_encipherment or not usage.critical)
