"""A scan finds what answers, and takes nothing else for a controller."""

from __future__ import annotations

import socket
import threading

import pytest

from provisioner.bmc.scan import Found, parse_network, scan
from provisioner.errors import UsageError
from provisioner.lab.bmcs import Faults, SimulatedBmc, SimulatedRack


@pytest.mark.parametrize(
    ("text", "count"), [("10.0.4.0/24", 254), ("10.0.4.17/32", 1), ("10.0.4.9/30", 2), ("fd00::/126", 3)]
)
def test_a_network_is_its_hosts(text: str, count: int) -> None:
    assert len(parse_network(text)) == count


@pytest.mark.parametrize("text", ["10.0.0.0/8", "rack-a", "10.0.4.0/33", ""])
def test_what_is_none_or_too_large_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_network(text)


def test_who_answers_ipmi_is_found(closed_port: int) -> None:
    with SimulatedRack([SimulatedBmc({})]) as rack:
        found = list(scan(["127.0.0.1"], {"ipmi": rack.ports[0], "redfish": closed_port}))
    assert found == [Found("127.0.0.1", ("ipmi",))]


def test_noise_and_silence_are_no_controllers(closed_port: int) -> None:
    for faults in (Faults(silent=True), Faults(garbage=True)):
        with SimulatedRack([SimulatedBmc({}, faults=faults)]) as rack:
            assert list(scan(["127.0.0.1"], {"ipmi": rack.ports[0], "redfish": closed_port})) == []


def test_a_server_that_is_no_redfish_is_left_out(closed_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=lambda: [door.accept()[0].close() for _ in range(2)])
        thread.start()
        assert list(scan(["127.0.0.1"], {"ipmi": closed_port, "redfish": door.getsockname()[1]})) == []
        thread.join()


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])
