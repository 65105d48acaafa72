"""A rotation of credentials: at every moment one of the passwords on record opens the controller."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import PASSWORD, Killed, Rack

from provisioner.errors import BmcError, BmcRefused, BmcSilent, Conflict
from provisioner.model.hardware import SecretRef
from provisioner.model.status import EnrollItem, EnrollResult

ADDRESS = "10.77.1.1"


@pytest.fixture
def rack(tmp_path: Path) -> Rack:
    made = Rack(tmp_path, 1)
    made.enroll()
    return made


def holds(rack: Rack) -> str:
    """What opens the controller."""
    return rack.bmcs.passwords.get(ADDRESS, PASSWORD)


def on_record(rack: Rack) -> tuple[str, str | None]:
    return rack.store.nodes.password("node1"), rack.store.nodes.next_password("node1")


def test_a_new_password_replaces_the_old_one(rack: Rack) -> None:
    rack.conductor.rotate("node1")
    assert on_record(rack) == (holds(rack), None)
    assert holds(rack) != PASSWORD and len(holds(rack)) == 16
    assert any("credentials.rotated" in event for event in rack.events())
    assert holds(rack) not in "".join(rack.events())


@pytest.mark.parametrize("moment", range(1, 4))
def test_a_kill_at_any_moment_leaves_a_way_in_and_the_next_call_finishes(rack: Rack, moment: int) -> None:
    count = 0

    def strike(*_: object) -> None:
        nonlocal count
        count += 1
        if count == moment:
            raise Killed

    rack.on_commit, rack.bmcs.after = strike, strike
    rack.surviving(lambda: rack.conductor.rotate("node1"))
    assert rack.restarts == 1
    rack.on_commit, rack.bmcs.after = None, lambda call: None
    assert holds(rack) in on_record(rack)
    rack.conductor.rotate("node1")
    assert on_record(rack) == (holds(rack), None) and holds(rack) != PASSWORD


def test_a_refusal_leaves_all_as_it_was(rack: Rack) -> None:
    def refuse(call: str) -> None:
        rack.bmcs.passwords.clear()
        raise BmcError("the controller does not keep the new password")

    rack.bmcs.after = refuse
    with pytest.raises(BmcError, match="does not keep"):
        rack.conductor.rotate("node1")
    assert on_record(rack) == (PASSWORD, None) and holds(rack) == PASSWORD


def test_silence_keeps_both_on_record(rack: Rack) -> None:
    def fall_silent(call: str) -> None:
        rack.bmcs.silent.add(ADDRESS)
        raise BmcSilent("no answer", where=ADDRESS, cause="a test")

    rack.bmcs.after = fall_silent
    with pytest.raises(BmcSilent, match="both on record") as caught:
        rack.conductor.rotate("node1")
    assert caught.value.hint == "when it answers again: provisioner node rotate-credentials node1"
    assert on_record(rack) == (PASSWORD, holds(rack))
    rack.bmcs.after = lambda call: None
    rack.bmcs.silent.clear()
    rack.conductor.rotate("node1")
    assert on_record(rack) == (holds(rack), None)


def test_when_neither_holds_it_is_said_and_nothing_is_dropped(rack: Rack) -> None:
    rack.store.nodes.begin_rotation("node1", "next")
    rack.bmcs.passwords[ADDRESS] = "set by hand"
    with pytest.raises(BmcRefused, match="neither the old nor the new"):
        rack.conductor.rotate("node1")
    assert on_record(rack) == (PASSWORD, "next")


def test_a_node_that_is_deployed_keeps_its_password(rack: Rack) -> None:
    rack.apply()
    rack.conductor.tick()
    with pytest.raises(Conflict, match="password is not yours now"):
        rack.conductor.rotate("node1")


def enroll(rack: Rack, password: str, stored: bool = False) -> EnrollResult:
    spec = rack.servers["node1"].spec
    if stored:
        spec = spec.model_copy(update={"bmc": spec.bmc.model_copy(update={"password": SecretRef(stored=True)})})
    (result,) = rack.conductor.enroll([EnrollItem(spec=spec, password=password)])
    return result


def test_after_a_rotation_the_files_password_is_not_used(rack: Rack) -> None:
    rack.conductor.rotate("node1")
    assert enroll(rack, PASSWORD).result == "unchanged"
    assert enroll(rack, "", stored=True).result == "updated"
    assert on_record(rack) == (holds(rack), None)


def test_a_password_set_by_hand_after_a_rotation_is_taken_from_the_file(rack: Rack) -> None:
    rack.conductor.rotate("node1")
    rack.bmcs.passwords[ADDRESS] = "by hand"
    assert enroll(rack, "wrong as well").result == "failed"
    assert enroll(rack, "by hand").changes == ("bmc.password: changed",)
    assert on_record(rack) == ("by hand", None)


def test_a_stored_password_needs_a_record(rack: Rack) -> None:
    assert enroll(rack, "", stored=True).result == "updated"
    rack.conductor.verb("node1", "forget")
    failed = enroll(rack, "", stored=True)
    assert failed.result == "failed" and failed.error and "no password" in failed.error["summary"]
    assert "--password-file" in failed.error["hint"]
    assert enroll(rack, holds(rack), stored=True).result == "enrolled"
    assert enroll(rack, "", stored=True).result == "unchanged"
