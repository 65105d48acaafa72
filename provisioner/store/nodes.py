"""Records of nodes, their ports and who works on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Select, Text, bindparam, cast, delete, insert, or_, select, update

from provisioner.errors import Conflict, NotFound
from provisioner.model.deployment import Node
from provisioner.model.hardware import BmcAddress, HardwarePart, HardwareReport, HardwareTest, NodeSpec, Port, Power
from provisioner.model.states import AT_WORK, NodeState, check_move
from provisioner.store.database import Cipher, Database
from provisioner.store.permits import HELD
from provisioner.store.schema import DEPARTURES, GENERATIONS, LEASES, NODES, NULL, PERMITS, PORTS

ANY_MAC = "*:*:*:*:*:*"
"""In the place of a port while a node's ports are found out; the words by which dnsmasq means any (dhcp-host)."""


@dataclass(frozen=True)
class PortRecord:
    """A port on record. ``address``: what it gets while its node runs the ramdisk; None without a DHCP range."""

    mac: str
    node: str
    address: str | None


ALL_PORTS = select(PORTS.c.mac, NODES.c.name, PORTS.c.address).join(NODES, PORTS.c.node == NODES.c.uuid)
OWNED_PORTS = select(PORTS.c.mac, NODES.c.name).join(NODES, PORTS.c.node == NODES.c.uuid)


def bmc_key(bmc: BmcAddress) -> str:
    return f"{bmc.driver}://{bmc.address}:{bmc.port}"


KEPT = 20_000
"""Parsed hardware files and reports that are kept: a node is read several times for each of its steps."""
PARSED = ("spec", "hardware")
FIELDS = [cast(column, Text).label(column.name) if column.name in PARSED else column for column in NODES.c]
"""Columns of a node; what is parsed comes as text."""
PASSWORD = select(NODES.c.password_sealed).where(NODES.c.name == bindparam("name"))
FIND = select(*FIELDS).where(NODES.c.name == bindparam("name"))
HEARD = (
    update(NODES)
    .where(NODES.c.name == bindparam("node"), NODES.c.heard < bindparam("now"))
    .values(heard=bindparam("now"))
)


