"""One deployment beside its siblings: which step is out of line. Pure, but for what :func:`build_report` is given."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from provisioner.model.deployment import Deployment, StepName
from provisioner.model.status import DeploymentReport, StepReport
from provisioner.model.timeline import measure_shares, step_seconds

LEAST_SIBLINGS = 2
MUCH, MORE = 5.0, 1.5
"""A step is out of line that took so many seconds more, and so many times as long, as the median of its siblings."""
LOOK_AT = {
    StepName.HELLO: "its firmware settings, its boot order, and its way to the service (console: node console)",
    StepName.STORAGE: "its disks: node test --only disk",
    StepName.WRITE_IMAGE: "its link and its disk: node test --only network --only disk",
    StepName.CONFIGURE: "what its instance logs, and who held the permit: events",
    StepName.PROBE: "what its probes say: node show",
}


def build_report(deployment: Deployment, siblings: Sequence[Deployment]) -> DeploymentReport:
    """:param siblings: other deployments of its role whose steps have all ended."""
    steps, slow = [], []
    for step in deployment.steps:
        seconds = step_seconds(step)
        others = [
            taken
            for sibling in siblings
            for other in sibling.steps
            if other.name is step.name and (taken := step_seconds(other)) is not None
        ]
        usual = median(others) if len(others) >= LEAST_SIBLINGS else None
        out = seconds is not None and usual is not None and seconds > usual + MUCH and seconds > usual * MORE
        steps.append(StepReport(step=str(step.name), seconds=seconds, usual=usual, out_of_line=out))
        if out and seconds is not None and usual is not None:
            hint = f"; look at {LOOK_AT[step.name]}" if step.name in LOOK_AT else ""
            slow.append((seconds - usual, f"{step.name} took {seconds:.0f} s, {usual:.0f} s is usual{hint}"))
    return DeploymentReport(
        node=deployment.placement.node,
        role=deployment.placement.role,
        siblings=len(siblings),
        steps=tuple(steps),
        shares={str(share): round(seconds, 2) for share, seconds in measure_shares(deployment).items()},
        findings=tuple(text for _, text in sorted(slow, reverse=True)),
    )
