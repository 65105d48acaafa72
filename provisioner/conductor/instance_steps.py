"""The steps that wait for the instance: it runs from what was written, applies its metadata, and its probe is green."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provisioner.conductor.orders import build_layout
from provisioner.conductor.ramdisk_steps import check_power
from provisioner.conductor.told import BAD_STATES, doing, red_probes, report_error
from provisioner.conductor.work import Outcome, Work, done, wait_for_guest
from provisioner.errors import DeployError
from provisioner.model.deployment import StepName

CONFIGURE_SECONDS = 900.0
PROBE_SLACK = 120.0
"""Seconds until a waiting step has failed; the agent's own waiting for a probe is the role's, and some more."""


def configure(work: Work) -> Outcome:
    """Done when the config agent says that the newest generation is in force."""
    report = _report(work)
    if report.get("state") == "applied" and int(report.get("generation", 0)) >= work.node.generation:
        return done(generation=work.node.generation, root=_check_root(work, report))
    reason, asked = work.doors.store.nodes.waiting(work.node.name)
    since = max(asked, work.doors.store.deployments.touched(work.deployment.id, StepName.CONFIGURE))
    limit = CONFIGURE_SECONDS + work.role.health.wait
    if work.role.image.disk and "contact" not in work.step.detail and work.now - since > limit:
        raise DeployError(
            f"the config agent of its instance was not heard within {limit:.0f} s",
            where=work.node.name,
            cause=f"it did not start from its disk, or {work.role.image.disk} has no cloud-init or no Python 3",
            hint=f"provisioner node console {work.node.name} shows how far it came; then provisioner node retry "
            f"{work.node.name}",
        )
    what = f"generation {work.node.generation} was not reported as applied"
    work.check_deadline(limit, since, what, doing(report))
    check_power(work, since)
    return wait_for_guest(reason or doing(report) or "the instance boots and applies its metadata")


def _check_root(work: Work, report: Mapping[str, Any]) -> str | None:
    """What the instance runs from. :raises DeployError: it is not what was written, though it knows its token."""
    booted = str(report.get("root") or "")
    if work.role.image.disk:
        found = [f"PARTUUID={uuid}" for uuid in work.detail(StepName.BOOT_LOADER)["partitions"]]
        written = booted if booted in found else " or ".join(found)
    else:
        written = build_layout(work).root_device()
    if booted and booted != written:
        raise DeployError(
            "the node did not boot from the disk that was written",
            where=work.node.name,
            cause=f"its root is {booted}; {written} was written",
            hint=f"provisioner node boot-device {work.node.name} disk --persistent, then provisioner node retry "
            f"{work.node.name}",
        )
    return booted or None


def probe(work: Work) -> Outcome:
    """Done when the node's own probe is green at the newest generation."""
    report = _report(work)
    current = report.get("state") == "applied" and int(report.get("generation", 0)) >= work.node.generation
    if current and report.get("healthy") is True:
        return done(generation=work.node.generation)
    since = work.doors.store.deployments.touched(work.deployment.id, StepName.PROBE)
    limit = work.role.health.wait + PROBE_SLACK
    check_power(work, since)
    red = [f"{name}: {probe.get('output', '')}" for name, probe in red_probes(report, "node").items()]
    if work.now - since > limit:
        raise DeployError(
            f"its probe was not green within {limit:.0f} s",
            where=work.node.name,
            cause="; ".join(red) or "no probe was reported",
        )
    return wait_for_guest(f"probe {red[0]}" if red else "the instance runs its probes")


def _report(work: Work) -> Mapping[str, Any]:
    """What the instance last said.

    :raises DeployError: that the newest generation did not come into force.
    """
    record = work.doors.store.clouds.report(work.node.name, work.deployment.id)
    report = {} if record is None else record.body
    if report.get("state") in BAD_STATES and int(report.get("generation", 0)) >= work.node.generation:
        raise report_error(work.node.name, report)
    return report