class Nodes:
    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._db = database
        self._cipher = cipher
        self._spec = lru_cache(KEPT)(NodeSpec.model_validate_json)
        self._hardware = lru_cache(KEPT)(HardwareReport.model_validate_json)

    def forget(self) -> None:
        """Drop what was parsed: it is parsed again when it is asked for."""
        self._spec.cache_clear()
        self._hardware.cache_clear()

    def all(self) -> list[Node]:
        """Every node, by name."""
        with self._db.read() as tx:
            return [self._node(row) for row in tx.execute(select(*FIELDS).order_by(NODES.c.name))]

    def page(self, after: str, limit: int) -> list[Node]:
        """At most so many nodes, by name, from the one after ``after``."""
        query = select(*FIELDS).where(NODES.c.name > after).order_by(NODES.c.name).limit(limit)
        with self._db.read() as tx:
            return [self._node(row) for row in tx.execute(query)]

    def at_work(self, holder: str, now: float, late: float, names: Collection[str] | None = None) -> list[str]:
        """Names of nodes that the conductor ``holder`` has something to do with; only of ``names`` if they are given.

        Those on which another one works are left out.

        :param late: seconds after which there is something to do with an instance that has not its newest generation,
            or holds a permit.
        """
        old = select(GENERATIONS.c.node).where(
            GENERATIONS.c.node == NODES.c.uuid,
            GENERATIONS.c.generation == NODES.c.generation,
            GENERATIONS.c.created < now - late,
        )
        behind = (NODES.c.state == NodeState.ACTIVE) & (NODES.c.generation > NODES.c.applied) & old.exists()
        permits = select(PERMITS.c.deployment).where(PERMITS.c.state == HELD, PERMITS.c.granted < now - late)
        holding = (NODES.c.state == NodeState.ACTIVE) & NODES.c.deployment.in_(permits)
        leaving = NODES.c.deployment.in_(select(DEPARTURES.c.deployment))
        free = or_(LEASES.c.holder.in_(("", holder)), LEASES.c.expiry < now)
        query = select(NODES.c.name).join(LEASES, LEASES.c.node == NODES.c.uuid).where(free)
        query = query.where(or_(NODES.c.state.in_(AT_WORK), behind, holding, leaving), NODES.c.maintenance.is_(None))
        if names is not None:
            query = query.where(NODES.c.name.in_(names))
        with self._db.read() as tx:
            return list(tx.execute(query).scalars())

    def get(self, name: str) -> Node:
        """:raises NotFound: there is no node of that name."""
        found = self.find(name)
        if found is None:
            raise NotFound("there is no such node", where=name, hint="provisioner node list")
        return found

    def find(self, name: str) -> Node | None:
        with self._db.read() as tx:
            row = tx.execute(FIND, {"name": name}).one_or_none()
        return None if row is None else self._node(row)

    def by_mac(self, mac: str) -> tuple[Node, PortRecord] | None:
        query = select(*FIELDS, PORTS.c.address).join(PORTS, PORTS.c.node == NODES.c.uuid).where(PORTS.c.mac == mac)
        with self._db.read() as tx:
            row = tx.execute(query).one_or_none()
        return None if row is None else (self._node(row), PortRecord(mac, row.name, row.address))

    def by_address(self, address: str) -> Node | None:
        """The node that has an address of the ramdisk's range."""
        query = select(*FIELDS).join(PORTS, PORTS.c.node == NODES.c.uuid).where(PORTS.c.address == address)
        with self._db.read() as tx:
            row = tx.execute(query).one_or_none()
        return None if row is None else self._node(row)

    def ports(self) -> Sequence[PortRecord]:
        """Every port on record, by MAC; ``node`` is the node's name."""
        return self._find_ports(ALL_PORTS)

    def ports_of(self, name: str) -> Sequence[PortRecord]:
        """A node's, by MAC."""
        return self._find_ports(ALL_PORTS.where(NODES.c.name == name))

    def _find_ports(self, query: Select[Any]) -> Sequence[PortRecord]:
        with self._db.read() as tx:
            return [PortRecord(*row) for row in tx.execute(query.order_by(PORTS.c.mac))]

    def check_free(self, spec: NodeSpec) -> None:
        """Raise :class:`Conflict` when its BMC, a MAC or its name is on record for another server."""
        macs = [port.mac for port in spec.ports]
        bmcs = select(NODES.c.name, NODES.c.bmc).where(or_(NODES.c.bmc == bmc_key(spec.bmc), NODES.c.name == spec.name))
        ports = OWNED_PORTS.where(or_(PORTS.c.mac.in_(macs), NODES.c.name == spec.name))
        conflict = _conflict(spec, self._owners(bmcs, ports))
        if conflict is not None:
            raise conflict

    def conflicts(self, specs: Sequence[NodeSpec]) -> dict[str, Conflict]:
        """What :meth:`check_free` would raise, by name, for many at once."""
        owners = self._owners(select(NODES.c.name, NODES.c.bmc), OWNED_PORTS)
        found = ((spec.name, _conflict(spec, owners)) for spec in specs)
        return {name: conflict for name, conflict in found if conflict is not None}

    def _owners(self, bmcs: Select[Any], ports: Select[Any]) -> _Owners:
        with self._db.read() as tx:
            by_name = {row.name: row.bmc for row in tx.execute(bmcs)}
            by_mac = {row.mac: row.name for row in tx.execute(ports.order_by(PORTS.c.mac))}
        return _Owners({bmc: name for name, bmc in by_name.items()}, by_name, by_mac)

    def add(
        self,
        uuid: str,
        spec: NodeSpec,
        password: str,
        *,
        power: Power,
        facts: Mapping[str, Any],
        pool: Sequence[str],
        now: float,
    ) -> None:
        """Put a verified node on record: ``available``, or ``enrolled`` while its ports are not known.

        ``pool``: addresses that its ports may get.

        :raises Conflict: a BMC, MAC or name belongs to another node, or no address is left.
        """
        with self._db.write(spec.name) as tx:
            self.check_free(spec)
            tx.execute(
                insert(NODES).values(
                    uuid=uuid,
                    name=spec.name,
                    bmc=bmc_key(spec.bmc),
                    spec=spec.model_dump(mode="json"),
                    password_sealed=self._cipher.encrypt(password),
                    state=NodeState.AVAILABLE if spec.ports else NodeState.ENROLLED,
                    power=power,
                    bmc_facts=dict(facts),
                    generation=0,
                    applied=0,
                    asked=0.0,
                    updated=now,
                )
            )
            tx.execute(insert(LEASES).values(node=uuid, holder="", purpose="", expiry=0.0, fence=0))
            self._set_ports(uuid, spec, pool)

    def change(
        self,
        spec: NodeSpec,
        password: str,
        *,
        power: Power,
        facts: Mapping[str, Any],
        pool: Sequence[str],
        now: float,
    ) -> Node:
        """Take over what a verified hardware file says of a node on record.

        :raises Conflict: a BMC or MAC belongs to another node.
        """
        with self._db.write(spec.name) as tx:
            self.check_free(spec)
            node = self.get(spec.name)
            values = {
                "bmc": bmc_key(spec.bmc),
                "spec": spec.model_dump(mode="json"),
                "power": power,
                "bmc_facts": dict(facts),
                "updated": now,
            }
            if password != self.password(spec.name):
                values |= {"password_sealed": self._cipher.encrypt(password), "next_sealed": None, "rotated": None}
            tx.execute(update(NODES).where(NODES.c.uuid == node.uuid).values(values))
            self._set_ports(node.uuid, spec, pool)
            return self.get(spec.name)

    def _set_ports(self, uuid: str, spec: NodeSpec, pool: Sequence[str]) -> None:
        with self._db.write(spec.name) as tx:
            self._set_macs(tx, uuid, spec.name, [port.mac for port in spec.ports], pool)

    def _set_macs(self, tx: Connection, uuid: str, name: str, wanted: list[str], pool: Sequence[str]) -> None:
        tx.execute(delete(PORTS).where(PORTS.c.node == uuid, PORTS.c.mac.not_in(wanted)))
        known = set(tx.execute(select(PORTS.c.mac).where(PORTS.c.node == uuid)).scalars())
        taken = set(tx.execute(select(PORTS.c.address)).scalars())
        free = [address for address in pool if address not in taken]
        for mac in [mac for mac in wanted if mac not in known]:
            if pool and not free:
                raise Conflict(
                    "no address is left for its ports",
                    where=name,
                    cause=f"all {len(pool)} addresses between dhcp_first and dhcp_last are taken",
                    hint="widen the range in the configuration file",
                )
            tx.execute(insert(PORTS).values(mac=mac, node=uuid, address=free.pop(0) if free else None))

    def password(self, name: str) -> str:
        """The BMC's password, for the BMC alone."""
        with self._db.read() as tx:
            sealed = tx.execute(PASSWORD, {"name": name}).scalar_one()
        return self._cipher.decrypt(sealed)

    def open_window(self, name: str, pool: Sequence[str]) -> None:
        """From now on any port that is not on record is taken for one of this node's, and gets an address.

        :raises Conflict: another node's window is open; its name is in ``where``. Or no address is left.
        """
        with self._db.write(name) as tx:
            node = self.get(name)
            holder = self.by_mac(ANY_MAC)
            if holder is not None and holder[0].name != name:
                raise Conflict("the window is another node's", where=holder[0].name)
            if holder is None:
                self._set_macs(tx, node.uuid, name, [ANY_MAC], pool)

    def close_window(self, name: str) -> None:
        with self._db.write(name) as tx:
            uuid = select(NODES.c.uuid).where(NODES.c.name == name).scalar_subquery()
            tx.execute(delete(PORTS).where(PORTS.c.node == uuid, PORTS.c.mac == ANY_MAC))

    def learn_ports(self, name: str, ports: Sequence[Port], pool: Sequence[str], now: float) -> Node:
        """Take on record which ports a node has; its window is closed. :raises Conflict: one is another node's."""
        with self._db.write(name) as tx:
            node = self.get(name)
            spec = node.spec.model_copy(update={"ports": tuple(ports)})
            self.check_free(spec)
            tx.execute(
                update(NODES).where(NODES.c.uuid == node.uuid).values(spec=spec.model_dump(mode="json"), updated=now)
            )
            # The port that booted, the first, uses the window's address at this moment, and keeps it.
            window = (PORTS.c.node == node.uuid, PORTS.c.mac == ANY_MAC)
            tx.execute(update(PORTS).where(*window).values(mac=spec.ports[0].mac))
            self._set_ports(node.uuid, spec, pool)
            return self.get(name)

    def next_password(self, name: str) -> str | None:
        """The one that is about to replace the BMC's, if a rotation was begun and not ended."""
        with self._db.read() as tx:
            sealed = tx.execute(select(NODES.c.next_sealed).where(NODES.c.name == name)).scalar_one()
        return None if sealed is None else self._cipher.decrypt(sealed)

    def begin_rotation(self, name: str, password: str) -> None:
        with self._db.write(name) as tx:
            values = {"next_sealed": self._cipher.encrypt(password)}
            tx.execute(update(NODES).where(NODES.c.name == name).values(values))

    def end_rotation(self, name: str, now: float) -> None:
        """The next password is the BMC's now."""
        with self._db.write(name) as tx:
            values = {"password_sealed": NODES.c.next_sealed, "next_sealed": None, "rotated": now, "updated": now}
            tx.execute(update(NODES).where(NODES.c.name == name, NODES.c.next_sealed.is_not(None)).values(values))

    def drop_rotation(self, name: str) -> None:
        with self._db.write(name) as tx:
            tx.execute(update(NODES).where(NODES.c.name == name).values(next_sealed=None))

    def rotated(self, name: str) -> float | None:
        """When the BMC's password was made here; None when it came from outside."""
        with self._db.read() as tx:
            return tx.execute(select(NODES.c.rotated).where(NODES.c.name == name)).scalar_one_or_none()

    def with_passwords(self) -> list[tuple[Node, str]]:
        """Every node with its BMC's password, for the BMCs alone."""
        with self._db.read() as tx:
            rows = tx.execute(select(*FIELDS).order_by(NODES.c.name)).all()
        return [(self._node(row), self._cipher.decrypt(row.password_sealed)) for row in rows]

    def move(
        self,
        node: Node,
        state: NodeState,
        *,
        now: float,
        deployment: str | None,
        failure: Mapping[str, Any] | None = None,
    ) -> Node:
        """Move a node on, if it is still where the caller saw it.

        :raises Conflict: the move is not legal, or somebody else moved the node meanwhile.
        """
        check_move(node.name, node.state, state)
        with self._db.write(node.name) as tx:
            done = tx.execute(
                update(NODES)
                .where(NODES.c.uuid == node.uuid, NODES.c.state == node.state)
                .where(NODES.c.deployment.is_not_distinct_from(node.deployment))
                .values(
                    state=state,
                    deployment=deployment,
                    failure=None if failure is None else dict(failure),
                    waiting=None,
                    updated=now,
                )
            )
            if done.rowcount != 1:
                raise Conflict(
                    "the node has moved meanwhile", where=node.name, hint=f"provisioner node show {node.name}"
                )
            return self.get(node.name)

    def set_power(self, name: str, power: Power, now: float) -> None:
        """The power as we left it, or as our own command found it: what it is from now on expected to be.
        What an instance said before it went off holds no more; to a sweep, whoever speaks runs."""
        changed = or_(NODES.c.power != power, NODES.c.drift.is_not(None), NODES.c.bmc_error.is_not(None))
        values = {"power": power, "drift": None, "bmc_error": None, "updated": now}
        values |= {"healthy": None} if power is Power.OFF else {}
        with self._db.write(name) as tx:
            tx.execute(update(NODES).where(NODES.c.name == name, changed).values(values))

    def set_seen(self, name: str, power: Power, drift: Mapping[str, Any] | None, now: float) -> None:
        """The power as a sweep saw it, and whether that is other than expected."""
        values = {"power": power, "drift": drift, "bmc_error": None, "updated": now}
        with self._db.write(name) as tx:
            tx.execute(update(NODES).where(NODES.c.name == name).values(values))

    def set_bmc_error(self, name: str, error: Mapping[str, Any], now: float) -> None:
        """A sweep could not ask the node's controller."""
        with self._db.write(name) as tx:
            tx.execute(update(NODES).where(NODES.c.name == name).values(bmc_error=dict(error), updated=now))

    def set_hardware(self, name: str, hardware: HardwareReport, now: float) -> None:
        """What a ramdisk found. Only an inspection tries KVM: its word stays as long as it is the same machine."""
        with self._db.write(name) as tx:
            known = self.get(name).hardware
            if hardware.kvm is None and known is not None and known.uuid == hardware.uuid:
                hardware = hardware.model_copy(update={"kvm": known.kvm})
            values = {"hardware": hardware.model_dump(mode="json"), "updated": now}
            tx.execute(update(NODES).where(NODES.c.name == name).values(values))

    def set_test(self, name: str, part: HardwarePart, result: HardwareTest) -> None:
        """The newest result of one hardware test; the others stay."""
        with self._db.write(name) as tx:
            tests = self.get(name).tests | {part: result}
            values = {"tests": {str(key): value.model_dump(mode="json") for key, value in tests.items()}}
            tx.execute(update(NODES).where(NODES.c.name == name).values(values | {"updated": result.at}))

    def set_health(self, name: str, applied: int, healthy: bool | None, now: float) -> None:
        """What the node has in force, and how it is, since now."""
        values = {"applied": applied, "healthy": healthy, "since": now, "updated": now}
        with self._db.write(name) as tx:
            tx.execute(update(NODES).where(NODES.c.name == name).values(values))

    def set_heard(self, heard: Mapping[str, int]) -> None:
        """The generations that instances have fetched and proved, by their nodes' names; older ones change nothing."""
        if not heard:
            return
        with self._db.write(*heard) as tx:
            tx.execute(HEARD, [{"node": name, "now": generation} for name, generation in heard.items()])

    def set_failure(self, name: str, failure: Mapping[str, Any] | None, now: float) -> None:
        """What is wrong with a node whose state stays as it is."""
        with self._db.write(name) as tx:
            tx.execute(
                update(NODES)
                .where(NODES.c.name == name)
                .values(failure=None if failure is None else dict(failure), updated=now)
            )

    def set_maintenance(self, name: str, maintenance: Mapping[str, Any] | None, now: float) -> None:
        """Why a node is left alone from now on; with None it is not any more, and its waiting begins anew."""
        values = {"maintenance": None if maintenance is None else dict(maintenance), "asked": now, "updated": now}
        with self._db.write(name) as tx:
            tx.execute(update(NODES).where(NODES.c.name == name).values(values))

    def set_waiting(self, name: str, reason: str | None, now: float) -> None:
        """Why the node's instance waits, and when it last asked."""
        with self._db.write(name) as tx:
            tx.execute(update(NODES).where(NODES.c.name == name).values(waiting=reason, asked=now))

    def note_spoke(self, name: str, now: float, after: float) -> None:
        """The node's instance asked for a permit; noted when ``after`` seconds have passed since the last time."""
        with self._db.write(name) as tx:
            tx.execute(update(NODES).where(NODES.c.name == name, NODES.c.spoke < now - after).values(spoke=now))

    def waiting(self, name: str) -> tuple[str | None, float]:
        """(why the node's instance waits, when it last asked)."""
        with self._db.read() as tx:
            row = tx.execute(select(NODES.c.waiting, NODES.c.asked).where(NODES.c.name == name)).one()
        return row.waiting, row.asked

    def all_waiting(self) -> dict[str, str]:
        """Why instances wait, by their nodes' names."""
        query = select(NODES.c.name, NODES.c.waiting).where(NODES.c.waiting.is_not(None))
        with self._db.read() as tx:
            return {row.name: row.waiting for row in tx.execute(query)}

    def remove(self, name: str) -> None:
        """Forget a node with its ports, tokens, metadata and reports."""
        with self._db.write(name) as tx:
            tx.execute(delete(NODES).where(NODES.c.name == name))

    def _node(self, row: Any) -> Node:
        """What we wrote ourselves is not validated again."""
        return Node.model_construct(
            uuid=row.uuid,
            spec=self._spec(row.spec),
            state=NodeState(row.state),
            power=Power(row.power),
            deployment=row.deployment,
            hardware=None if row.hardware in (None, NULL) else self._hardware(row.hardware),
            bmc_facts=row.bmc_facts,
            generation=row.generation,
            applied=row.applied,
            healthy=row.healthy,
            failure=row.failure,
            updated=row.updated,
            drift=row.drift,
            bmc_error=row.bmc_error,
            tests={HardwarePart(key): HardwareTest.model_validate(value) for key, value in (row.tests or {}).items()},
            maintenance=row.maintenance,
            heard=row.heard,
        )


