"""Who built an image, when and from what: an in-toto statement (v1) with SLSA provenance (v1), signed.

It is kept apart from the manifest, since two builds of the same inputs give the same image but not the same statement.
The envelope is DSSE (version 1), so that the usual tools for such statements can check it with the site's public key.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Protocol

from provisioner.errors import TrustError
from provisioner.model.image import Image

PAYLOAD = "application/vnd.in-toto+json"
FILE = "provenance.dsse.json"


class Verifier(Protocol):
    @property
    def public_key_pem(self) -> bytes: ...

    def verify(self, data: bytes, signature: bytes) -> None: ...


class Keys(Verifier, Protocol):
    def sign(self, data: bytes) -> bytes: ...


def builder() -> dict[str, str]:
    """Who builds: the user (also behind sudo) and the host."""
    return {"user": os.environ.get("SUDO_USER") or getpass.getuser(), "host": platform.node()}


def build_statement(
    image: Image, elements: Sequence[str], templates: Sequence[str], start: float, end: float, who: Mapping[str, str]
) -> dict[str, Any]:
    """:param start: :param end: seconds since 1970."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(image.files.items())],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:provisioner:image:1",
                "externalParameters": {
                    "image": image.name,
                    "elements": list(elements),
                    "templates": list(templates),
                },
                "internalParameters": {"inputs": image.inputs, "layers": list(image.layers), "test": image.test},
                "resolvedDependencies": [
                    {"name": name, "annotations": {"version": found}} for name, found in image.packages.items()
                ],
            },
            "runDetails": {
                "builder": {
                    "id": f"urn:provisioner:host:{who['host']}",
                    "version": {name: version(name) for name in ("provisioner", "diskimage-builder")},
                },
                "metadata": {"startedOn": _time(start), "finishedOn": _time(end)},
                "byproducts": [{"name": "user", "annotations": {"name": who["user"]}}],
            },
        },
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seal(statement: Mapping[str, Any], keys: Keys) -> bytes:
    """The signed envelope."""
    payload = json.dumps(statement, indent=1).encode()
    signature = {"keyid": key_id(keys.public_key_pem), "sig": _text(keys.sign(_encoded(payload)))}
    return json.dumps({"payloadType": PAYLOAD, "payload": _text(payload), "signatures": [signature]}).encode()


def unseal(envelope: bytes, key: Verifier) -> dict[str, Any]:
    """The statement. :raises TrustError: it is none, or its signature is not of ``key``."""
    try:
        found = json.loads(envelope)
        payload = base64.b64decode(found["payload"])
        signatures = [base64.b64decode(entry["sig"]) for entry in found["signatures"]]
    except (ValueError, KeyError, TypeError) as error:
        raise TrustError("not a signed statement", where=FILE, cause=str(error)) from error
    key.verify(_encoded(payload), b"".join(signatures[:1]))
    return dict(json.loads(payload))


def key_id(public_key_pem: bytes) -> str:
    """The name of a public key: the sha256 of its PEM form, hex."""
    return hashlib.sha256(public_key_pem).hexdigest()


def _encoded(payload: bytes) -> bytes:
    """What is signed (DSSE, pre-authentication encoding)."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
