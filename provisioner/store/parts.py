"""What the metadata of many nodes have in common, kept once: each part under the hash of its text."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import bindparam, delete, insert, select

from provisioner.store.database import Cipher, Database
from provisioner.store.schema import PARTS
from provisioner_agent.protocol.parts import part_id, write_part

KEPT = 256
"""Parts that are kept open; a role has one in each zone, a node with values of its own has one, and a cloud."""
FIND = select(PARTS.c.body_sealed).where(PARTS.c.id == bindparam("ident"))


class Parts:
    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._db = database
        self._cipher = cipher
        self._open = lru_cache(KEPT)(self._read)
        self._parsed = lru_cache(KEPT)(lambda ident: json.loads(self._open(ident)))

    def put(self, part: Mapping[str, Any]) -> str:
        """Keep a part, if it is not kept already; its id."""
        text = write_part(part)
        ident = part_id(text)
        with self._db.write() as tx:
            if tx.execute(FIND, {"ident": ident}).one_or_none() is None:
                tx.execute(insert(PARTS).values(id=ident, body_sealed=self._cipher.encrypt(text)))
        return ident

    def text(self, ident: str) -> str:
        """:raises KeyError: there is no such part."""
        return self._open(ident)

    def get(self, ident: str) -> Mapping[str, Any]:
        """A part that is not to be changed. :raises KeyError: there is none."""
        found: Mapping[str, Any] = self._parsed(ident)
        return found

    def keep_only(self, idents: Collection[str]) -> None:
        """Drop all others."""
        with self._db.write() as tx:
            tx.execute(delete(PARTS).where(PARTS.c.id.not_in(idents)))
        self.forget()

    def forget(self) -> None:
        """Drop what was opened: it is opened again when it is asked for."""
        self._open.cache_clear()
        self._parsed.cache_clear()

    def _read(self, ident: str) -> str:
        with self._db.read() as tx:
            sealed = tx.execute(FIND, {"ident": ident}).scalar_one_or_none()
        if sealed is None:
            raise KeyError(ident)
        return self._cipher.decrypt(sealed)
