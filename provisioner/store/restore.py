"""Records that were copied while the service ran, and what must be changed in them before they are used again."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from sqlalchemy import JSON, Connection, MetaData, Table, delete, func, insert, make_url, select, text, update

from provisioner.errors import Conflict, DeployError, HostError
from provisioner.model.departure import DepartureState
from provisioner.model.deployment import DeploymentState
from provisioner.model.duty import DutyState
from provisioner.model.states import AT_WORK, NodeState
from provisioner.store.database import Cipher, Database
from provisioner.store.permits import FAILED, HELD
from provisioner.store.recoveries import OVER
from provisioner.store.schema import (
    CONDUCTORS,
    DEPARTURES,
    DEPLOYMENTS,
    DUTY,
    EVENTS,
    GENERATIONS,
    LEASES,
    NODES,
    ONCE,
    PERMITS,
    RECOVERIES,
    TOKENS,
)
from provisioner.store.tokens import BOOT

VERSIONS = "alembic_version"
ROWS = 1000
"""That are copied at once."""
JUMP = 1_000_000
"""By how much every number grows that must never go back. More changes than that were not made since the copy."""


def copy_records(source: Path, target: Path) -> None:
    """A consistent copy of a SQLite file, whoever writes to it meanwhile (SQLite, Online Backup API).

    :raises HostError: it cannot be read, or the copy cannot be written.
    """
    try:
        with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as old, sqlite3.connect(target) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")  # one file, without its neighbours
        new.close()
        old.close()
    except sqlite3.Error as error:
        raise HostError("the records cannot be copied", where=str(source), cause=str(error)) from error


def copy_rows(source: Database, target: Database) -> None:
    """All records of one database into another one of the same schema, in one transaction; from a consistent view.

    The schema may be an older one. :raises Conflict: there are records already.
    """
    with source.read() as old, target.write() as new:
        tables = _tables(old)
        for table in tables:
            if new.execute(select(func.count()).select_from(table)).scalar_one():
                raise Conflict(
                    "there are records already, and they are not overwritten",
                    where=make_url(target.url).render_as_string(hide_password=True),
                    cause=f"the table {table.name} is not empty",
                    hint="restore to an empty database",
                )
        for table in tables:
            for rows in old.execute(select(table)).partitions(ROWS):
                new.execute(insert(table), [dict(row._mapping) for row in rows])
        if target.shared:
            last = new.execute(select(func.max(EVENTS.c.id))).scalar_one()
            if last is not None:  # the numbers of events go on where they were
                new.execute(text("SELECT setval(pg_get_serial_sequence('events', 'id'), :last)"), {"last": last})


def copy_tables(source: Database, target: Database) -> None:
    """Tables and rows of a schema that need not be known, into an empty SQLite; from a consistent view."""
    with source.read() as old, target.write() as new:
        tables = _reflect(old)
        for table in tables.tables.values():
            for column in table.columns:
                column.server_default = None  # in PostgreSQL's words; every row has its own value
        tables.create_all(new)
        for table in tables.sorted_tables:
            for rows in old.execute(select(table)).partitions(ROWS):
                new.execute(insert(table), [dict(row._mapping) for row in rows])


def _tables(connection: Connection) -> list[Table]:
    """Those that are there, in an order in which they can be filled."""
    return [table for table in _reflect(connection).sorted_tables if table.name != VERSIONS]


def _reflect(connection: Connection) -> MetaData:
    found = MetaData()
    found.reflect(connection)
    for table in found.tables.values():
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type = JSON(none_as_null=True)  # what is not there is looked for as NULL
    return found


def drop_tables(database: Database) -> None:
    """All that a database holds, within the transaction that is open."""
    with database.write() as connection:
        found = MetaData()
        found.reflect(connection)
        found.drop_all(connection)


def make_fresh(database: Database, cipher: Cipher) -> int:
    """Let restored records be in force again, in one transaction. :returns: how many nodes were at work.

    Generations and fence numbers jump, so that no guest is offered one that it knows already. What was at work has
    failed: nobody can say how far it came since the copy. Who was to leave its node stays until it is asked for again:
    it may have been called off since. Boot tokens have ended.
    """
    with database.write() as tx:
        jump_generations(database, cipher)
        tx.execute(update(LEASES).values(fence=LEASES.c.fence + JUMP, holder="", purpose="", expiry=0.0))
        tx.execute(delete(CONDUCTORS))
        tx.execute(update(ONCE).values(fence=ONCE.c.fence + JUMP))
        # What members said before the copy may have ceased to be true: an outage begins anew with the next word.
        later = {"fence": RECOVERIES.c.fence + JUMP, "outage": RECOVERIES.c.outage + JUMP, "state": OVER}
        tx.execute(update(RECOVERIES).values(later))
        tx.execute(delete(TOKENS).where(TOKENS.c.kind == BOOT))
        epoch = tx.execute(select(func.max(DUTY.c.epoch))).scalar_one() or 1
        tx.execute(delete(DUTY))  # also of a master that was: who restores says that there is no other one
        fresh = {"state": DutyState.MASTER, "node": "", "handover": "", "since": 0.0, "detail": {}}
        tx.execute(insert(DUTY).values(id=1, epoch=epoch + JUMP, **fresh))
        tx.execute(
            update(DEPLOYMENTS)
            .where(DEPLOYMENTS.c.state == DeploymentState.RUNNING)
            .values(state=DeploymentState.FAILED, failure=_failure("").to_dict())
        )
        _stop_departures(tx)
        names = list(tx.execute(select(NODES.c.name).where(NODES.c.state.in_(AT_WORK))).scalars())
        for name in names:
            values = {"state": NodeState.FAILED, "failure": _failure(name).to_dict()}
            tx.execute(update(NODES).where(NODES.c.name == name).values(values))
        return len(names)


def _stop_departures(tx: Connection) -> None:
    """As if none of them could be drained."""
    going = (DepartureState.WAITING, DepartureState.DRAINING)
    for row in tx.execute(select(DEPARTURES).where(DEPARTURES.c.state.in_(going))).all():
        failure = DeployError(
            "the records were restored from a backup that was made while it was to leave",
            where=row.node,
            cause="that may have been called off since then",
            hint=f"provisioner cloud resume {row.cloud}; or provisioner cloud abort {row.cloud} {row.hostname}",
        ).to_dict()
        mine = (DEPARTURES.c.cloud == row.cloud, DEPARTURES.c.hostname == row.hostname)
        body = {**row.body, "state": str(DepartureState.FAILED), "failure": failure}
        tx.execute(update(DEPARTURES).where(*mine).values(state=DepartureState.FAILED, body=body))
        held = (PERMITS.c.deployment == row.deployment, PERMITS.c.state == HELD)
        tx.execute(update(PERMITS).where(*held).values(state=FAILED))
        here = (NODES.c.name == row.node, NODES.c.deployment == row.deployment, NODES.c.state == NodeState.ACTIVE)
        tx.execute(update(NODES).where(*here).values(failure=failure))


def jump_generations(database: Database, cipher: Cipher) -> None:
    """Let the newest generation of each node be newer than any that its instance may know. The schema may be older."""
    with database.write() as tx:
        newest = (GENERATIONS.c.node == NODES.c.uuid) & (GENERATIONS.c.generation == NODES.c.generation)
        query = select(GENERATIONS.c.node, GENERATIONS.c.generation, GENERATIONS.c.document_sealed).join(NODES, newest)
        for row in tx.execute(query).all():
            document = json.loads(cipher.decrypt(row.document_sealed)) | {"generation": row.generation + JUMP}
            sealed = cipher.encrypt(json.dumps(document))
            mine = (GENERATIONS.c.node == row.node, GENERATIONS.c.generation == row.generation)
            tx.execute(
                update(GENERATIONS).where(*mine).values(document_sealed=sealed, generation=row.generation + JUMP)
            )
        tx.execute(update(NODES).where(NODES.c.generation > 0).values(generation=NODES.c.generation + JUMP))


def _failure(name: str) -> DeployError:
    return DeployError(
        "the records were restored from a backup that was made while it was at work",
        where=name,
        cause="it may have gone on since then",
        hint=f"provisioner node retry {name}",
    )
