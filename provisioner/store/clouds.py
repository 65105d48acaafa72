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
from provisioner.store.parts import Parts
from provisioner.store.schema import CLOUDS, GENERATIONS, NODES, REPORTS, SECRETS
from provisioner_agent.protocol.parts import join_parts, needed_parts


@dataclass(frozen=True)
class Generation:
    """One generation of a node's metadata. ``parts``: the ids of those that it shares, see
    :mod:`provisioner_agent.protocol.parts`."""

    node: str
    generation: int
    deployment: str
    created: float
    parts: tuple[str, ...]


@dataclass(frozen=True)
class ReportRecord:
    """What the config agent of a deployment last said, and when."""

    deployment: str
    at: float
    body: Mapping[str, Any]


NEWEST = (
    select(GENERATIONS.c.generation, GENERATIONS.c.deployment, GENERATIONS.c.created, GENERATIONS.c.parts)
    .join(NODES, (NODES.c.uuid == GENERATIONS.c.node) & (NODES.c.generation == GENERATIONS.c.generation))
    .where(NODES.c.name == bindparam("name"))
)
OWN = (
    select(GENERATIONS.c.document_sealed)
    .join(NODES, NODES.c.uuid == GENERATIONS.c.node)
    .where(NODES.c.name == bindparam("name"), GENERATIONS.c.generation == bindparam("generation"))
)
BETWEEN = " "
"""Stands between the ids of parts."""
DESIRED = select(cast(CLOUDS.c.desired, Text)).where(CLOUDS.c.name == bindparam("name"))


def content_hash(document: Mapping[str, Any]) -> str:
    """sha256 over a document without its generation: equal hashes need no new generation."""
    content = {key: value for key, value in document.items() if key != "generation"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Clouds:
    def __init__(self, database: Database, cipher: Cipher, parts: Parts) -> None:
        self._db = database
        self._cipher = cipher
        self._parts = parts
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

        :param build: generation → the node's own metadata, which name the parts that they share.
        :param force: also when the content is the same.
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
                    parts=BETWEEN.join(needed_parts(document)),
                )
            )
            tx.execute(update(NODES).where(NODES.c.uuid == known.uuid).values(generation=generation, updated=now))
            return generation

    def newest(self, node: str) -> Generation | None:
        """The newest generation of a node's metadata."""
        with self._db.read() as tx:
            row = tx.execute(NEWEST, {"name": node}).one_or_none()
        if row is None:
            return None
        return Generation(node, row.generation, row.deployment, row.created, tuple(row.parts.split()))

    def own_text(self, generation: Generation) -> str:
        """The node's own metadata, as JSON. It holds secrets."""
        with self._db.read() as tx:
            found = {"name": generation.node, "generation": generation.generation}
            sealed: str = tx.execute(OWN, found).scalar_one()
        return self._cipher.decrypt(sealed)

    def document(self, generation: Generation) -> dict[str, Any]:
        """The whole metadata. They hold secrets."""
        return join_parts(json.loads(self.own_text(generation)), map(self._parts.get, generation.parts))

    def shared(self, generation: Generation) -> Mapping[str, Any]:
        """What a generation has in common with others, but for the members of the cloud; cheaper than the whole."""
        if not generation.parts:  # of a release that had none
            return self.document(generation)
        return self._parts.get(generation.parts[0])

    def drop_parts(self) -> None:
        """Those that belong to no generation any more that may still be asked for."""
        newest = select(GENERATIONS.c.parts).join(
            NODES, (NODES.c.uuid == GENERATIONS.c.node) & (NODES.c.generation == GENERATIONS.c.generation)
        )
        with self._db.write() as tx:
            used = {part for parts in tx.execute(newest.distinct()).scalars() for part in parts.split()}
            self._parts.keep_only(used)

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
