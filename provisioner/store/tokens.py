"""Tokens of guests: the ramdisk's for one deployment, the instance's for its life."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from provisioner.errors import TrustError
from provisioner.store.database import Cipher, Database
from provisioner.store.schema import NODES, TOKENS

HELLO = "hello"
BOOT = "boot"
INSTANCE = "instance"


@dataclass(frozen=True)
class TokenRecord:
    """Whose a token is. ``node`` is the node's name; ``used`` is when its guest first spoke."""

    id: str
    kind: str
    node: str
    deployment: str
    used: float | None


ALL = select(
    TOKENS.c.id,
    TOKENS.c.kind,
    NODES.c.name,
    TOKENS.c.deployment,
    TOKENS.c.used,
    TOKENS.c.secret_sealed,
    TOKENS.c.bound_sealed,
    TOKENS.c.expiry,
).join(NODES, NODES.c.uuid == TOKENS.c.node)
FIND = ALL.where(TOKENS.c.id == bindparam("ident"))
FIND_ALL = ALL.where(TOKENS.c.id.in_(bindparam("idents", expanding=True)))


class Tokens:
    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._db = database
        self._cipher = cipher

    def replace(self, token: str, kind: str, node: str, deployment: str, expiry: float | None) -> None:
        """Make ``ID.SECRET`` the one token of its kind that a deployment has; older ones end."""
        ident, _, secret = token.partition(".")
        with self._db.write() as tx:
            uuid = tx.execute(select(NODES.c.uuid).where(NODES.c.name == node)).scalar_one()
            tx.execute(delete(TOKENS).where(TOKENS.c.deployment == deployment, TOKENS.c.kind == kind))
            tx.execute(
                insert(TOKENS).values(
                    id=ident,
                    kind=kind,
                    secret_sealed=self._cipher.encrypt(secret),
                    node=uuid,
                    deployment=deployment,
                    expiry=expiry,
                )
            )

    def rebind(self, old: str, new: str, kind: str, expiry: float) -> None:
        """The token of one deployment is from now on that of another, whose own ends: its guest stays the same."""
        with self._db.write(old, new) as tx:
            tx.execute(delete(TOKENS).where(TOKENS.c.deployment == new, TOKENS.c.kind == kind))
            mine = (TOKENS.c.deployment == old, TOKENS.c.kind == kind)
            tx.execute(update(TOKENS).where(*mine).values(deployment=new, expiry=expiry))

    def token(self, deployment: str, kind: str) -> str | None:
        """``ID.SECRET`` as it was made; None when the deployment has none."""
        query = select(TOKENS.c.id, TOKENS.c.secret_sealed).where(
            TOKENS.c.deployment == deployment, TOKENS.c.kind == kind
        )
        with self._db.read() as tx:
            row = tx.execute(query).one_or_none()
        return None if row is None else f"{row.id}.{self._cipher.decrypt(row.secret_sealed)}"

    def open(self, asks: Sequence[tuple[str, str]], now: float) -> list[tuple[TokenRecord, str] | TrustError]:
        """Tokens, and the secrets under which their guests speak: for :data:`BOOT` the one that it made up itself.

        :param asks: at most 500 ids, each with its kind; :data:`HELLO` for the first message of a ramdisk.
        :returns: in the place of one that is not known, that has run out, or with which no ramdisk has said hello yet,
            an error.
        """
        with self._db.read() as tx:
            rows = {row.id: row for row in tx.execute(FIND_ALL, {"idents": [ident for ident, _ in asks]})}
        return [self._open(rows.get(ident), kind, now) for ident, kind in asks]

    def _open(self, row: Any, kind: str, now: float) -> tuple[TokenRecord, str] | TrustError:
        if (
            row is None
            or row.kind != (BOOT if kind == HELLO else kind)
            or (row.expiry is not None and row.expiry < now)
        ):
            return TrustError("the token is not known, or has run out")
        sealed = row.bound_sealed if kind == BOOT else row.secret_sealed
        if sealed is None:
            return TrustError("no ramdisk has said hello with this token")
        try:
            return TokenRecord(*row[:5]), self._cipher.decrypt(sealed)
        except TrustError as error:  # of this one alone; the others asked at the same time
            return error

    def bind(self, ident: str, secret: str) -> bool:
        """From now on its guest speaks under this secret; False when it has another already."""
        with self._db.write() as tx:
            query = select(TOKENS.c.bound_sealed).where(TOKENS.c.id == ident)
            known: str | None = tx.execute(query).scalar_one_or_none()
            if known is not None:
                return hmac.compare_digest(self._cipher.decrypt(known), secret)
            values = {"bound_sealed": self._cipher.encrypt(secret)}
            return tx.execute(update(TOKENS).where(TOKENS.c.id == ident).values(values)).rowcount == 1

    def get(self, ident: str) -> TokenRecord:
        """:raises TrustError: there is no such token."""
        with self._db.read() as tx:
            row = tx.execute(FIND, {"ident": ident}).one_or_none()
        if row is None:
            raise TrustError("the token is not known, or has run out")
        return TokenRecord(*row[:5])

    def set_used(self, ident: str, now: float) -> None:
        with self._db.write() as tx:
            tx.execute(update(TOKENS).where(TOKENS.c.id == ident, TOKENS.c.used.is_(None)).values(used=now))

    def extend(self, deployment: str, kind: str, expiry: float) -> None:
        """The token of a deployment, if it has one, runs out then."""
        with self._db.write() as tx:
            mine = (TOKENS.c.deployment == deployment, TOKENS.c.kind == kind)
            tx.execute(update(TOKENS).where(*mine).values(expiry=expiry))

    def drop(self, deployment: str, kind: str | None = None) -> None:
        """End a deployment's tokens: all, or those of one kind."""
        query = delete(TOKENS).where(TOKENS.c.deployment == deployment)
        with self._db.write() as tx:
            tx.execute(query if kind is None else query.where(TOKENS.c.kind == kind))

    def drop_node(self, node: str) -> None:
        """End all tokens of a node."""
        uuid = select(NODES.c.uuid).where(NODES.c.name == node).scalar_subquery()
        with self._db.write() as tx:
            tx.execute(delete(TOKENS).where(TOKENS.c.node == uuid))
