"""Whether metadata are the site's, and this node's: by the signature of the site's key, which openssl(1) checks."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from provisioner_agent.instance import places
from provisioner_agent.instance.document import BadDocument, Document
from provisioner_agent.instance.host import FileState, Host
from provisioner_agent.protocol.parts import part_id, write_part

PRIVATE = 0o600
SECONDS = 20.0


class Verifier:
    """:param config: of the agent: ``signer`` is a public key as PEM, ``node`` the name that the node has at the site.

    Without a ``signer`` nothing is checked: the instance was made by a site that signed nothing.
    """

    def __init__(self, host: Host, config: Mapping[str, Any]) -> None:
        self._host = host
        self._key = str(config.get("signer") or "")
        self._node = config.get("node")

    def check(self, document: Document, signature: object) -> None:
        """:raises BadDocument: somebody else made or changed it, or it is another node's."""
        if not self._key:
            return
        what = f"generation {document.generation}"
        if document.own.get("generation") != document.generation:
            raise BadDocument(f"{what} says that it is {document.own.get('generation')}; ignored")
        named = document.own.get("node", {}).get("name")
        if self._node and named != self._node:
            raise BadDocument(f"{what} is for the node {named}, and this is {self._node}; ignored")
        for ident, part in document.parts.items():
            if part_id(write_part(part)) != ident:
                raise BadDocument(f"a part of {what} is not what it is named after; ignored")
        if not self._holds(write_part(document.own).encode(), str(signature or "")):
            raise BadDocument(f"{what} is not signed by this site; ignored")

    def _holds(self, text: bytes, signature: str) -> bool:
        try:
            proof = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError):
            return False
        files = {"key": self._key.encode(), "text": text, "signature": proof}
        paths = {name: f"{places.RUN_CHECK}/{name}" for name in files}
        try:
            for name, data in files.items():
                self._host.write(paths[name], FileState(data, PRIVATE))
            at = {name: self._host.real(path) for name, path in paths.items()}
            argv = ["openssl", "dgst", "-sha256", "-verify", at["key"], "-signature", at["signature"], at["text"]]
            return self._host.run(argv, limit=SECONDS).code == 0
        finally:
            for path in paths.values():
                self._host.remove(path)
