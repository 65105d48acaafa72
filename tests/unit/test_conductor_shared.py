"""Two conductors on the same records: no node is commanded by both, and what one leaves behind the other takes over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conductor_rack import AUTHORITY, SIGNER, Controllers, Rack, Server, cloud, role
from records import records_url
from test_store_records import Rot

from provisioner.conductor.conductor import Conductor
from provisioner.conductor.presence import LEASE_SECONDS
from provisioner.errors import Conflict, TrustError
from provisioner.model.hardware import Power
from provisioner.store.conductors import ALIVE_SECONDS, ConductorRecord, Conductors
from provisioner.store.database import Database
from provisioner.store.store import Store

NOW = 1_700_000_000.0


class Watched:
    """The rack's controllers, as one conductor reaches them: who commanded which node when is kept."""

    def __init__(self, controllers: Controllers, who: str, commands: dict[str, list[str]]) -> None:
        self._controllers, self._who, self._commands = controllers, who, commands

    def set_power(self, bmc: Any, *rest: Any) -> Any:
        self._commands[bmc.address].append(self._who)
        return self._controllers.set_power(bmc, *rest)

    def set_boot_device(self, bmc: Any, *rest: Any) -> Any:
        self._commands[bmc.address].append(self._who)
        return self._controllers.set_boot_device(bmc, *rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._controllers, name)


class Pair:
    """A rack, and a conductor beside its own."""

    def __init__(self, folder: Path, count: int) -> None:
        self.rack = Rack(folder, count, cloud(count, (role(at_a_time=count),)))
        self.commands: dict[str, list[str]] = defaultdict(list)
        self.first = self._conductor(self.rack.store, "first")
        self.store = Store(records_url(folder, "rack"), Rot())
        self.second = self._conductor(self.store, "second")

    def _conductor(self, store: Store, name: str) -> Conductor:
        settings = replace(self.rack.settings, name=name)
        bmcs: Any = Watched(self.rack.bmcs, name, self.commands)
        return Conductor(store, bmcs, self.rack.images, settings, AUTHORITY, SIGNER, clock=self.rack.clock)

    def play(self, *ticks: Callable[[], None], until: Callable[[], bool], rounds: int = 80) -> None:
        for _ in range(rounds):
            if until():
                return
            for tick in ticks:
                tick()
            for server in self.rack.servers.values():
                self.rack.live(server)
            self.rack.clock.sleep(3)
        raise AssertionError(self.rack.states())

    def holders(self) -> dict[str, str]:
        return {name: self.store.leases.get(name)[0] for name in self.rack.servers}


def half(pair: Pair) -> None:
    """Each begins with its half of the nodes, as the chance of a moment would have it."""
    names = list(pair.rack.servers)
    for number, name in enumerate(names):
        pair.store.leases.take(name, ("first", "second")[number % 2], "deploy", pair.rack.clock.now(), LEASE_SECONDS)


def test_no_node_is_commanded_by_both(tmp_path: Path) -> None:
    pair = Pair(tmp_path, 6)
    pair.rack.enroll()
    pair.rack.apply()
    half(pair)
    pair.play(pair.first.tick, pair.second.tick, until=lambda: set(pair.rack.states().values()) == {"active"})
    assert {len(set(who)) for who in pair.commands.values()} == {1}
    assert {who for commands in pair.commands.values() for who in commands} == {"first", "second"}
    assert {server.boots for server in pair.rack.servers.values()} == {1}


@pytest.mark.parametrize("rounds", range(0, 12, 3))
def test_the_nodes_of_one_that_died_are_left_alone_until_its_leases_have_run_out(tmp_path: Path, rounds: int) -> None:
    pair = Pair(tmp_path, 4)
    pair.rack.enroll()
    pair.rack.apply()
    half(pair)
    for _ in range(rounds):
        pair.first.tick()
        pair.second.tick()
        for server in pair.rack.servers.values():
            pair.rack.live(server)
        pair.rack.clock.sleep(1)
    theirs = [name for name, holder in pair.holders().items() if holder == "first"]
    died, before = pair.rack.clock.now(), {name: list(who) for name, who in pair.commands.items()}

    def early() -> bool:
        return pair.rack.clock.now() - died > LEASE_SECONDS - 6

    pair.play(pair.second.tick, until=early)
    for name in theirs:
        address = pair.rack.servers[name].spec.bmc.address
        assert pair.commands[address] == before.get(address, []), "nobody touches it yet"
    pair.play(pair.second.tick, until=lambda: set(pair.rack.states().values()) == {"active"})
    assert {server.boots for server in pair.rack.servers.values()} == {1}, "it went on where the other was"


