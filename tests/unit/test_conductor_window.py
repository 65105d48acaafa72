"""Ports that nobody listed: found out in a window that is open for one node alone, and only for the right server."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from conductor_rack import PASSWORD, Rack

from provisioner.errors import TrustError
from provisioner.model.status import EnrollItem
from provisioner.plan.identity import same_machine
from provisioner.store.nodes import ANY_MAC

STRANGER = "52:54:00:99:99:99"


def rack_of(folder: Path, count: int) -> Rack:
    rack = Rack(folder, count)
    for server in rack.servers.values():
        server.unknown_ports = True
    rack.enroll()
    return rack


def ports(rack: Rack) -> dict[str, tuple[str, ...]]:
    return {node.name: tuple(port.mac for port in node.spec.ports) for node in rack.conductor.nodes()}


def window(rack: Rack) -> list[str]:
    return [record.node for record in rack.conductor.ports() if record.mac == ANY_MAC]


def settled(rack: Rack) -> bool:
    return set(rack.states().values()) <= {"available", "enrolled", "failed"}


def test_a_node_without_ports_is_enrolled_and_known_after_an_inspection(tmp_path: Path) -> None:
    rack = rack_of(tmp_path, 1)
    assert rack.states() == {"node1": "enrolled"}
    assert rack.conductor.boot_script(STRANGER) is None
    rack.conductor.inspect("node1")
    rack.play(until=lambda: bool(window(rack)))
    (address,) = [record.address for record in rack.conductor.ports()]
    rack.play(until=lambda: settled(rack))
    assert rack.states() == {"node1": "available"}
    mac = rack.servers["node1"].mac
    assert ports(rack) == {"node1": (mac, "52:54:00:88:00:01")}, "the port that booted comes first"
    assert {record.mac: record.address for record in rack.conductor.ports()}[mac] == address
    assert window(rack) == [] and rack.conductor.boot_script(STRANGER) is None


def test_windows_are_open_one_at_a_time(tmp_path: Path) -> None:
    rack = rack_of(tmp_path, 3)
    for name in rack.servers:
        rack.conductor.inspect(name)
    most = 0

    def watch() -> bool:
        nonlocal most
        most = max(most, len(window(rack)))
        waiting = [event for event in rack.events() if "window" in event]
        return settled(rack) and bool(waiting)

    rack.play(until=watch, rounds=120)
    assert most == 1
    assert all(len(found) == 2 for found in ports(rack).values())


def test_another_server_in_the_window_is_refused_and_named(tmp_path: Path) -> None:
    rack = rack_of(tmp_path, 1)
    rack.conductor.inspect("node1")
    rack.play(until=lambda: bool(window(rack)))
    token = rack.store.tokens.token(rack.conductor.nodes()[0].deployment or "", "boot")
    assert token is not None
    ident = token.partition(".")[0]
    hardware = rack.hardware(rack.servers["node1"]) | {"uuid": str(uuid.uuid4()), "product": "Stranger 1"}
    with pytest.raises(TrustError, match="not the server that is waited for"):
        rack.conductor.hello(ident, {"boot_id": "x", "secret": "s" * 43, "hardware": hardware})
    assert any("window.stranger" in event and "Stranger 1" in event for event in rack.events())
    rack.play(until=lambda: settled(rack))
    assert rack.states() == {"node1": "available"}, "the right one is still recognised"


def test_a_controller_without_a_number_is_known_by_its_address_inside(tmp_path: Path) -> None:
    rack = rack_of(tmp_path, 1)
    server = rack.servers["node1"]
    rack.conductor.inspect("node1")
    rack.play(until=lambda: bool(window(rack)))
    server.says_uuid = False
    rack.play(until=lambda: any("window.stranger" in event for event in rack.events()))
    server.bmc_inside = server.spec.bmc.address
    rack.play(until=lambda: settled(rack))
    assert rack.states() == {"node1": "available"}


def test_an_abort_and_a_failure_close_the_window(tmp_path: Path) -> None:
    rack = rack_of(tmp_path, 1)
    rack.conductor.inspect("node1")
    rack.play(until=lambda: bool(window(rack)))
    rack.conductor.verb("node1", "abort")
    assert window(rack) == []
    rack.play(until=lambda: settled(rack))
    assert rack.states() == {"node1": "enrolled"}
    rack.servers["node1"].fail_orders["inspect"] = "no"
    rack.servers["node1"].device = rack.servers["node1"].device
    rack.conductor.inspect("node1")
    rack.play(until=lambda: settled(rack))
    assert rack.states() == {"node1": "failed"} and window(rack) == []


def test_enrolling_again_keeps_the_ports_that_were_found(tmp_path: Path) -> None:
    rack = rack_of(tmp_path, 1)
    rack.conductor.inspect("node1")
    rack.play(until=lambda: settled(rack))
    found = ports(rack)
    (result,) = rack.conductor.enroll([EnrollItem(spec=rack.servers["node1"].spec, password=PASSWORD)])
    assert result.result == "unchanged" and ports(rack) == found


NUMBER = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")


@pytest.mark.parametrize(
    ("guid", "same"),
    [
        (NUMBER.hex, True),
        (NUMBER.bytes_le.hex(), True),
        (NUMBER.bytes[::-1].hex(), True),
        (NUMBER.bytes_le[::-1].hex(), True),
        (uuid.uuid5(NUMBER, "another").hex, False),
        ("0" * 32, None),
        ("f" * 32, None),
        (None, None),
        ("12", None),
    ],
)
def test_a_controllers_number_is_compared_in_all_orders(guid: str | None, same: bool | None) -> None:
    assert same_machine(guid, str(NUMBER)) is same


def test_a_server_without_a_number_cannot_be_told() -> None:
    assert same_machine(NUMBER.hex, "") is None
    assert same_machine(NUMBER.hex, "Not Settable") is None
