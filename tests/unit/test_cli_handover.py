"""The command that hands over: what it watches, what it says, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from provisioner.cli.apply import apply
from provisioner.cli.departures import rebuild
from provisioner.cli.handover import PATIENCE, _begin, _watch
from provisioner.cli.main import main
from provisioner.cli.options import Options
from provisioner.cli.replace import replace
from provisioner.errors import DeadlinePassed, DeployError, ProvisionerError, ServerUnreachable
from provisioner.model.duty import Duty, DutyState
from provisioner.system.clock import FakeClock


def duty(state: DutyState, **more: Any) -> Duty:
    return Duty(**{"state": state, "node": "node1", "handover": "h1", **more})


class Service:
    """Answers one duty after the other; the last one stays."""

    def __init__(self, *answers: Duty | ProvisionerError) -> None:
        self.answers: Iterator[Duty | ProvisionerError] = iter(answers)
        self.last: Duty | ProvisionerError = answers[-1]
        self.begun: list[str] = []

    def duty(self) -> Duty:
        found = next(self.answers, self.last)
        if isinstance(found, ProvisionerError):
            raise found
        return found

    def begin_handover(self, node: str) -> Duty:
        self.begun.append(node)
        return duty(DutyState.COPYING)


def watch(service: Service, timeout: float = 100.0) -> Duty:
    return _watch(Options(clock=FakeClock()), service, duty(DutyState.COPYING), timeout)  # type: ignore[arg-type]


def test_it_says_each_state_once_and_ends_with_the_tombstone(capsys: pytest.CaptureFixture[str]) -> None:
    copying = duty(DutyState.COPYING, detail={"bytes": 5e6, "total": 20e6})
    away = ServerUnreachable("the service does not answer")
    frozen = duty(DutyState.FROZEN, detail={"doing": "logging in to 3 controllers"})
    end = duty(DutyState.TOMBSTONE, epoch=2)
    assert watch(Service(copying, copying, away, frozen, duty(DutyState.CEDED, epoch=2), end)) == end
    lines = [line.split(" s  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert [line.split(";")[0] for line in lines][1:] == [
        "node1: images are copied",
        "node1: the records are frozen, copied and proved (logging in to 3 controllers)",
        "node1: the epoch has moved",
        "node1: the node is the master",
    ]
    assert lines[1].endswith("(5 of 20 MB)")


def test_a_failure_is_the_error_that_the_service_keeps() -> None:
    error = DeployError("a controller cannot be reached", where="node7", hint="see to a route")
    with pytest.raises(DeployError, match="cannot be reached") as failed:
        watch(Service(duty(DutyState.MASTER, detail={"failure": error.to_dict()})))
    assert failed.value.hint == "see to a route"


def test_it_is_not_watched_for_ever_and_goes_on_all_the_same() -> None:
    with pytest.raises(DeadlinePassed) as passed:
        watch(Service(duty(DutyState.FROZEN)), timeout=5.0)
    assert passed.value.hint == "provisioner handover node1 --resume watches on"
    with pytest.raises(ServerUnreachable):
        watch(Service(ServerUnreachable("the service does not answer")), timeout=PATIENCE * 5)


def test_what_is_resumed_is_watched_and_what_has_failed_is_begun_again() -> None:
    under_way = Service(duty(DutyState.CEDED))
    assert _begin(under_way, "node1", True).state is DutyState.CEDED and under_way.begun == []  # type: ignore[arg-type]
    for before in (Service(duty(DutyState.MASTER)), Service(duty(DutyState.FROZEN, node="node2"))):
        _begin(before, "node1", True)  # type: ignore[arg-type]
        assert before.begun == ["node1"], "the service says whether that can be"


@pytest.mark.parametrize("words", [[], ["node1", "--cancel"], ["--status", "--cancel"], ["--resume"]])
def test_words_that_exclude_each_other_are_refused(tmp_path: Path, words: list[str]) -> None:
    done = CliRunner().invoke(main, ["handover", *words])
    assert done.exit_code == 64 and "provisioner handover --help" in done.stderr


def test_who_is_no_instance_receives_nothing(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["receive", "--agent", str(tmp_path / "none")])
    assert done.exit_code == 64 and "no instance of a site" in done.stderr


@pytest.mark.parametrize("command", [apply, rebuild, replace])
def test_what_applies_a_plan_may_be_told_that_the_services_own_node_is_meant(command: click.Command) -> None:
    assert any("--self" in option.opts for option in command.params)
