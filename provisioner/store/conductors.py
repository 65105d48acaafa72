"""Which conductors share the records, and when each was last seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from sqlalchemy import delete, insert, select, update

from provisioner.errors import Conflict, TrustError
from provisioner.store.database import Cipher, Database
from provisioner.store.schema import CONDUCTORS, LEASES

ALIVE_SECONDS = 30.0
"""A conductor that was not seen for so long is taken for dead."""


@dataclass(frozen=True)
class ConductorRecord:
    """``place``: host and folder that it runs in, one at a time. ``url``: where guests reach it, or empty.

    ``seen``: seconds since the epoch.
    """

    name: str
    place: str
    url: str
    version: str
    seen: float

    def lives(self, now: float) -> bool:
        return now - self.seen < ALIVE_SECONDS


WORD = "provisioner"
"""Sealed by each, so that the others see whether they have the same keys."""
FIELDS = (CONDUCTORS.c[field.name] for field in fields(ConductorRecord))
ALL = select(*FIELDS).order_by(CONDUCTORS.c.name)


class Conductors:
    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._db = database
        self._cipher = cipher

    def all(self) -> list[ConductorRecord]:
        with self._db.read() as tx:
            return [ConductorRecord(*row) for row in tx.execute(ALL)]

    def join(self, mine: ConductorRecord) -> None:
        """Take a conductor on record. One that ran in the same place has ended.

        :raises Conflict: another one has that name, and lives. :raises TrustError: the site's keys are other ones.
        """
        with self._db.write() as tx:
            for name, sealed in tx.execute(select(CONDUCTORS.c.name, CONDUCTORS.c.keys_sealed)):
                self._check_keys(name, sealed)
            for other in self.all():
                if other.name == mine.name and other.place != mine.place and other.lives(mine.seen):
                    raise Conflict(
                        "there is another conductor of that name",
                        where=mine.name,
                        cause=f"{other.place} was seen {mine.seen - other.seen:.0f} s ago",
                        hint="set [conductor] name to another in one of the two configuration files",
                    )
            tx.execute(delete(CONDUCTORS).where(CONDUCTORS.c.name == mine.name))
            tx.execute(insert(CONDUCTORS).values(**asdict(mine), keys_sealed=self._cipher.encrypt(WORD)))

    def _check_keys(self, name: str, sealed: str) -> None:
        try:
            self._cipher.decrypt(sealed)
        except TrustError:
            raise TrustError(
                "the records are sealed with other keys than this host's",
                where=name,
                hint=f"copy the keys folder of {name} to this host, then start the service again",
            ) from None

    def see(self, name: str, now: float, lease: float) -> None:
        """It lives: also the leases that it holds are good for ``lease`` seconds more, but for those that ran out."""
        with self._db.write() as tx:
            tx.execute(update(CONDUCTORS).where(CONDUCTORS.c.name == name).values(seen=now))
            held = (LEASES.c.holder == name, LEASES.c.expiry >= now)
            tx.execute(update(LEASES).where(*held).values(expiry=now + lease))

    def leave(self, name: str) -> None:
        """It ends by itself: what it worked on is free at once."""
        with self._db.write() as tx:
            tx.execute(delete(CONDUCTORS).where(CONDUCTORS.c.name == name))
            tx.execute(update(LEASES).where(LEASES.c.holder == name).values(holder="", purpose="", expiry=0.0))
