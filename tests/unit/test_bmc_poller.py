"""The poller and its process against controllers that misbehave, on the loopback."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from provisioner.bmc.contract import Asked
from provisioner.bmc.poller import Poller, Seen, Target
from provisioner.bmc.rmcp import SHA1_AES
from provisioner.bmc.sweep import Sweeper
from provisioner.bmc.trouble import Trouble
from provisioner.errors import BmcError, BmcRefused, BmcSilent
from provisioner.lab.bmcs import Faults, SimulatedBmc, SimulatedRack
from provisioner.model.hardware import BmcAddress, Power, SecretRef

PASSWORD = "S3cret-of-the-test"
LONG, SHORT = 20.0, 1.0


def controller(**changes: object) -> SimulatedBmc:
    return SimulatedBmc({"admin": PASSWORD}, **changes)  # type: ignore[arg-type]


def targets(rack: SimulatedRack, password: str = PASSWORD) -> list[Target]:
    return [Target(str(n), "127.0.0.1", port, "admin", password) for n, port in enumerate(rack.ports)]


def sweep(poller: Poller, seconds: float = LONG) -> dict[str, Seen]:
    return {seen.key: seen for batch in poller.sweep(seconds) for seen in batch}


@pytest.fixture
def poller() -> Iterator[Poller]:
    made = Poller()
    yield made
    made.close()


def trouble(seen: Seen) -> Trouble:
    assert seen.trouble is not None
    return seen.trouble


def test_all_are_seen_and_sessions_are_kept(poller: Poller) -> None:
    with SimulatedRack([controller(power=bool(n % 2), suites=(SHA1_AES,) if n % 3 else ()) for n in range(2)]) as rack:
        rack.bmcs[0].suites = (SHA1_AES,)
        poller.watch(targets(rack))
        assert [seen.power for _, seen in sorted(sweep(poller).items())] == [Power.OFF, Power.ON]
        before = [bmc._packets for bmc in rack.bmcs]
        rack.bmcs[0].power = True
        assert [seen.power for _, seen in sorted(sweep(poller).items())] == [Power.ON, Power.ON]
        assert [bmc._packets - old for bmc, old in zip(rack.bmcs, before, strict=True)] == [1, 1]


@pytest.mark.parametrize(
    "faults",
    [
        Faults(drop=3),
        Faults(late=0.05),
        Faults(busy=3),
        Faults(forgetful=2),
    ],
    ids=["drops packets", "answers late", "is busy", "forgets its sessions"],
)
def test_what_is_only_slow_or_lossy_is_seen_all_the_same(poller: Poller, faults: Faults) -> None:
    with SimulatedRack([controller(power=True, faults=faults)]) as rack:
        poller.watch(targets(rack))
        for _ in range(3):
            assert sweep(poller)["0"].power is Power.ON


@pytest.mark.parametrize(
    ("faults", "summary", "cause"),
    [
        (Faults(silent=True), "no answer", "asked"),
        (Faults(deaf_to=(0x10,)), "stopped answering during the login", "it said what it offers"),
        (Faults(deaf_to=(0x12,)), "stopped answering during the login", "nothing followed the user's name"),
        (Faults(deaf_to=(0x14,)), "stopped answering during the login", "nothing followed the proof"),
        (Faults(garbage=True), "no answer", "asked"),
        (Faults(busy=1000), "the controller is busy", "it said so"),
        (Faults(forgetful=1), "stopped answering", ""),
    ],
)
def test_the_dead_are_named_with_what_they_last_said_and_hold_up_nobody(
    poller: Poller, faults: Faults, summary: str, cause: str
) -> None:
    with SimulatedRack([controller(faults=faults), controller(power=True)]) as rack:
        poller.watch(targets(rack))
        order = [seen.key for batch in poller.sweep(SHORT) for seen in batch]
        assert order == ["1", "0"]
        seen = sweep(poller, SHORT)
        assert trouble(seen["0"]).summary.startswith(summary)
        assert cause in trouble(seen["0"]).cause
        assert seen["1"].power is Power.ON
        rack.bmcs[0].faults = Faults()
        assert sweep(poller)["0"].power is Power.OFF, "it is seen again once it answers"


def test_a_wrong_password_is_named_and_the_right_one_then_works(poller: Poller) -> None:
    with SimulatedRack([controller()]) as rack:
        poller.watch(targets(rack, "another"))
        assert trouble(sweep(poller)["0"]).summary == "the password is wrong"
        poller.watch(targets(rack))
        assert sweep(poller)["0"].power is Power.OFF


def test_a_name_that_does_not_exist_is_named(poller: Poller) -> None:
    poller.watch([Target("a", "no-such-host.invalid", 623, "admin", PASSWORD)])
    assert trouble(sweep(poller, SHORT)["a"]).summary == "the address cannot be resolved"


def test_what_is_not_watched_any_more_is_logged_out(poller: Poller) -> None:
    with SimulatedRack([controller(), controller()]) as rack:
        poller.watch(targets(rack))
        sweep(poller)
        poller.watch(targets(rack)[:1])
        assert list(sweep(poller)) == ["0"]
    assert [len(bmc._guests) for bmc in rack.bmcs] == [1, 0]


def bmc(port: int) -> BmcAddress:
    return BmcAddress(address="127.0.0.1", port=port, username="admin", password=SecretRef(env="UNUSED"))


def sweep_all(sweeper: Sweeper, wanted: Asked, seconds: float = SHORT) -> dict[str, Power | BmcError]:
    return {key: said for batch in sweeper.sweep(wanted, seconds) for key, said in batch.items()}


@pytest.fixture
def sweeper() -> Iterator[Sweeper]:
    made = Sweeper()
    yield made
    made.close()


def test_the_process_answers_for_all_and_keeps_its_sessions(sweeper: Sweeper) -> None:
    with SimulatedRack([controller(), controller(power=True), controller(faults=Faults(silent=True))]) as rack:
        wanted = {str(n): (bmc(port), PASSWORD) for n, port in enumerate(rack.ports)}
        for _ in range(2):
            seen = sweep_all(sweeper, wanted)
            assert (seen["0"], seen["1"]) == (Power.OFF, Power.ON)
            assert isinstance(seen["2"], BmcSilent)
            assert seen["2"].where == f"127.0.0.1:{rack.ports[2]}"
            assert f"ipmitool -I lanplus -H 127.0.0.1 -p {rack.ports[2]}" in str(seen["2"].hint)
        wanted["0"] = (wanted["0"][0], "another")
        refused = sweep_all(sweeper, wanted)["0"]
        assert isinstance(refused, BmcRefused) and PASSWORD not in str(refused.to_dict())


def test_a_sweep_left_half_way_does_not_leak_into_the_next(sweeper: Sweeper) -> None:
    with SimulatedRack([controller(), controller(faults=Faults(silent=True))]) as rack:
        wanted = {str(n): (bmc(port), PASSWORD) for n, port in enumerate(rack.ports)}
        begun = sweeper.sweep(wanted, SHORT)
        assert next(begun) == {"0": Power.OFF}
        begun.close()  # type: ignore[attr-defined]
        rack.bmcs[0].power = True
        assert sweep_all(sweeper, wanted)["0"] is Power.ON


@pytest.mark.parametrize("program", ["import sys; sys.stdin.readline()", "import time; time.sleep(60)"])
def test_a_poller_that_ends_or_hangs_is_told_for_each_and_replaced(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = Sweeper((sys.executable, "-c", program), start_seconds=0.5)
    wanted = {"0": (bmc(1), PASSWORD)}
    for _ in range(2):
        seen = sweep_all(sweeper, wanted, 0.1)["0"]
        assert isinstance(seen, BmcError) and "the program that asks" in str(seen.cause)
    sweeper.close()


def test_many_are_verified_at_once(sweeper: Sweeper) -> None:
    bad = [Faults(silent=True), Faults(busy=2), Faults(drop=4)]
    with SimulatedRack([controller(power=True), *(controller(faults=faults) for faults in bad)]) as rack:
        wanted = {str(n): (bmc(port), PASSWORD) for n, port in enumerate(rack.ports)}
        said = {key: value for batch in sweeper.verify(wanted, 3.0) for key, value in batch.items()}
        facts = said["0"]
        assert not isinstance(facts, BmcError)
        assert (facts["power"], facts["privilege"], facts["hash"]) == ("on", "administrator", "sha256")
        assert (facts["firmware"], facts["manufacturer_id"], facts["ipmi_version"]) == ("9.08", 0x1291, "2.0")
        assert facts["guid"] == rack.bmcs[0].guid.hex()
        assert isinstance(said["1"], BmcSilent)
        assert not isinstance(said["2"], BmcError) and not isinstance(said["3"], BmcError)
        wrong = {
            key: value for batch in sweeper.verify({"0": (wanted["0"][0], "x")}, 3.0) for key, value in batch.items()
        }
        assert isinstance(wrong["0"], BmcRefused)
        assert sweep_all(sweeper, {"0": wanted["0"]}) == {"0": Power.ON}


def test_who_is_only_an_operator_is_verified_as_such(sweeper: Sweeper) -> None:
    with SimulatedRack([controller(privilege=3), controller(privilege=2)]) as rack:
        wanted = {str(n): (bmc(port), PASSWORD) for n, port in enumerate(rack.ports)}
        said = {key: value for batch in sweeper.verify(wanted, 3.0) for key, value in batch.items()}
        assert isinstance(said["0"], dict) and said["0"]["privilege"] == "operator"
        assert isinstance(said["1"], BmcRefused) and said["1"].summary == "the user lacks the privilege"
