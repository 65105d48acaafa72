"""A handover: one master at every moment, whatever is killed, cut or refused, and nothing lost on the way."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from handover_pair import PASSWORD, TOKEN, Killed, Lines, Pair
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioner.errors import Conflict, HostError, TrustError
from provisioner.images.catalogue import Catalogue
from provisioner.model.departure import Departure
from provisioner.model.duty import DutyState
from provisioner.server.backup import restore_backup, write_backup
from provisioner.server.handover import FROZEN_SECONDS, SILENT_SECONDS, Handover, describe_service
from provisioner.store.restore import JUMP
from provisioner.store.store import Store
from provisioner.system.clock import FakeClock
from provisioner.system.settings import Settings
from provisioner.trust.keys import SiteKeys


def ready(folder: Path) -> Pair:
    """The undercloud has said that it is ready."""
    pair = Pair(folder)
    pair.round()
    return pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return ready(tmp_path)


def taken(pair: Pair) -> Store:
    """The records of the undercloud, proved to be what the seed's were."""
    assert pair.masters() == ["undercloud"] and pair.epoch == 2 and pair.started
    keys = SiteKeys.ensure(pair.settings.keys)
    store = Store(pair.settings.database, keys)
    duty = store.duty.get()
    assert (duty.epoch, duty.state, duty.own_node) == (2, DutyState.MASTER, "node0")
    assert store.nodes.password("node2") == PASSWORD
    assert store.duty.digests() == pair.seed.store.duty.digests()
    images = Catalogue(pair.settings.images, keys)
    assert [image.id for image in images.images()] == ["ramdisk-222222222222", "undercloud-111111111111"]
    assert images.newest("ramdisk") is not None
    return store


def test_the_duty_goes_over_with_records_keys_and_images(pair: Pair) -> None:
    pair.seed.handover.begin("node0")
    pair.play()
    duty = pair.seed.duty
    assert (duty.epoch, duty.state, duty.node) == (2, DutyState.TOMBSTONE, "node0")
    assert duty.detail["checks"]["nodes"] == 3 and duty.detail["checks"]["controllers"] == ["node0", "node1", "node2"]
    store = taken(pair)
    kinds = [record.event.kind for record in store.events.since(0, 100)]
    assert kinds[-1] == "site.handed-over"
    store.close()
    assert sorted(path.name for path in pair.settings.handover.rglob("*")) == ["done", "images", "in"]
    assert not list(pair.seed.handover.folder.glob("*")), "the copy of all keys is gone"


def leaving(pair: Pair, image: str) -> Departure:
    """The undercloud's instance is to be rebuilt."""
    place = pair.seed.store.deployments.placement("d1").model_copy(update={"image": image, "rebuilds": "d1"})
    found = Departure(
        cloud="lab", role="undercloud", index=0, hostname="undercloud-0", node="node0", deployment="d1", why="a test",
        asked=1.0, placement=place, rolls=True,
    )  # fmt: skip
    pair.seed.store.departures.put(found)
    return found


def test_a_node_whose_instance_is_to_leave_does_not_get_the_duty(pair: Pair) -> None:
    departure = leaving(pair, "undercloud-111111111111")
    with pytest.raises(Conflict, match="is to leave it: it is rebuilt") as caught:
        pair.seed.handover.begin("node0")
    assert caught.value.where == "node0" and "cloud abort lab undercloud-0" in str(caught.value.hint)
    pair.seed.store.departures.drop(departure)
    pair.seed.handover.begin("node0")
    leaving(pair, "undercloud-111111111111")
    pair.play()
    assert pair.masters() == ["seed"] and "is to leave it" in str(pair.seed.duty.detail["failure"])


def test_records_that_several_conductors_share_are_not_handed_over(pair: Pair) -> None:
    shared = replace(pair.seed.settings, database_url="postgresql+psycopg://seed/provisioner")
    handover = Handover(shared, pair.seed.store, pair.seed.catalogue, pair.clock)
    handover.hear(
        TOKEN.partition(".")[0], {"say": "ready", "service": describe_service(shared, pair.seed.store.schema)}
    )
    with pytest.raises(Conflict, match="records in a database that others share"):
        handover.begin("node0")
    assert pair.seed.duty.state is DutyState.MASTER


def test_images_go_over_that_members_are_still_to_be_rebuilt_with(pair: Pair) -> None:
    departure = leaving(pair, "old-333333333333")
    pair.seed.store.departures.put(departure.model_copy(update={"node": "node1", "deployment": "other"}))
    pair.seed.handover.begin("node0")
    pair.play()
    images = Catalogue(pair.settings.images, SiteKeys.ensure(pair.settings.keys))
    assert images.get("old-333333333333").name == "old"