@dataclass(frozen=True)
class _Owners:
    """Names of nodes by what is theirs, and BMCs by name."""

    bmcs: Mapping[str, str]
    names: Mapping[str, str]
    macs: Mapping[str, str]


def _conflict(spec: NodeSpec, owners: _Owners) -> Conflict | None:
    key, macs = bmc_key(spec.bmc), [port.mac for port in spec.ports]
    owner = owners.bmcs.get(key, spec.name)
    if owner != spec.name:
        return _taken(spec.name, f"the BMC {spec.bmc.address}:{spec.bmc.port}", owner)
    for mac in sorted(macs):
        if (owner := owners.macs.get(mac, spec.name)) != spec.name:
            return _taken(spec.name, f"the MAC address {mac}", owner)
    known = owners.names.get(spec.name, key)
    if known == key or any(owners.macs.get(mac) == spec.name for mac in macs):
        return None
    return Conflict(
        "the name belongs to another server",
        where=spec.name,
        cause=f"on record it has the BMC {known} and none of these MAC addresses",
        hint=f"give this server another name, or: provisioner node forget {spec.name}",
    )


def _taken(name: str, what: str, owner: str) -> Conflict:
    return Conflict(
        f"{what} belongs to another node",
        where=name,
        cause=f"{owner} has it on record",
        hint=f"correct the hardware file, or: provisioner node forget {owner}",
    )
