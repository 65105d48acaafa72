"""Clouds, their secrets, the metadata of their members and what these last reported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Text, bindparam, cast, delete, insert, select, update

from provisioner.errors import NotFound
from provisioner.model.role import Desired
from provisioner.store.database import Cipher, Database
from provisioner.store.schema import CLOUDS, GENERATIONS, NODES, REPORTS, SECRETS


@dataclass(frozen=True)
class Generation:
    """One generation of a node's metadata. ``document`` holds secrets."""

    generation: int
    deployment: str
    document: Mapping[str, Any]
    created: float


@dataclass(frozen=True)
class ReportRecord:
    """What the config agent of a deployment last said, and when."""

    deployment: str
    at: float
    body: Mapping[str, Any]


DESIRED = select(cast(CLOUDS.c.desired, Text)).where(CLOUDS.c.name == bindparam("name"))


def content_hash(document: Mapping[str, Any]) -> str:
    """sha256 over a document without its generation: equal hashes need no new generation."""
    content = {key: value for key, value in document.items() if key != "generation"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Clouds:
    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._db = database
        self._cipher = cipher
        self._parsed: dict[str, tuple[str, Desired]] = {}

    def names(self) -> list[str]:
        with self._db.read() as tx:
            return list(tx.execute(select(CLOUDS.c.name).order_by(CLOUDS.c.name)).scalars())

    def find(self, name: str) -> Desired | None:
        with self._db.read() as tx:
            text = tx.execute(DESIRED, {"name": name}).scalar_one_or_none()
        if text is None:
            return None
        known = self._parsed.get(name)
        if known is None or known[0] != text:  # asked at each step of each member, and changed once a day
            known = self._parsed[name] = (text, Desired.model_validate_json(text))
        return known[1]

    def get(self, name: str) -> Desired:
        """:raises NotFound: no such cloud was ever applied."""
        desired = self.find(name)
        if desired is None:
            raise NotFound("there is no such cloud", where=name, hint="provisioner apply CLOUD.yaml makes one")
        return desired

    def put(self, desired: Desired, now: float) -> None:
        values = {"desired": desired.model_dump(mode="json"), "updated": now}
        with self._db.write() as tx:
            changed = tx.execute(update(CLOUDS).where(CLOUDS.c.name == desired.cloud.cloud).values(values))
            if changed.rowcount == 0:
                tx.execute(insert(CLOUDS).values(name=desired.cloud.cloud, **values))

    def ensure_secrets(self, cloud: str, names: Sequence[str], fresh: Callable[[], str]) -> dict[str, str]:
        """The named secrets of a cloud; one that does not exist yet is made by ``fresh``, once for all time."""
        with self._db.write() as tx:
            known = self._secrets(cloud)
            for name in names:
                if name not in known:
                    known[name] = fresh()
                    sealed = self._cipher.encrypt(known[name])
                    tx.execute(insert(SECRETS).values(cloud=cloud, name=name, value_sealed=sealed))
            return {name: known[name] for name in names}

    def secret(self, cloud: str, name: str) -> str:
        """:raises NotFound: the cloud has no such secret."""
        known = self._secrets(cloud)
        if name not in known:
            raise NotFound(
                f"the cloud has no secret {name}",
                where=cloud,
                cause=f"it has: {', '.join(sorted(known)) or 'none'}",
                hint="the roles of the cloud name its secrets",
            )
        return known[name]

    def _secrets(self, cloud: str) -> dict[str, str]:
        with self._db.read() as tx:
            rows = tx.execute(select(SECRETS.c.name, SECRETS.c.value_sealed).where(SECRETS.c.cloud == cloud)).all()
        return {row.name: self._cipher.decrypt(row.value_sealed) for row in rows}

    def new_generation(
        self,
        node: str,
        deployment: str,
        build: Callable[[int], Mapping[str, Any]],
        now: float,
        *,
        force: bool = False,
    ) -> int | None:
        """Record a new generation of a node's metadata if its content differs from the newest of this deployment.

        :param build: generation → document. :param force: also when the content is the same.
        :returns: the new generation; None when nothing differs.
        """
        with self._db.write(node, deployment) as tx:
            known = tx.execute(select(NODES.c.uuid, NODES.c.generation).where(NODES.c.name == node)).one()
            newest = tx.execute(
                select(GENERATIONS.c.hash, GENERATIONS.c.deployment).where(
                    GENERATIONS.c.node == known.uuid, GENERATIONS.c.generation == known.generation
                )
            ).one_or_none()
            generation = int(known.generation) + 1
            document = build(generation)
            fresh = content_hash(document)
            if not force and newest is not None and (newest.hash, newest.deployment) == (fresh, deployment):
                return None
            tx.execute(
                insert(GENERATIONS).values(
                    node=known.uuid,
                    generation=generation,
                    deployment=deployment,
                    document_sealed=self._cipher.encrypt(json.dumps(document)),
                    hash=fresh,
                    created=now,
                )
            )
            tx.execute(update(NODES).where(NODES.c.uuid == known.uuid).values(generation=generation, updated=now))
            return generation

    def newest(self, node: str) -> Generation | None:
        """The newest generation of a node's metadata."""
        query = (
            select(GENERATIONS)
            .join(NODES, (NODES.c.uuid == GENERATIONS.c.node) & (NODES.c.generation == GENERATIONS.c.generation))
            .where(NODES.c.name == node)
        )
        with self._db.read() as tx:
            row = tx.execute(query).one_or_none()
        if row is None:
            return None
        document = json.loads(self._cipher.decrypt(row.document_sealed))
        return Generation(row.generation, row.deployment, document, row.created)

    def put_report(self, node: str, deployment: str, body: Mapping[str, Any], now: float) -> None:
        """Keep what a node last reported; what it said before is forgotten."""
        values = {"deployment": deployment, "at": now, "body": dict(body)}
        with self._db.write(node) as tx:
            uuid = tx.execute(select(NODES.c.uuid).where(NODES.c.name == node)).scalar_one()
            changed = tx.execute(update(REPORTS).where(REPORTS.c.node == uuid).values(values))
            if changed.rowcount == 0:
                tx.execute(insert(REPORTS).values(node=uuid, **values))

    def report(self, node: str, deployment: str) -> ReportRecord | None:
        """The last report of this deployment's instance."""
        query = (
            select(REPORTS)
            .join(NODES, NODES.c.uuid == REPORTS.c.node)
            .where(NODES.c.name == node, REPORTS.c.deployment == deployment)
        )
        with self._db.read() as tx:
            row = tx.execute(query).one_or_none()
        return None if row is None else ReportRecord(row.deployment, row.at, row.body)

    def reports(self) -> dict[str, Mapping[str, Any]]:
        """What every instance last said, by its deployment."""
        with self._db.read() as tx:
            return {row.deployment: row.body for row in tx.execute(select(REPORTS.c.deployment, REPORTS.c.body))}

    def drop_report(self, node: str) -> None:
        uuid = select(NODES.c.uuid).where(NODES.c.name == node).scalar_subquery()
        with self._db.write() as tx:
            tx.execute(delete(REPORTS).where(REPORTS.c.node == uuid))
