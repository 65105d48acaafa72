"""A ramdisk proves by the event log of its node's controller which server it runs on."""

from __future__ import annotations

from pathlib import Path

from conductor_rack import Rack

from provisioner_agent.protocol.auth import build_record


def rack_of(folder: Path) -> Rack:
    rack = Rack(folder, 2, prove_by_bmc=True)
    rack.enroll()
    rack.apply()
    return rack


def failure(rack: Rack) -> dict[str, str]:
    rack.play(until=lambda: rack.states()["node1"] == "failed", rounds=200)
    found = rack.conductor.node("node1").node.failure
    assert found is not None
    return found


def hello(rack: Rack, **more: object) -> None:
    """Somebody has fetched the boot script of node1 in its place, and speaks for it."""
    rack.conductor.tick()
    server = rack.servers["node1"]
    script = rack.conductor.boot_script(server.mac, "10.77.0.66")
    assert script is not None and "provisioner.prove=1" in script
    ident = script.partition("provisioner.token=")[2].partition(".")[0]
    said = {"boot_id": "x", "secret": "s" * 43, "hardware": rack.hardware(server)}
    rack.conductor.hello(ident, said | more, "10.77.0.66")
    server.running = "nothing"


def test_the_right_server_is_let_in(tmp_path: Path) -> None:
    rack = rack_of(tmp_path)
    rack.play()
    assert set(rack.states().values()) == {"active"}
    assert sum("ramdisk.proved" in event for event in rack.events()) == 2


def test_another_machine_with_the_same_mac_is_found_out(tmp_path: Path) -> None:
    rack = rack_of(tmp_path)
    rack.servers["node1"].event_log[7] = build_record("another")
    rack.servers["node2"].event_log[7] = build_record("s" * 43)
    hello(rack, proof=7)
    assert "does not run on this node" in failure(rack)["summary"]
    assert rack.servers["node1"].orders == [], "it was told nothing"
    rack.conductor.verb("node1", "retry")
    rack.play()
    assert rack.states()["node1"] == "active"


def test_who_says_nothing_of_it_is_refused(tmp_path: Path) -> None:
    rack = rack_of(tmp_path)
    hello(rack)
    assert "cannot prove" in failure(rack)["summary"]


def test_a_server_that_cannot_write_there_is_told_why(tmp_path: Path) -> None:
    rack = rack_of(tmp_path)
    hello(rack, proof="the server has no controller that answers from inside")
    found = failure(rack)
    assert "cannot prove" in found["summary"] and "no controller" in found["cause"] and "prove_by_bmc" in found["hint"]


def test_without_the_option_nothing_is_written_or_asked(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    rack.play()
    assert rack.states() == {"node1": "active"} and rack.servers["node1"].event_log == {}
