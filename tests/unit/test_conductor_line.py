"""Images on their way: as many bytes as the link is meant to carry, in the order in which they were asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conductor_rack import Rack

from provisioner.conductor.line import Fetch, why_wait
from provisioner.model.deployment import StepName

GB = 10**9


def fetch(ident: str, since: float, left: int = GB, begun: bool = False, pace: float | None = None) -> Fetch:
    return Fetch(ident, since, left, begun, pace)


def test_as_many_as_there_is_room_for() -> None:
    flying = [fetch("a", 1, GB, True), fetch("b", 2, GB, True)]
    assert why_wait("c", [*flying, fetch("c", 3)], 3 * GB) is None
    said = why_wait("c", [*flying, fetch("c", 3)], 2 * GB)
    assert said == ("waits in line, 0 before it: 2 nodes fetch 2000 MB of 2000 MB that may be on their way", 0)


def test_bytes_count_and_not_nodes() -> None:
    nearly = [fetch(f"a{number}", number, GB // 100, True) for number in range(10)]
    assert why_wait("b", [*nearly, fetch("b", 50, GB)], 2 * GB) is None


def test_one_alone_may_always() -> None:
    assert why_wait("a", [fetch("a", 1, 50 * GB)], GB) is None
    assert why_wait("a", [fetch("a", 1, 50 * GB), fetch("b", 2)], GB) is None


def test_nobody_is_overtaken() -> None:
    line = [fetch("a", 1, GB, True, pace=12.4), fetch("large", 2, 5 * GB), fetch("small", 3, 1)]
    assert why_wait("large", line, 2 * GB) is not None
    said = why_wait("small", line, 2 * GB)
    assert said is not None and "1 before it" in said[0] and said[0].endswith("the next ends in about 12 s")
    assert said[1] == 1


def test_without_a_limit_nobody_waits() -> None:
    assert why_wait("b", [fetch("a", 1, 99 * GB, True), fetch("b", 2, 99 * GB)], 0) is None


@pytest.mark.parametrize("limit", [0, 1500, 10**12])
def test_in_a_rack_all_get_their_turn_and_who_waits_says_why(tmp_path: Path, limit: int) -> None:
    rack = Rack(tmp_path, 4)
    rack.settings = replace(rack.settings, bytes_in_flight=limit)
    rack.restart()
    rack.images.known["web"] = rack.images.known["web"].model_copy(update={"sizes": {"root.zst": 1000}})
    for server in rack.servers.values():
        server.deaf_to.add("write-image")
    rack.enroll()
    rack.apply()
    names = list(rack.servers)

    def at_step() -> list[str | None]:
        found = []
        for name in names:
            deployment = rack.conductor.node(name).deployment
            assert deployment is not None
            step = next(step for step in deployment.steps if step.name is StepName.WRITE_IMAGE)
            found.append(str(step.detail["waiting"]) if step.started is not None and "waiting" in step.detail else None)
        return found

    rack.play(until=lambda: None not in at_step())
    waiting = [said for said in at_step() if said is not None and "in line" in said]
    assert len(waiting) == (3 if limit == 1500 else 0), at_step()
    for _ in range(40):  # longer than any deadline of a step: who waits does not fail, who has begun does
        rack.clock.sleep(3)
        rack.conductor.tick()
    for server in rack.servers.values():
        server.deaf_to.clear()
    rack.play(rounds=120)
    assert set(rack.states().values()) == {"active"}
