"""Clouds, their secrets, the metadata of their members and what these last reported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Text, bindparam, cast, delete, insert, select, update

from provisioner.errors import NotFound
from provisioner.model.role import Desired
from provisioner.store.database import Cipher, Database
from provisioner.store.parts import Parts
from provisioner.store.schema import CLOUDS, GENERATIONS, NODES, REPORTS, SECRETS, TOKENS
from provisioner_agent.protocol.parts import join_parts, needed_parts, write_part


@dataclass(frozen=True)
class Generation:
    """One generation of a node's metadata. ``parts``: the ids of those that it shares, see
    :mod:`provisioner_agent.protocol.parts`. ``hash``: see :func:`content_hash`."""

    node: str
    generation: int
    deployment: str
    created: float
    parts: tuple[str, ...]
    hash: str


@dataclass(frozen=True)
class Told:
    """What the instance of a token is told: the newest generation of its node, for the deployment ``of``.

    ``deployment``: the token's. ``heard``: the generation that the instance has. ``own_sealed``: the node's own
    metadata; they and ``parts`` are empty when there is no generation.
    """

    node: str
    deployment: str
    generation: int
    heard: int
    of: str | None
    parts: tuple[str, ...]
    own_sealed: str | None


@dataclass(frozen=True)
class ReportRecord:
    """What the config agent of a deployment last said, and when. ``detail``: what it tells of each change once."""

    deployment: str
    at: float
    body: Mapping[str, Any]
    detail: Mapping[str, Any] = field(default_factory=dict)


ABOUT = select(
    NODES.c.name,
    GENERATIONS.c.generation,
    GENERATIONS.c.deployment,
    GENERATIONS.c.created,
    GENERATIONS.c.parts,
    GENERATIONS.c.hash,
)
ALL_NEWEST, ALL_APPLIED = (
    ABOUT.join(NODES, (NODES.c.uuid == GENERATIONS.c.node) & (number == GENERATIONS.c.generation))
    for number in (NODES.c.generation, NODES.c.applied)
)
NEWEST, APPLIED = (query.where(NODES.c.name == bindparam("name")) for query in (ALL_NEWEST, ALL_APPLIED))
OWN = (
    select(GENERATIONS.c.document_sealed)
    .join(NODES, NODES.c.uuid == GENERATIONS.c.node)
    .where(NODES.c.name == bindparam("name"), GENERATIONS.c.generation == bindparam("generation"))
)
BY_TOKEN = (
    select(
        TOKENS.c.id,
        NODES.c.name,
        TOKENS.c.deployment,
        NODES.c.generation,
        NODES.c.heard,
        GENERATIONS.c.deployment,
        GENERATIONS.c.parts,
        GENERATIONS.c.document_sealed,
    )
    .join(NODES, NODES.c.uuid == TOKENS.c.node)
    .outerjoin(GENERATIONS, (GENERATIONS.c.node == NODES.c.uuid) & (GENERATIONS.c.generation == NODES.c.generation))
    .where(TOKENS.c.id.in_(bindparam("idents", expanding=True)))
)
KNOWN = (
    select(NODES.c.name, NODES.c.uuid, NODES.c.generation, GENERATIONS.c.hash, GENERATIONS.c.deployment)
    .outerjoin(GENERATIONS, (GENERATIONS.c.node == NODES.c.uuid) & (GENERATIONS.c.generation == NODES.c.generation))
    .where(NODES.c.name.in_(bindparam("names", expanding=True)))
)
RENEW = (
    update(NODES)
    .where(NODES.c.uuid == bindparam("node"))
    .values(generation=bindparam("generation"), updated=bindparam("created"))
)
KEPT = 10
"""Generations of a node; some may still be in the hands of who began with one."""
OUTDATE = delete(GENERATIONS).where(
    GENERATIONS.c.node == bindparam("node"),
    GENERATIONS.c.generation <= bindparam("generation") - KEPT,
    GENERATIONS.c.generation != select(NODES.c.applied).where(NODES.c.uuid == bindparam("node")).scalar_subquery(),
)
"""Nothing begins with one that is neither the newest nor in force, and it holds secrets."""
AT_ONCE = 400
"""Names in one question; SQLite takes no more than 999 words in an old one (SQLITE_MAX_VARIABLE_NUMBER)."""
OWN_OF = select(NODES.c.name, GENERATIONS.c.generation, GENERATIONS.c.document_sealed).join(
    NODES, NODES.c.uuid == GENERATIONS.c.node
)
BETWEEN = " "
"""Stands between the ids of parts."""
DESIRED = select(cast(CLOUDS.c.desired, Text)).where(CLOUDS.c.name == bindparam("name"))


Build = Callable[[int], Mapping[str, Any]]
"""A generation's number → a node's own metadata, which name the parts that they share."""


def _generation(row: Any) -> Generation:
    return Generation(row.name, row.generation, row.deployment, row.created, tuple(row.parts.split()), row.hash)


def content_hash(document: Mapping[str, Any]) -> str:
    """sha256 over a document without its generation: equal hashes need no new generation."""
    content = {key: value for key, value in document.items() if key != "generation"}
    return hashlib.sha256(write_part(content).encode()).hexdigest()


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

    def ensure_secrets(self, cloud: str, names: Sequence[str], fresh: Callable[[], str]) -> None:
        """Make those of the named secrets of a cloud that it does not have yet, by ``fresh``, once for all time."""
        with self._db.write():
            known = self.secret_names(cloud)
            for name in names:
                if name not in known:
                    self.put_secret(cloud, name, fresh())

    def put_secret(self, cloud: str, name: str, value: str) -> None:
        """Keep a secret of a cloud in place of the one that it had; the cloud need not be on record yet."""
        sealed = self._cipher.encrypt(value)
        mine = (SECRETS.c.cloud == cloud) & (SECRETS.c.name == name)
        with self._db.write() as tx:
            if tx.execute(update(SECRETS).where(mine).values(value_sealed=sealed)).rowcount == 0:
                tx.execute(insert(SECRETS).values(cloud=cloud, name=name, value_sealed=sealed))

    def secret_names(self, cloud: str) -> frozenset[str]:
        with self._db.read() as tx:
            return frozenset(tx.execute(select(SECRETS.c.name).where(SECRETS.c.cloud == cloud)).scalars())

    def secret(self, cloud: str, name: str) -> str:
        """:raises NotFound: the cloud has no such secret."""
        known = self.secrets(cloud)
        if name not in known:
            raise NotFound(
                f"the cloud has no secret {name}",
                where=cloud,
                cause=f"it has: {', '.join(sorted(known)) or 'none'}",
                hint=f"provisioner cloud secret {cloud} {name} --set-file FILE, or a role that names it, makes one",
            )
        return known[name]

    def secrets(self, cloud: str) -> dict[str, str]:
        """Those that the cloud has by now, by name."""
        with self._db.read() as tx:
            rows = tx.execute(select(SECRETS.c.name, SECRETS.c.value_sealed).where(SECRETS.c.cloud == cloud)).all()
        return {row.name: self._cipher.decrypt(row.value_sealed) for row in rows}

    def new_generation(
        self, node: str, deployment: str, build: Build, now: float, *, force: bool = False
    ) -> int | None:
        """As :meth:`new_generations`, of one node; None when nothing differs."""
        return self.new_generations({node: (deployment, build)}, now, force=force).get(node)

    def new_generations(
        self, members: Mapping[str, tuple[str, Build]], now: float, *, force: bool = False
    ) -> dict[str, int]:
        """Record a new generation of the metadata of each node whose content differs from its deployment's newest.

        :param members: the deployment and how its metadata are built, by the name of the node.
        :param force: also when the content is the same. :returns: those that are new, by the name of the node.
        """
        deployments = [deployment for deployment, _ in members.values()]
        fresh: dict[str, int] = {}
        with self._db.write(*members, *deployments) as tx:
            rows = []
            for known in self._known(list(members)):
                deployment, build = members[known.name]
                generation = int(known.generation) + 1
                document = build(generation)
                content = content_hash(document)
                if not force and (known.hash, known.deployment) == (content, deployment):
                    continue
                fresh[known.name] = generation
                rows.append(
                    {
                        "node": known.uuid,
                        "generation": generation,
                        "deployment": deployment,
                        "document_sealed": self._cipher.encrypt(write_part(document)),
                        "hash": content,
                        "created": now,
                        "parts": BETWEEN.join(needed_parts(document)),
                    }
                )
            if rows:
                tx.execute(insert(GENERATIONS), rows)
                tx.execute(RENEW, rows)
                tx.execute(OUTDATE, [{"node": row["node"], "generation": row["generation"]} for row in rows])
        return fresh

    def _known(self, names: Sequence[str]) -> Iterator[Any]:
        with self._db.read() as tx:
            for start in range(0, len(names), AT_ONCE):
                yield from tx.execute(KNOWN, {"names": names[start : start + AT_ONCE]}).all()

    def told(self, tokens: Sequence[str]) -> dict[str, Told]:
        """What the instances are told whose tokens these are, by the tokens' ids; unknown ones are left out.

        :param tokens: at most :data:`AT_ONCE` ids.
        """
        with self._db.read() as tx:
            return {
                row[0]: Told(*row[1:6], tuple((row[6] or "").split()), row[7])
                for row in tx.execute(BY_TOKEN, {"idents": list(tokens)})
            }

    def open_own(self, told: Told) -> str:
        """The node's own metadata in their one form as text. They hold secrets."""
        assert told.own_sealed is not None
        return write_part(json.loads(self._cipher.decrypt(told.own_sealed)))

    def newest(self, node: str) -> Generation | None:
        """The newest generation of a node's metadata."""
        with self._db.read() as tx:
            row = tx.execute(NEWEST, {"name": node}).one_or_none()
        return None if row is None else _generation(row)

    def all_newest(self) -> dict[str, Generation]:
        """The newest generation of each node that has one, by its name."""
        with self._db.read() as tx:
            return {row.name: _generation(row) for row in tx.execute(ALL_NEWEST)}

    def applied(self, node: str) -> Generation | None:
        """The generation that a node said last it has in force; None when there is none on record."""
        with self._db.read() as tx:
            row = tx.execute(APPLIED, {"name": node}).one_or_none()
        return None if row is None else _generation(row)

    def own_texts(self, generations: Sequence[Generation]) -> dict[str, str]:
        """Their nodes' own metadata as JSON, by node. They hold secrets."""
        wanted = sorted(generations, key=lambda generation: generation.generation)
        found: dict[str, str] = {}
        with self._db.read() as tx:
            for at in range(0, len(wanted), AT_ONCE):
                numbers = {generation.node: generation.generation for generation in wanted[at : at + AT_ONCE]}
                some = OWN_OF.where(NODES.c.name.in_(numbers), GENERATIONS.c.generation.in_(set(numbers.values())))
                rows = tx.execute(some).all()  # also of a node what is another one's number
                found |= {row.name: row.document_sealed for row in rows if row.generation == numbers[row.name]}
        return {name: self._cipher.decrypt(sealed) for name, sealed in found.items()}

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

    def parts_of(self, generations: Iterable[Generation]) -> dict[str, Mapping[str, Any]]:
        """The parts that these have in common, by id; without those that are not kept any more."""
        found = {}
        for ident in {part for generation in generations for part in generation.parts}:
            with suppress(KeyError):
                found[ident] = self._parts.get(ident)
        return found

    def drop_parts(self) -> None:
        """Those that belong to no node's newest generation, nor to the one that it has in force."""
        kept = [query.with_only_columns(GENERATIONS.c.parts).distinct() for query in (ALL_NEWEST, ALL_APPLIED)]
        with self._db.write() as tx:
            used = {part for query in kept for parts in tx.execute(query).scalars() for part in parts.split()}
            self._parts.keep_only(used)

    def put_report(
        self,
        node: str,
        deployment: str,
        body: Mapping[str, Any],
        now: float,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep what a node last reported; what it said before is forgotten, but for ``detail`` if none is given."""
        values: dict[str, Any] = {"deployment": deployment, "at": now, "body": dict(body)}
        if detail is not None:
            values["detail"] = dict(detail)
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
        return None if row is None else ReportRecord(row.deployment, row.at, row.body, row.detail or {})

    def reports(self) -> dict[str, Mapping[str, Any]]:
        """What every instance last said, by its deployment."""
        with self._db.read() as tx:
            return {row.deployment: row.body for row in tx.execute(select(REPORTS.c.deployment, REPORTS.c.body))}

    def heard(self) -> dict[str, float]:
        """When the instance of each deployment last reported, or asked for a permit, in seconds since the epoch."""
        query = select(REPORTS.c.deployment, REPORTS.c.at, NODES.c.spoke).join(
            NODES, (NODES.c.uuid == REPORTS.c.node) & (NODES.c.deployment == REPORTS.c.deployment)
        )
        with self._db.read() as tx:
            return {row.deployment: max(row.at, row.spoke) for row in tx.execute(query)}

    def drop_report(self, node: str) -> None:
        uuid = select(NODES.c.uuid).where(NODES.c.name == node).scalar_subquery()
        with self._db.write() as tx:
            tx.execute(delete(REPORTS).where(REPORTS.c.node == uuid))
