"""Where the time of a deployment went: by step, and by who needed it. Pure."""

from __future__ import annotations

from collections import defaultdict
from enum import StrEnum

from provisioner.model.deployment import Deployment, Step, StepName, StepState


class Share(StrEnum):
    """Who needed the time. ``firmware``: from power-on to the boot script; ``kernel``: a system's start, the instance's
    with its firmware; ``bytes``: an image on its way to the disk and back; ``service``: what the instance runs until it
    is healthy; ``others``: until it was its turn to fetch the image, and the roles that come before were ready;
    ``ours``: all else, controllers' answers among it."""

    FIRMWARE = "firmware"
    KERNEL = "kernel"
    BYTES = "bytes"
    SERVICE = "service"
    OTHERS = "others"
    OURS = "ours"


def step_seconds(step: Step) -> float | None:
    """Without what it waited for others; None until it has ended."""
    return None if step.started is None or step.ended is None else max(0.0, step.ended - step.started - _waited(step))


def _waited(step: Step) -> float:
    return float(step.detail.get("waited", 0.0))


def measure_shares(deployment: Deployment) -> dict[Share, float]:
    """Seconds by share, from the begin of the first step to the end of the last; of the steps that are done."""
    found: dict[Share, float] = defaultdict(float)
    done = {step.name: step for step in deployment.steps if step.state is StepState.DONE and step.started is not None}
    if not done:
        return {}
    for step in done.values():
        for share, seconds in _split(step, done).items():
            found[share] += seconds
        found[Share.OTHERS] += _waited(step)
    begun = min(step.started or 0.0 for step in done.values())
    ended = max(step.ended or 0.0 for step in done.values())
    found[Share.OURS] += max(0.0, ended - begun - sum(found.values()))  # between two steps
    return dict(found)


def _split(step: Step, done: dict[StepName, Step]) -> dict[Share, float]:
    seconds = step_seconds(step) or 0.0
    if step.name is StepName.HELLO:
        script = done[StepName.POWER].detail.get("script") if StepName.POWER in done else None
        firmware = min(max(float(script["at"]) - (step.started or 0.0), 0.0), seconds) if script else 0.0
        return {Share.FIRMWARE: firmware, Share.KERNEL: seconds - firmware}
    if step.name is StepName.WRITE_IMAGE:
        moved = float(step.detail.get("seconds", 0.0)) + float(step.detail.get("read_back_seconds", 0.0))
        return {Share.BYTES: min(moved, seconds), Share.OURS: max(0.0, seconds - moved)}
    if step.name is StepName.CONFIGURE:
        contact = step.detail.get("contact")
        starting = min(max(float(contact) - (step.started or 0.0), 0.0), seconds) if contact else 0.0
        return {Share.KERNEL: starting, Share.SERVICE: seconds - starting}
    if step.name is StepName.PROBE:
        return {Share.SERVICE: seconds}
    return {Share.OURS: seconds}
