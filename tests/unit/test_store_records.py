"""The records: migrations, transactions, leases, sealed columns, and two processes on one file."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from records import SERVER, records_url
from sqlalchemy import create_engine

from provisioner.errors import Conflict, HostError, LeaseLost, NotFound, TrustError
from provisioner.events import Event
from provisioner.model.deployment import Address, DeploymentState, Placement, StepName, StepState
from provisioner.model.hardware import BmcAddress, Firmware, HardwareReport, NodeSpec, Port, Power, SecretRef
from provisioner.model.states import NodeState
from provisioner.store.database import EVERYTHING, Database
from provisioner.store.schema import METADATA
from provisioner.store.store import Store
from provisioner_agent.protocol.parts import part_id, write_part

NOW = 1_700_000_000.0


class Rot:
    """Unreadable enough to see in a test that it was sealed."""

    def encrypt(self, text: str) -> str:
        return "sealed:" + base64.b64encode(text.encode()[::-1]).decode()

    def decrypt(self, token: str) -> str:
        return base64.b64decode(token.removeprefix("sealed:")).decode()[::-1]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return records_url(tmp_path)


@pytest.fixture
def store(url: str) -> Any:
    opened = Store(url, Rot())
    yield opened
    opened.close()


def spec(name: str = "node1", last: int = 1, **more: Any) -> NodeSpec:
    fields: dict[str, Any] = {
        "name": name,
        "bmc": BmcAddress(address=f"192.0.2.{last}", username="admin", password=SecretRef(env="BMC")),
        "ports": (Port(mac=f"52:54:00:00:00:{last:02x}"),),
    }
    return NodeSpec(**fields | more)


def enroll(store: Store, name: str = "node1", last: int = 1) -> None:
    pool = ["10.0.0.100", "10.0.0.101"]
    store.nodes.add(f"uuid-{name}", spec(name, last), "hunter2", power=Power.OFF, facts={}, pool=pool, now=NOW)


def test_what_an_inspection_tried_stays_until_another_machine_is_there(store: Store) -> None:
    enroll(store)
    seen = HardwareReport(cpus=2, memory_mib=4096, firmware=Firmware.UEFI, uuid="one")
    for report, kvm in (
        (seen, None),
        (seen.model_copy(update={"kvm": True}), True),
        (seen, True),
        (seen.model_copy(update={"kvm": False}), False),
        (seen.model_copy(update={"uuid": "two"}), None),
    ):
        store.nodes.set_hardware("node1", report, NOW)
        known = store.nodes.get("node1").hardware
        assert known == report.model_copy(update={"kvm": kvm})


def placement(node: str = "node1", hostname: str = "web-0") -> Placement:
    address = Address(network="main", address="10.0.0.20/24", mac="52:54:00:00:00:01")
    return Placement(
        cloud="lab", role="web", index=0, hostname=hostname, node=node, image="web-000000000000", addresses=(address,)
    )


def test_migrations_make_the_schema_that_is_written_down(store: Store, url: str) -> None:
    engine = create_engine(url)
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), METADATA)
    engine.dispose()
    assert differences == []


def test_opening_twice_changes_nothing_and_a_newer_schema_is_refused(store: Store, url: str) -> None:
    enroll(store)
    again = Store(url, Rot())
    assert [node.name for node in again.nodes.all()] == ["node1"]
    again.close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(HostError) as caught:
        Store(url, Rot())
    assert "9999" in str(caught.value) and caught.value.hint


def test_a_transaction_is_all_or_nothing_and_is_announced_once(store: Store) -> None:
    heard: list[int] = []
    unsubscribe = store.listen(lambda topics: heard.append(1))
    with store.transaction():
        enroll(store)
        store.events.add(Event("node.enrolled", "node1 is on record", "node1"), NOW)
    assert len(heard) == 1
    with pytest.raises(NotFound), store.transaction():
        enroll(store, "node2", 2)
        store.nodes.get("nobody")
    assert [node.name for node in store.nodes.all()] == ["node1"]
    with store.transaction():
        store.nodes.get("node1")
        store.nodes.set_power("node1", Power.OFF, NOW)
    assert len(heard) == 1, "it was off: nothing changed"
    unsubscribe()
    enroll(store, "node2", 2)
    assert len(heard) == 1


def test_a_view_is_of_one_moment(store: Store, url: str) -> None:
    other = Store(url, Rot())
    enroll(store)
    with store.view():
        assert store.nodes.get("node1").power is Power.OFF
        other.nodes.set_power("node1", Power.ON, NOW)
        assert store.nodes.get("node1").power is Power.OFF
    assert store.nodes.get("node1").power is Power.ON
    other.close()


def test_what_two_processes_write_is_seen_by_both(store: Store, url: str) -> None:
    other = Store(url, Rot())
    enroll(store)
    assert other.nodes.get("node1").state is NodeState.AVAILABLE
    other.nodes.set_power("node1", Power.ON, NOW)
    assert store.nodes.get("node1").power is Power.ON
    other.close()


def test_a_server_is_on_record_once(store: Store) -> None:
    enroll(store)
    with pytest.raises(Conflict) as caught:
        store.nodes.check_free(spec("twin", 1))
    assert "192.0.2.1" in str(caught.value)
    with pytest.raises(Conflict) as caught:
        store.nodes.check_free(spec("twin", 2, ports=(Port(mac="52:54:00:00:00:01"),)))
    assert "52:54:00:00:00:01" in str(caught.value)
    with pytest.raises(Conflict) as caught:
        store.nodes.check_free(spec("node1", 2))
    assert "name" in caught.value.summary
    store.nodes.check_free(spec("node1", 1))


def test_ports_get_the_lowest_free_address_and_keep_it(store: Store) -> None:
    enroll(store)
    enroll(store, "node2", 2)
    assert [port.address for port in store.nodes.ports()] == ["10.0.0.100", "10.0.0.101"]
    with pytest.raises(Conflict) as caught:
        enroll(store, "node3", 3)
    assert "dhcp_last" in str(caught.value)
    assert store.nodes.find("node3") is None
    store.nodes.remove("node1")
    enroll(store, "node3", 3)
    assert {port.node: port.address for port in store.nodes.ports()} == {"node2": "10.0.0.101", "node3": "10.0.0.100"}


@pytest.mark.skipif(bool(SERVER), reason="looks into SQLite's file")
def test_a_secret_is_kept_before_its_cloud_is_and_made_only_where_there_is_none(store: Store) -> None:
    store.clouds.put_secret("lab", "brought", "one")
    store.clouds.put_secret("lab", "brought", "two")
    store.clouds.put_secret("other", "brought", "three")
    store.clouds.ensure_secrets("lab", ("made", "brought"), lambda: "fresh")
    store.clouds.ensure_secrets("lab", ("made",), lambda: "fresher")
    assert store.clouds.secrets("lab") == {"brought": "two", "made": "fresh"}
    assert store.clouds.secret_names("lab") == {"brought", "made"}
    with pytest.raises(NotFound, match="the cloud has no secret gone") as caught:
        store.clouds.secret("lab", "gone")
    assert "--set-file FILE" in str(caught.value.hint)


def test_secrets_are_sealed_in_the_file(store: Store, tmp_path: Path) -> None:
    enroll(store)
    store.deployments.add("d1", placement(), NOW)
    store.tokens.replace("0011.topsecret", "boot", "node1", "d1", NOW + 10)
    store.deployments.put_order("d1", "o1", StepName.SEED_INSTANCE, {"files": "private-file"})
    store.clouds.new_generation("node1", "d1", lambda generation: {"word": "private-word"}, NOW)
    found = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for word in (b"hunter2", b"topsecret", b"private-file", b"private-word"):
        assert word not in found
    assert store.nodes.password("node1") == "hunter2"
    (opened,) = store.tokens.open([("0011", "hello")], NOW)
    assert not isinstance(opened, TrustError) and opened[1] == "topsecret"
    assert store.deployments.order_body("d1", "o1") == {"files": "private-file"}


def test_a_token_runs_out_and_a_new_one_ends_the_old(store: Store) -> None:
    enroll(store)
    store.tokens.replace("0011.one", "boot", "node1", "d1", NOW + 10)
    asks = [("0011", "hello"), ("0011", "instance"), ("ffff", "hello")]
    opened, *refused = store.tokens.open(asks, NOW)
    assert not isinstance(opened, TrustError) and opened[1] == "one"
    assert all(isinstance(found, TrustError) for found in (*refused, *store.tokens.open(asks[:1], NOW + 11)))
    store.tokens.replace("0022.two", "boot", "node1", "d1", NOW + 10)
    assert all(isinstance(found, TrustError) for found in store.tokens.open([("0011", "boot")], NOW))
    assert store.tokens.token("d1", "boot") == "0022.two"


def test_a_token_of_other_keys_leaves_those_asked_with_it_alone(url: str) -> None:
    class Keys(Rot):
        def decrypt(self, token: str) -> str:
            if super().decrypt(token) == "of-other-keys":
                raise TrustError("a secret on record cannot be decrypted")
            return super().decrypt(token)

    store = Store(url, Keys())
    for number, secret in ((1, "of-other-keys"), (2, "two")):
        enroll(store, f"node{number}", number)
        store.tokens.replace(f"000{number}.{secret}", "instance", f"node{number}", f"d{number}", None)
    wrong, opened = store.tokens.open([("0001", "instance"), ("0002", "instance")], NOW)
    assert isinstance(wrong, TrustError) and not isinstance(opened, TrustError) and opened[1] == "two"
    store.close()


def test_a_move_needs_the_state_that_was_seen(store: Store) -> None:
    enroll(store)
    seen = store.nodes.get("node1")
    store.nodes.move(seen, NodeState.DEPLOYING, now=NOW, deployment="d1")
    with pytest.raises(Conflict) as caught:
        store.nodes.move(seen, NodeState.DEPLOYING, now=NOW, deployment="d2")
    assert "meanwhile" in caught.value.summary
    assert store.nodes.get("node1").deployment == "d1"


def test_a_lease_has_one_holder_and_its_fence_only_grows(store: Store) -> None:
    enroll(store)
    assert store.leases.take("node1", "seed", "deploy", NOW, 60) == 1
    assert store.leases.take("node1", "seed", "deploy", NOW + 30, 60) == 1
    with pytest.raises(LeaseLost) as caught:
        store.leases.take("node1", "other", "deploy", NOW + 31, 60)
    assert "seed" in str(caught.value)
    assert store.leases.take("node1", "other", "deploy", NOW + 91, 60) == 2
    store.leases.end("node1", "seed")
    assert store.leases.get("node1")[0] == "other"
    store.leases.end("node1", "other")
    assert store.leases.take("node1", "seed", "deploy", NOW + 92, 60) == 3


def test_a_slot_has_one_deployment(store: Store) -> None:
    enroll(store)
    store.deployments.add("d1", placement(), NOW)
    with pytest.raises(Conflict):
        store.deployments.add("d2", placement("node2"), NOW)
    assert store.deployments.set_state("d1", (DeploymentState.RUNNING,), DeploymentState.ENDED, now=NOW)
    store.deployments.add("d2", placement("node2"), NOW)
    assert [deployment.id for deployment in store.deployments.live("lab")] == ["d2"]
    assert store.deployments.never_active("node1") == ["d1"]


def test_the_journal_keeps_when_and_how_often(store: Store) -> None:
    store.deployments.add("d1", placement(), NOW)
    store.deployments.start_step("d1", StepName.RESERVE, NOW)
    store.deployments.end_step("d1", StepName.RESERVE, StepState.DONE, {"fence": 1}, NOW + 2)
    store.deployments.begin_again("d1")
    store.deployments.start_step("d1", StepName.RESERVE, NOW + 5)
    step = store.deployments.get("d1").steps[0]
    assert (step.started, step.ended, step.attempts, step.detail) == (NOW + 5, None, 2, {})
    assert store.deployments.run_of("d1") == 2


def test_an_order_is_answered_once(store: Store) -> None:
    store.deployments.add("d1", placement(), NOW)
    store.deployments.put_order("d1", "o1", StepName.STORAGE, {"id": "o1"})
    assert not store.deployments.set_result("d1", "other", {"ok": True})
    assert store.deployments.set_result("d1", "o1", {"ok": True})
    assert not store.deployments.set_result("d1", "o1", {"ok": False})
    order = store.deployments.order("d1")
    assert order is not None and order.result == {"ok": True}


def test_only_another_content_makes_a_new_generation(store: Store) -> None:
    enroll(store)

    def build(word: str) -> Any:
        return lambda generation: {"generation": generation, "word": word}

    assert store.clouds.new_generation("node1", "d1", build("a"), NOW) == 1
    assert store.clouds.new_generation("node1", "d1", build("a"), NOW) is None
    assert store.clouds.new_generation("node1", "d1", build("b"), NOW) == 2
    assert store.clouds.new_generation("node1", "d1", build("b"), NOW, force=True) == 3
    assert store.clouds.new_generation("node1", "d2", build("b"), NOW) == 4
    newest = store.clouds.newest("node1")
    assert newest is not None and store.clouds.document(newest) == {"generation": 4, "word": "b"}


def test_the_newest_generations_and_the_one_in_force_are_kept(store: Store, url: str) -> None:
    for number in (1, 2):
        enroll(store, f"node{number}", number)
    told(store, "node1", "abc")
    store.nodes.set_health("node1", 3, True, NOW)
    told(store, "node1", "defghijklmnopq")
    told(store, "node2", "ab")
    in_force, newest = store.clouds.applied("node1"), store.clouds.newest("node1")
    assert in_force is not None and store.clouds.document(in_force)["word"] == "c of node1"
    assert newest is not None and store.clouds.document(newest)["word"] == "q of node1"
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT node, generation FROM generations ORDER BY node, generation").all()
    engine.dispose()
    kept = [("uuid-node1", number) for number in (3, *range(8, 18))]
    assert [tuple(row) for row in rows] == [*kept, ("uuid-node2", 1), ("uuid-node2", 2)]


def told(store: Store, node: str, words: str) -> None:
    for word in words:
        document = {"word": f"{word} of {node}", "parts": [store.parts.put({"shared": word})]}
        store.clouds.new_generation(node, "d1", lambda generation, document=document: document, NOW)


def test_what_many_nodes_were_told_is_read_at_once_and_as_it_was(store: Store) -> None:
    for number, words in (1, "ab"), (2, "abc"):
        enroll(store, f"node{number}", number)
        told(store, f"node{number}", words)
    newest = store.clouds.all_newest()
    assert {name: found.generation for name, found in newest.items()} == {"node1": 2, "node2": 3}
    assert newest["node2"] == store.clouds.newest("node2")
    told(store, "node1", "def")
    texts = store.clouds.own_texts(list(newest.values()))
    assert {name: json.loads(text)["word"] for name, text in texts.items()} == {
        "node1": "b of node1",
        "node2": "c of node2",
    }
    assert sorted(part["shared"] for part in store.clouds.parts_of(newest.values()).values()) == ["b", "c"]


def test_what_a_node_has_in_force_is_kept(store: Store, url: str) -> None:
    enroll(store)
    assert store.clouds.applied("node1") is None
    told(store, "node1", "abc")
    store.nodes.set_health("node1", 2, True, NOW)
    applied = store.clouds.applied("node1")
    assert applied is not None and applied.generation == 2
    store.clouds.drop_parts()
    again = Store(url, Rot())  # without what the first one remembers
    ids = [part_id(write_part({"shared": word})) for word in "abc"]
    with pytest.raises(KeyError):
        again.parts.text(ids[0])
    assert [again.parts.get(ident)["shared"] for ident in ids[1:]] == ["b", "c"]
    again.close()


def test_deployments_come_without_their_journals_when_these_are_not_wanted(store: Store) -> None:
    store.deployments.add("d1", placement(), NOW)
    (whole,), (bare,) = store.deployments.live("lab"), store.deployments.live("lab", journals=False)
    assert whole.steps and whole.model_copy(update={"steps": ()}) == bare


def test_permits_have_a_width_and_a_failure_stays_until_cleared(store: Store) -> None:
    def take(who: str, width: int = 1) -> bool:
        return store.permits.take("lab", "web", width, node=who, deployment=who, generation=1, now=NOW)

    assert take("a") and take("a") and not take("b")
    assert take("b", 2) and not take("c", 2)
    store.permits.fail("a")
    store.permits.give_back("a")
    assert {permit.node: permit.state for permit in store.permits.taken("lab", "web")} == {"a": "failed", "b": "held"}
    store.permits.clear("a")
    assert take("c", 2)


def test_a_claim_grows_the_fence_until_it_is_done(store: Store) -> None:
    assert store.permits.claim("lab", "web", "bootstrap", "d1", 1) == 1
    assert store.permits.claim("lab", "web", "bootstrap", "d1", 2) == 2
    assert store.permits.finish_once("d1", 1) == []
    assert store.permits.finish_once("d1", 2) == ["bootstrap"]
    assert store.permits.once("lab", "web")["bootstrap"].state == "done"


def test_events_are_numbered(store: Store) -> None:
    for word in ("one", "two", "three"):
        store.events.add(Event("test.word", word, "node1", data={"word": word}), NOW)
    assert [(record.id, record.event.message) for record in store.events.since(1, 10)] == [(2, "two"), (3, "three")]
    assert [record.event.data["word"] for record in store.events.last_of("node1", 1)] == ["three"]


@pytest.mark.skipif(not SERVER, reason="SQLite is nobody else's")
def test_who_begins_to_listen_to_others_is_told_that_anything_may_have_changed(store: Store, url: str) -> None:
    database, stop, heard = Database(url), threading.Event(), []

    def hear(topics: frozenset[str]) -> None:
        heard.append(topics)
        stop.set()

    database.listen(hear)
    database.follow_others(stop)
    database.close()
    assert heard == [frozenset((EVERYTHING,))]
