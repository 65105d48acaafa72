"""A site in one file, and back: nobody is offered an older generation, and nothing that is there is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import Rack, Rot, cloud
from records import records_url

from provisioner.errors import Conflict, UsageError
from provisioner.events import Event
from provisioner.model.departure import DepartureState
from provisioner.model.hardware import BmcAddress, NodeSpec, Port, Power, SecretRef
from provisioner.server.backup import read_about, restore_backup, write_backup
from provisioner.store.restore import JUMP, copy_records
from provisioner.store.store import Store
from provisioner.system.clock import FakeClock
from provisioner.system.settings import Settings
from provisioner.trust.keys import SiteKeys


def site(folder: Path) -> Settings:
    return Settings(state_dir=folder / "state", run_dir=folder / "run")


@pytest.fixture
def first(tmp_path: Path) -> Settings:
    """A site with one node, whose password is sealed with the site's key."""
    settings = site(tmp_path / "first")
    store = Store(settings.database, SiteKeys.ensure(settings.keys))
    bmc = BmcAddress(address="10.0.0.1", username="admin", password=SecretRef(file="/x"))
    spec = NodeSpec(name="node1", bmc=bmc, ports=(Port(mac="52:54:00:00:00:01"),))
    store.nodes.add("u1", spec, "hunter2", power=Power.OFF, facts={}, pool=(), now=1.0)
    store.close()
    return settings


def test_what_was_written_is_there_again(first: Settings, tmp_path: Path) -> None:
    target = tmp_path / "site.backup"
    made = write_backup(first, target, FakeClock())
    assert target.stat().st_mode & 0o777 == 0o600 and b"hunter2" not in target.read_bytes()
    assert read_about(target) == made and made.nodes == 1
    second = site(tmp_path / "second")
    about, failed = restore_backup(second, target, FakeClock())
    assert (about, failed) == (made, 0)
    store = Store(second.database, SiteKeys.ensure(second.keys))
    assert store.nodes.password("node1") == "hunter2"
    assert [record.event.kind for record in store.events.since(0, 10)] == ["site.restored"]
    store.close()
    assert sorted(path.name for path in second.state_dir.iterdir()) == ["keys", "provisioner.db"], (
        "nothing is left over"
    )
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_records_are_copied_row_by_row_to_another_database(tmp_path: Path) -> None:
    """As they are when one of the two is PostgreSQL; with TEST_DATABASE both are."""
    rack = Rack(tmp_path, 2)
    rack.enroll()
    rack.apply()
    rack.play()
    other = Store(records_url(tmp_path, "other"), Rot())
    rack.store.copy_to(other)
    for read in (
        lambda store: [node.model_dump() for node in store.nodes.all()],
        lambda store: [deployment.model_dump() for deployment in store.deployments.live()],
        lambda store: store.nodes.ports(),
        lambda store: store.events.since(0, 10_000),
        lambda store: [store.clouds.document(store.clouds.newest(name)) for name in ("node1", "node2")],
        lambda store: store.clouds.secret("lab", "web_password"),
    ):
        assert read(other) == read(rack.store)
    last = other.events.since(0, 10_000)[-1].id
    other.events.add(Event("a.test", "after"), 1.0)
    assert other.events.since(last, 10)[0].id == last + 1
    with pytest.raises(Conflict, match="records already"):
        rack.store.copy_to(other)
    other.close()


def test_nothing_that_is_there_is_overwritten(first: Settings, tmp_path: Path) -> None:
    target = tmp_path / "site.backup"
    write_backup(first, target, FakeClock())
    before = first.records.read_bytes()
    with pytest.raises(Conflict, match="not overwritten"):
        restore_backup(first, target, FakeClock())
    with pytest.raises(Conflict, match="there is such a file"):
        write_backup(first, target, FakeClock())
    assert first.records.read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "text", "none", "other"])
def test_what_is_no_backup_is_refused_and_leaves_nothing(first: Settings, tmp_path: Path, damage: str) -> None:
    target = tmp_path / "site.backup"
    write_backup(first, target, FakeClock())
    if damage == "none":
        target.unlink()
    elif damage == "text":
        target.write_text("records")
    elif damage == "other":
        target.write_bytes(b"\x28\xb5\x2f\xfd")
    else:
        target.write_bytes(target.read_bytes()[:100])
    second = site(tmp_path / "second")
    with pytest.raises(UsageError):
        restore_backup(second, target, FakeClock())
    assert not second.records.exists() and not second.keys.exists()


def test_an_instance_is_never_offered_an_older_generation(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 2)
    rack.enroll()
    rack.apply()
    rack.play()
    copy_records(tmp_path / "rack.db", tmp_path / "copy.db")
    for size in (2, 3):  # what the copy does not know
        rack.apply(cloud(2, values={"web": {"size": size}}))
        rack.play()
    assert {server.applied for server in rack.servers.values()} == {3}
    rack.store.close()
    for path in tmp_path.glob("rack.db*"):
        path.unlink()
    (tmp_path / "copy.db").rename(tmp_path / "rack.db")
    rack.restart()
    rack.desired = cloud(2)
    assert rack.store.make_fresh() == 0
    rack.play()
    assert {server.applied for server in rack.servers.values()} == {1 + JUMP}
    newest = rack.store.clouds.newest("node1")
    assert newest is not None and rack.store.clouds.document(newest)["generation"] == 1 + JUMP
    rack.apply(cloud(2, values={"web": {"size": 4}}))
    rack.play()
    assert {server.applied for server in rack.servers.values()} == {2 + JUMP}


def test_what_was_at_work_has_failed_and_is_tried_again(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    rack.play(until=lambda: rack.servers["node1"].greeted)
    assert rack.store.make_fresh() == 1
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None and failure["hint"] == "provisioner node retry node1"
    rack.conductor.verb("node1", "retry")
    rack.play()
    assert rack.states() == {"node1": "active"}


@pytest.mark.parametrize("drained", [False, True])
def test_who_was_to_leave_stays_until_an_operator_says_so_again(tmp_path: Path, drained: bool) -> None:
    rack = Rack(tmp_path, 2)
    for server in rack.servers.values():
        server.drain_scripts, server.drain = 1, "never"
    rack.enroll()
    rack.apply()
    rack.play()
    rack.apply(cloud(1, remove=("web-1",)))
    if drained:
        rack.play(until=lambda: bool(rack.servers["node2"].drains))
    rack.store.make_fresh()
    rack.servers["node2"].drain = "drained"
    rack.play()
    (departure,) = rack.store.departures.all("lab")
    assert rack.states()["node2"] == "active" and departure.state is DepartureState.FAILED
    failure = rack.conductor.node("node2").node.failure
    assert failure is not None and failure == departure.failure and "cloud resume lab" in failure["hint"]
    rack.conductor.resume("lab")
    rack.play()
    assert rack.states()["node2"] == "available" and rack.store.departures.all() == []