def test_a_conductor_that_ends_by_itself_leaves_its_nodes_at_once(tmp_path: Path) -> None:
    pair = Pair(tmp_path, 2)
    pair.rack.enroll()
    pair.rack.apply()
    pair.first.tick()
    assert set(pair.holders().values()) == {"first"}
    pair.rack.store.conductors.leave("first")
    pair.second.tick()
    assert set(pair.holders().values()) == {"second"}


def test_the_boot_script_of_a_living_conductor_is_not_void_at_another(tmp_path: Path) -> None:
    """Whoever asks the second conductor after the first has served the node is no node."""
    pair = Pair(tmp_path, 1)
    pair.rack.enroll()
    pair.rack.apply()
    server = pair.rack.servers["node1"]
    for name in ("first", "second"):
        pair.store.conductors.join(ConductorRecord(name, f"host:{name}", "", "1", pair.rack.clock.now()))
    switch_on(pair, server)
    script = pair.first.boot_script(server.mac, "10.77.0.100")
    assert script is not None and "provisioner.token=" in script
    again = pair.second.boot_script(server.mac, "10.77.0.66")
    assert again is not None and "provisioner.token=" not in again
    pair.play(pair.first.tick, until=lambda: pair.rack.states()["node1"] == "failed")
    failure = pair.second.node("node1").node.failure
    assert failure is not None and "asked for twice" in failure["summary"] and "10.77.0.66" in failure["cause"]


def test_the_boot_script_of_a_conductor_that_died_is_void(tmp_path: Path) -> None:
    pair = Pair(tmp_path, 1)
    pair.rack.enroll()
    pair.rack.apply()
    server = pair.rack.servers["node1"]
    switch_on(pair, server)
    first = pair.first.boot_script(server.mac, "10.77.0.100")
    pair.store.conductors.join(ConductorRecord("second", "host:second", "", "1", pair.rack.clock.now()))
    second = pair.second.boot_script(server.mac, "10.77.0.100")
    assert first is not None and second is not None and "provisioner.token=" in second and first != second


def switch_on(pair: Pair, server: Server) -> None:
    """Up to the moment when its firmware asks for the boot script."""
    for _ in range(20):
        if server.power is Power.ON:
            return
        pair.first.tick()
        pair.rack.clock.sleep(1)
    raise AssertionError("it was not switched on")


def joined(tmp_path: Path, cipher: Any = None) -> Conductors:
    return Conductors(Database(records_url(tmp_path)), cipher or Rot())


def record(name: str = "seed-1", place: str = "seed-1:/run", seen: float = NOW) -> ConductorRecord:
    return ConductorRecord(name, place, "https://10.0.0.1:8081", "1.0", seen)


def test_a_name_has_one_conductor(tmp_path: Path) -> None:
    Store(records_url(tmp_path), Rot()).close()
    conductors = joined(tmp_path)
    conductors.join(record())
    conductors.join(record(seen=NOW + 1))  # killed and started again in the same place
    with pytest.raises(Conflict, match=r"\[conductor\] name|another conductor"):
        conductors.join(record(place="seed-2:/run", seen=NOW + 2))
    conductors.join(record(place="seed-2:/run", seen=NOW + 2 + ALIVE_SECONDS))
    assert [found.place for found in conductors.all()] == ["seed-2:/run"]


def test_a_conductor_with_other_keys_is_refused(tmp_path: Path) -> None:
    class Other(Rot):
        def decrypt(self, token: str) -> str:
            raise TrustError("a secret on record cannot be decrypted")

    Store(records_url(tmp_path), Rot()).close()
    joined(tmp_path).join(record())
    with pytest.raises(TrustError) as caught:
        joined(tmp_path, Other()).join(record("seed-2", "seed-2:/run"))
    assert "seed-1" in str(caught.value.hint)
