"""Authentication of both directions by HMAC-SHA256 (RFC 2104) over a key that only the two ends hold.

A token is ``ID.SECRET``: the ID travels with every request, the SECRET never does after the boot script.
Request headers: ``Provisioner-Id``, ``Provisioner-Nonce`` (32 hex digits, never used twice), ``Provisioner-Mac``.
The answer's ``Provisioner-Mac`` covers the request's nonce, so an old answer cannot be played again.

A guest that says in its query which epoch it knows (``epoch=N``) is told in ``Provisioner-Master`` in which epoch the
service is, and where the service will be found: ``EPOCH URL,URL``; the MAC covers that as well. A guest does not obey
a service whose epoch is smaller than one that it has heard.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

ID_HEADER = "Provisioner-Id"
NONCE_HEADER = "Provisioner-Nonce"
MAC_HEADER = "Provisioner-Mac"
MASTER_HEADER = "Provisioner-Master"
EPOCH_QUERY = "epoch"
OEM_RECORD, RECORD_BYTES = 0xE0, 13


class AuthError(Exception):
    """A message is not from who it says it is."""


def split_token(token: str) -> tuple[str, str]:
    """``ID.SECRET`` → (ID, SECRET).

    :raises AuthError: it has another form.
    """
    ident, dot, secret = token.partition(".")
    if not (ident and dot and secret):
        raise AuthError("the token is not of the form ID.SECRET")
    return ident, secret


def new_nonce() -> str:
    return secrets.token_hex(16)


def request_mac(secret: str, method: str, target: str, nonce: str, body: bytes) -> str:
    """The MAC of a request. ``target`` is path and query as sent, ``/agent/v1/metadata?since=3``."""
    return _mac(secret, "request", method.upper(), target, nonce, hashlib.sha256(body).hexdigest())


def answer_mac(secret: str, nonce: str, status: int, body: bytes, master: str = "") -> str:
    """The MAC of the answer to the request with ``nonce``. ``master``: what the answer says of that, if it does."""
    said = (master,) if master else ()
    return _mac(secret, "answer", nonce, str(status), hashlib.sha256(body).hexdigest(), *said)


def check_mac(expected: str, given: str | None) -> None:
    """Compare in constant time.

    :raises AuthError: they differ, or none was given.
    """
    if given is None or not hmac.compare_digest(expected, given):
        raise AuthError("the message authentication code does not hold")


def build_record(secret: str) -> bytes:
    """What a ramdisk writes into the event log of the controller of the server that it runs on: who reads it there
    knows that the ramdisk with this secret is inside. A record of the maker's own kind without time (IPMI 2.0, 32.3).
    """
    return bytes((OEM_RECORD,)) + hashlib.sha256(secret.encode()).digest()[:RECORD_BYTES]


def _mac(secret: str, *parts: str) -> str:
    return hmac.new(secret.encode(), "\n".join(parts).encode(), hashlib.sha256).hexdigest()