def test_a_site_without_images_goes_over_as_well(pair: Pair) -> None:
    shutil.rmtree(pair.seed.settings.images)
    pair.seed.handover.begin("node0")
    pair.play()
    assert pair.masters() == ["undercloud"] and pair.settings.images.is_dir()


def test_who_gave_the_duty_away_writes_nothing_more(pair: Pair) -> None:
    pair.seed.handover.begin("node0")
    pair.play(until=lambda: pair.seed.duty.state is DutyState.FROZEN)
    before = pair.seed.store.duty.digests()
    with pytest.raises(Conflict, match="nothing is written"):
        pair.seed.store.nodes.set_health("node1", 1, True, 1.0)
    pair.play()
    with pytest.raises(Conflict, match="nothing is written"):
        pair.seed.store.nodes.set_health("node1", 1, True, 1.0)
    assert pair.seed.store.duty.digests() == before
    with pytest.raises(Conflict, match="never will be"):
        pair.seed.handover.cancel()


def test_a_thread_that_is_late_writes_nothing_after_the_service_has_turned(pair: Pair) -> None:
    late = pair.seed.store
    pair.seed.handover.begin("node0")
    pair.play(until=lambda: pair.seed.duty.state is DutyState.FROZEN)
    with pytest.raises(Conflict, match="nothing is written"):
        late.nodes.set_health("node1", 1, True, 1.0)


@pytest.mark.parametrize(
    ("state", "again"), [(DutyState.COPYING, False), (DutyState.FROZEN, False), (DutyState.FROZEN, True)]
)
def test_what_is_cancelled_leaves_the_seed_the_master_and_the_next_attempt_gets_through(
    pair: Pair, state: DutyState, again: bool
) -> None:
    pair.cut = lambda what: "images" in what if state is DutyState.COPYING else "verified" in what
    pair.seed.handover.begin("node0")
    pair.play(until=lambda: pair.seed.duty.state is state)
    if again:
        pair.kill_receiver()
    for _ in range(3):
        pair.round()
    pair.seed.handover.cancel()
    pair.turn()
    pair.cut = lambda what: False
    assert pair.masters() == ["seed"] and pair.seed.duty.epoch == 1
    pair.seed.store.nodes.set_health("node1", 1, True, 1.0)
    for _ in range(60):
        pair.round()
    assert not (pair.settings.handover / "in" / "whole").exists(), "no keys of the site are left there"
    pair.seed.handover.begin("node0")
    pair.play()
    taken(pair).close()


def test_a_node_that_falls_silent_ends_the_attempt_and_its_late_word_changes_nothing(pair: Pair) -> None:
    pair.cut = lambda what: what.endswith("verified")
    pair.seed.handover.begin("node0")
    pair.play(until=lambda: (pair.settings.handover / "in" / "whole" / "provisioner.db").exists())
    first = pair.seed.duty.handover
    pair.clock.sleep(SILENT_SECONDS + 1)
    pair.seed.handover.look()
    pair.turn()
    assert pair.masters() == ["seed"] and "heard of it for" in pair.seed.duty.detail["failure"]["summary"]
    pair.cut = lambda what: False
    with pytest.raises(Conflict, match="is over"):
        pair.seed.handover.hear("t1", {"handover": first, "say": "verified", "checks": {}})
    assert pair.masters() == ["seed"]


def test_nobody_is_frozen_for_ever(pair: Pair) -> None:
    pair.cut = lambda what: what.endswith("verified")
    pair.seed.handover.begin("node0")
    pair.play(until=lambda: pair.seed.duty.state is DutyState.FROZEN)
    for _ in range(int(FROZEN_SECONDS / 100) + 5):
        pair.clock.sleep(100.0)
        pair.round()
    assert pair.masters() == ["seed"] and pair.seed.duty.detail["failure"]


def refuse(pair: Pair, word: str) -> None:
    pair.seed.handover.begin("node0")
    pair.play()
    failure = pair.seed.duty.detail["failure"]
    assert word in failure["summary"] and pair.masters() == ["seed"] and failure["hint"]
    assert not (pair.settings.handover / "in" / "whole").exists()
    assert pair.seed.handover.duty().epoch == 1


def test_a_controller_that_is_not_reached_from_there_keeps_the_duty_here(pair: Pair) -> None:
    pair.bmcs.silent.add("10.0.0.2")
    refuse(pair, "cannot be reached from this host")


