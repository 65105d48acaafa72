"""Where the time went: whose it was, and which step took longer than it does elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conductor_rack import Rack

from provisioner.conductor.report import build_report
from provisioner.errors import NotFound
from provisioner.model.deployment import STEPS, Deployment, Step, StepName, StepState, build_inspection
from provisioner.model.timeline import Share, measure_shares

AT = 1000.0


def deployment(ident: str = "d", detail: dict[StepName, dict[str, Any]] | None = None, **seconds: float) -> Deployment:
    """Each step takes 1 s, or what is said; half a second lies between two."""
    steps, at = [], AT
    for name in STEPS:
        took = seconds.get(name.replace("-", "_"), 1.0)
        steps.append(
            Step(
                name=name,
                state=StepState.DONE,
                started=at,
                ended=at + took,
                attempts=1,
                detail=(detail or {}).get(name, {}),
            )
        )
        at += took + 0.5
    return Deployment(id=ident, placement=build_inspection("node1", False), created=AT, steps=tuple(steps))


def test_every_second_is_somebodys() -> None:
    found = deployment(
        hello=40.0,
        write_image=60.0,
        configure=50.0,
        probe=2.0,
        seed_instance=301.0,
        detail={
            StepName.SEED_INSTANCE: {"waited": 300.0},
            StepName.POWER: {"script": {"at": AT + 6.0 + 12.0}},
            StepName.WRITE_IMAGE: {"seconds": 45.0, "read_back_seconds": 14.0},
            StepName.CONFIGURE: {"contact": AT + 40 + 60 + 300 + 9 + 5.5 + 30.0},
        },
    )
    shares = measure_shares(found)
    steps = found.steps
    assert steps[-1].ended is not None
    assert sum(shares.values()) == pytest.approx(steps[-1].ended - AT)
    assert shares[Share.OTHERS] == 300.0
    assert shares[Share.BYTES] == pytest.approx(59.0)
    hello = next(step for step in steps if step.name is StepName.HELLO)
    assert hello.started is not None
    assert shares[Share.FIRMWARE] == pytest.approx(AT + 18.0 - hello.started)
    assert shares[Share.OURS] == pytest.approx(10 + 1.0 + 13 * 0.5)


def test_who_waits_for_others_is_not_out_of_line() -> None:
    siblings = [deployment(f"s{number}") for number in range(3)]
    held_up = deployment(write_image=41.0, detail={StepName.WRITE_IMAGE: {"waited": 40.0}})
    assert build_report(held_up, siblings).findings == ()


def test_what_is_not_done_is_nobodys() -> None:
    assert measure_shares(deployment().model_copy(update={"steps": ()})) == {}


def test_a_step_that_takes_much_longer_than_elsewhere_is_named() -> None:
    siblings = [deployment(f"s{number}", write_image=20.0 + number) for number in range(3)]
    report = build_report(deployment(write_image=70.0, power=2.5), siblings)
    (finding,) = report.findings
    assert finding.startswith("write-image took 70 s, 21 s is usual; look at its link")
    assert [step.step for step in report.steps if step.out_of_line] == ["write-image"], "a second or two are nothing"


def test_with_one_sibling_nothing_is_usual() -> None:
    report = build_report(deployment(write_image=70.0), [deployment("s")])
    assert report.findings == () and all(step.usual is None for step in report.steps)


def test_of_a_rack(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 3)
    rack.enroll()
    with pytest.raises(NotFound):
        rack.conductor.deployment_report("node1")
    rack.apply()
    rack.play()
    report = rack.conductor.deployment_report("node1")
    assert report.siblings == 2 and report.findings == () and report.role == "web"
    assert set(report.shares) == {str(share) for share in Share}
    assert sum(report.shares.values()) > 0
