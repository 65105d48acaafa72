"""The certificates of clouds' members, and the authorities that signed them. Their keys are sealed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import delete, func, insert, select, tuple_

from provisioner.store.database import Cipher, Database
from provisioner.store.schema import CERTIFICATES

AT_ONCE = 200
"""Rows that one statement names."""
AUTHORITY = ("", "")
"""In the place of (host name, certificate)."""


class CertificateRecord(NamedTuple):
    """``names``: host names and addresses for which it was made. ``ends``: seconds since the epoch."""

    names: tuple[str, ...]
    ends: float
    certificate: str
    key: str


Slot = tuple[str, str]
"""(host name of the member, name of the certificate in its role)."""


class Certificates:
    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._db = database
        self._cipher = cipher

    def of(self, cloud: str) -> dict[Slot, CertificateRecord]:
        """Those that a cloud has by now; its authority is :data:`AUTHORITY`."""
        with self._db.read() as tx:
            rows = tx.execute(select(CERTIFICATES).where(CERTIFICATES.c.cloud == cloud)).all()
        return {(row.hostname, row.name): self._open(row) for row in rows}

    def authority(self, cloud: str) -> str | None:
        """The certificate of a cloud's authority, as PEM; None when the cloud has none."""
        mine = (CERTIFICATES.c.cloud == cloud) & (CERTIFICATES.c.hostname == "")
        with self._db.read() as tx:
            found: str | None = tx.execute(select(CERTIFICATES.c.certificate).where(mine)).scalar_one_or_none()
        return found

    def put(self, cloud: str, made: Mapping[Slot, CertificateRecord]) -> None:
        """Keep these in place of those that they follow."""
        rows = [
            {
                "cloud": cloud,
                "hostname": slot[0],
                "name": slot[1],
                "names": list(one.names),
                "ends": one.ends,
                "certificate": one.certificate,
                "key_sealed": self._cipher.encrypt(one.key),
            }
            for slot, one in made.items()
        ]
        if rows:
            with self._db.write() as tx:
                self._drop(tx, cloud, made)
                tx.execute(insert(CERTIFICATES), rows)

    def drop(self, cloud: str, slots: Collection[Slot]) -> None:
        with self._db.write() as tx:
            self._drop(tx, cloud, slots)

    def drop_of(self, cloud: str, hostname: str) -> None:
        """Whatever a member has."""
        mine = (CERTIFICATES.c.cloud == cloud) & (CERTIFICATES.c.hostname == hostname)
        with self._db.write() as tx:
            tx.execute(delete(CERTIFICATES).where(mine))

    def first_end(self) -> dict[str, float]:
        """When the first certificate of each cloud's members ends, in seconds since the epoch."""
        first = select(CERTIFICATES.c.cloud, func.min(CERTIFICATES.c.ends)).where(CERTIFICATES.c.hostname != "")
        with self._db.read() as tx:
            return {row[0]: row[1] for row in tx.execute(first.group_by(CERTIFICATES.c.cloud)).all()}

    def _drop(self, tx: Any, cloud: str, slots: Collection[Slot]) -> None:
        wanted = list(slots)
        for at in range(0, len(wanted), AT_ONCE):
            some = tuple_(CERTIFICATES.c.hostname, CERTIFICATES.c.name).in_(wanted[at : at + AT_ONCE])
            tx.execute(delete(CERTIFICATES).where(CERTIFICATES.c.cloud == cloud, some))

    def _open(self, row: Any) -> CertificateRecord:
        return CertificateRecord(tuple(row.names), row.ends, row.certificate, self._cipher.decrypt(row.key_sealed))