def test_records_that_came_otherwise_than_they_were_sent_keep_the_duty_here(pair: Pair) -> None:
    def damage(path: Path) -> None:
        if path.name == "site.archive":
            path.write_bytes(path.read_bytes()[:-1] + b"x")

    pair.damage = damage
    refuse(pair, "did not come as they were sent")


def test_an_image_that_is_not_what_its_manifest_says_keeps_the_duty_here(pair: Pair) -> None:
    pair.damage = lambda path: path.write_bytes(b"x") and None if path.name == "root.zst" else None  # type: ignore
    refuse(pair, "not what its manifest says")


def test_an_image_whose_signature_does_not_hold_keeps_the_duty_here(pair: Pair) -> None:
    (pair.seed.catalogue.folder / "ramdisk-222222222222" / "manifest.sig").write_bytes(bytes(64))
    pair.seed.handover.begin("node0")
    pair.play()
    assert pair.masters() == ["seed"]


def test_keys_of_another_site_keep_the_duty_here(pair: Pair) -> None:
    pair.config["ca"] = "another"
    refuse(pair, "another site's")


def test_a_row_that_differs_keeps_the_duty_here(pair: Pair) -> None:
    pair.cut = lambda what: "handover/" in what and what.startswith("FETCH")
    pair.seed.handover.begin("node0")
    pair.play(until=lambda: "tables" in pair.seed.duty.detail)
    tables = pair.seed.duty.detail["tables"]
    pair.seed.store.duty.note(pair.seed.duty.handover, {"tables": tables | {"nodes": [3, "0" * 64]}})
    pair.cut = lambda what: False
    pair.play()
    assert pair.seed.duty.detail["failure"]["cause"] == "nodes" and pair.masters() == ["seed"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"service": "127.0.0.9"}, "service is '127.0.0.9' there"),
        ({"https_port": 9999}, "https_port is 9999 there"),
    ],
)
def test_a_node_that_is_set_up_for_another_service_is_refused(
    tmp_path: Path, change: dict[str, int], word: str
) -> None:
    pair = Pair(tmp_path)
    pair.settings = Settings(**{**pair.settings.__dict__, **change})
    pair.kill_receiver()
    pair.round()
    with pytest.raises(Conflict) as refused:
        pair.seed.handover.begin("node0")
    assert word in str(refused.value.cause) and pair.seed.duty.state is DutyState.MASTER


