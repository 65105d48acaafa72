"""Operators and what their tokens are recognised by. A token itself is on no record."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from provisioner.errors import Conflict, NotFound
from provisioner.model.operator import Operator, OperatorRole
from provisioner.store.database import Database
from provisioner.store.schema import OPERATORS

DAY = 86400.0


class Operators:
    def __init__(self, database: Database) -> None:
        self._db = database

    def all(self) -> list[Operator]:
        with self._db.read() as tx:
            return [_operator(row) for row in tx.execute(select(OPERATORS).order_by(OPERATORS.c.name))]

    def add(self, operator: Operator, token: str) -> None:
        """:param token: ``ID.SECRET``. :raises Conflict: there is one of that name."""
        ident, _, secret = token.partition(".")
        with self._db.write() as tx:
            if tx.execute(select(OPERATORS.c.name).where(OPERATORS.c.name == operator.name)).scalar() is not None:
                hint = f"provisioner operator remove {operator.name}, or give another name"
                raise Conflict("there is an operator of that name", where=operator.name, hint=hint)
            values = {"name": operator.name, "role": operator.role, "created": operator.created}
            values |= {"expires": operator.expires, "token": ident, "hash": _hash(secret)}
            tx.execute(insert(OPERATORS).values(values))

    def remove(self, name: str) -> None:
        """The token has ended. :raises NotFound: there is none of that name."""
        with self._db.write() as tx:
            if tx.execute(delete(OPERATORS).where(OPERATORS.c.name == name)).rowcount != 1:
                raise NotFound("there is no such operator", where=name, hint="provisioner operator list")

    def recognise(self, token: str, now: float) -> Operator | None:
        """Whose token it is; None for a token that is not known, or has run out."""
        ident, _, secret = token.partition(".")
        with self._db.read() as tx:
            row = tx.execute(select(OPERATORS).where(OPERATORS.c.token == ident)).one_or_none()
        # Compared for unknown ones too: how long it takes says nothing.
        right = hmac.compare_digest(_hash(secret), "" if row is None else row.hash)
        if row is None or not right or (row.expires is not None and row.expires < now):
            return None
        if not self._db.fenced and (row.used is None or now - row.used > DAY):
            with self._db.write() as tx:
                tx.execute(update(OPERATORS).where(OPERATORS.c.name == row.name).values(used=now))
        return _operator(row)


def _hash(secret: str) -> str:
    """A token has 256 bits of chance, so one round is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _operator(row: Row[Any]) -> Operator:
    return Operator(name=row.name, role=OperatorRole(row.role), created=row.created, expires=row.expires, used=row.used)