def test_a_node_where_nobody_could_tell_the_service_anything_does_not_get_the_duty(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.commanded = False
    pair.round()
    with pytest.raises(Conflict, match="nobody could tell") as refused:
        pair.seed.handover.begin("node0")
    assert "undercloud.operators_listen" in str(refused.value.hint) and pair.seed.duty.state is DutyState.MASTER
    pair.commanded = True
    pair.kill_receiver()
    pair.round()
    assert pair.seed.handover.begin("node0").state is DutyState.COPYING


def test_what_is_in_the_way_is_said_before_anything_is_done(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with pytest.raises(Conflict, match="does not ask"):
        pair.seed.handover.begin("node0")
    pair.round()
    with pytest.raises(Conflict, match="not active"):
        pair.seed.handover.begin("node1")
    pair.seed.store.nodes.set_maintenance("node0", {"reason": "x", "since": 1.0}, 1.0)
    with pytest.raises(Conflict, match="not active"):
        pair.seed.handover.begin("node0")
    assert pair.seed.duty.state is DutyState.MASTER


def test_a_stranger_gets_neither_the_offer_nor_the_records(pair: Pair) -> None:
    pair.seed.store.tokens.replace("t2.secret", "instance", "node1", "d2", None)
    pair.cut = lambda what: "handover/" in what and what.startswith("FETCH")
    pair.seed.handover.begin("node0")
    pair.play(until=lambda: "archive" in pair.seed.duty.detail)
    assert pair.seed.handover.offer("t2", "") == {}
    with pytest.raises(Conflict):
        pair.seed.handover.hear("t2", {"handover": pair.seed.duty.handover, "say": "verified"})
    with pytest.raises(TrustError):
        pair.seed.handover.archive("guessed")
    ticket = pair.seed.handover.offer("t1", "")["archive"]["path"].rpartition("/")[2]
    assert pair.seed.handover.archive(ticket).is_file()
    with pytest.raises(TrustError):
        pair.seed.handover.archive(ticket)


def test_a_service_that_does_not_start_there_is_told_and_tried_again(pair: Pair) -> None:
    pair.start_fails = HostError("the address is taken", where="127.0.0.3")
    pair.seed.handover.begin("node0")
    for _ in range(30):
        pair.round()
    assert pair.seed.duty.state is DutyState.CEDED and "the address is taken" in pair.seed.duty.detail["doing"]
    pair.start_fails = None
    pair.play()
    taken(pair).close()


def test_a_seed_that_is_switched_off_too_early_is_not_waited_for(pair: Pair) -> None:
    pair.cut = lambda what: what.endswith("master")
    pair.seed.handover.begin("node0")
    pair.play(rounds=1000)
    assert pair.seed.duty.state is DutyState.CEDED
    taken(pair).close()


def test_restored_records_are_in_force_and_in_an_epoch_that_is_greater_than_any(pair: Pair, tmp_path: Path) -> None:
    """The way out when the new master is lost for good."""
    pair.seed.handover.begin("node0")
    pair.play()
    pair.seed.end()
    write_backup(pair.seed.settings, tmp_path / "site.backup", FakeClock())
    third = Settings(state_dir=tmp_path / "third", run_dir=tmp_path / "run3")
    restore_backup(third, tmp_path / "site.backup", FakeClock())
    store = Store(third.database, SiteKeys.ensure(third.keys))
    duty = store.duty.get()
    store.close()
    assert (duty.state, duty.epoch) == (DutyState.MASTER, 2 + JUMP)


SIDES = {"seed": ("server/handover.py", "server/backup.py"), "undercloud": ("server/receive.py",)}


EVERY = int(os.environ.get("EVERY", "12"))
"""At one in so many lines it is killed; with 1 at all of them, which takes minutes."""


def kill_at(folder: Path, side: str, line: int) -> bool:
    """Whether there is such a line."""
    pair = ready(folder)
    pair.seed.handover.begin("node0")
    with Lines(SIDES[side], line) as lines:
        while not pair.over():
            try:
                pair.round()
            except Killed:
                break
    assert len(pair.masters()) <= 1
    pair.kill_receiver()
    if side == "seed":
        pair.kill_seed()
    pair.play()
    if pair.epoch is None:  # the attempt ended; the seed is as it was
        assert pair.masters() == ["seed"]
        pair.kill_receiver()
        pair.round()
        pair.seed.handover.begin("node0")
        pair.play()
    taken(pair).close()
    assert pair.seed.duty.state is DutyState.TOMBSTONE
    pair.seed.end()
    shutil.rmtree(folder)
    return lines.count >= line


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a kill closes no file
@pytest.mark.parametrize("side", list(SIDES))
@pytest.mark.timeout(1200)
def test_killed_at_any_line_there_is_never_a_second_master_and_it_goes_on(tmp_path: Path, side: str) -> None:
    line = 1
    while kill_at(tmp_path / str(line), side, line):
        line += EVERY
    assert line > 60


CUTS = ["say", "GET", "FETCH", "answer", "verified", "master"]
WALK = st.lists(
    st.one_of(
        st.tuples(st.just("kill"), st.sampled_from(["seed", "undercloud"]), st.integers(1, 200)),
        st.tuples(
            st.just("cut"), st.sampled_from(["say", "GET", "FETCH", "answer", "verified", "master"]), st.integers(1, 6)
        ),
        st.tuples(st.sampled_from(["begin", "cancel", "silence"]), st.just(""), st.integers(1, 3)),
    ),
    max_size=8,
)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a kill closes no file
@given(walk=WALK)
@settings(max_examples=25, deadline=None)
def test_whatever_happens_in_whatever_order_there_is_one_master_at_most(
    tmp_path_factory: pytest.TempPathFactory, walk: list[tuple[str, str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("walk")
    pair = ready(folder)
    for what, which, number in [*walk, ("end", "", 0)]:
        pair.cut = lambda said: False
        if what == "kill":
            with Lines(SIDES[which], number):
                try:
                    for _ in range(6):
                        pair.round()
                except Killed:
                    (pair.kill_seed if which == "seed" else pair.kill_receiver)()
        elif what == "cut":
            pair.cut = lambda said, word=which: word in said  # type: ignore[misc]
            for _ in range(number):
                pair.round()
        elif what in ("begin", "cancel"):
            try:
                pair.seed.handover.begin("node0") if what == "begin" else pair.seed.handover.cancel()
            except Conflict:
                pass  # it cannot be now
            pair.turn()
        elif what == "silence":
            pair.clock.sleep(SILENT_SECONDS / 2 * number)
            pair.round()
        assert len(pair.masters()) <= 1
        epochs = [pair.seed.duty.epoch]
        assert epochs[0] in (1, 2)
    for _ in range(200):
        pair.round()
    assert len(pair.masters()) == 1, "and when all are up, there is one"
    pair.seed.end()
    shutil.rmtree(folder)
