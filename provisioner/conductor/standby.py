"""A ramdisk that stayed on its node after an inspection takes on what comes next, without another start of the node."""

from __future__ import annotations

import uuid

from pydantic import ValidationError

from provisioner.conductor.work import TOKEN_SECONDS, Outcome, Work, done, wait
from provisioner.model.deployment import DeploymentState, StepName
from provisioner.model.hardware import HardwareReport, Power
from provisioner.store.tokens import BOOT
from provisioner.trust.keys import new_token

ADOPT_SECONDS = 60.0
"""More than a ramdisk that runs waits between two questions for an order."""


def find_standby(work: Work) -> str | None:
    """The inspection whose ramdisk stayed on the node, if it is the one that would be booted now."""
    if work.node.power is not Power.ON:
        return None
    store = work.doors.store
    before = store.deployments.last_of(work.node.name, work.deployment.id)
    if before is None or store.tokens.token(before, BOOT) is None:
        return None
    last = store.deployments.get(before)
    booted = next((step.detail.get("ramdisk") for step in last.steps if step.name is StepName.BOOT_FILES), None)
    same = booted == work.detail(StepName.BOOT_FILES)["ramdisk"]
    return before if same and last.placement.stays and last.state is DeploymentState.ENDED else None


def ask_standby(work: Work, before: str) -> None:
    """Its token is this deployment's from now on; the first thing that it is told is to look at its hardware again."""
    store, ident = work.doors.store, str(uuid.uuid4())
    with store.transaction():
        store.tokens.rebind(before, work.deployment.id, BOOT, work.now + TOKEN_SECONDS)
        store.deployments.put_order(work.deployment.id, ident, StepName.POWER, {"id": ident, "step": "hello"})
        news = {"adopts": store.deployments.boot_id(before) or ""}
        store.deployments.set_detail(work.deployment.id, StepName.POWER, news, touched=work.now)


def adopt(work: Work) -> Outcome | None:
    """None when the ramdisk does not answer; it then has no token any more, and a fresh one is due to the next."""
    store = work.doors.store
    if store.deployments.boot_id(work.deployment.id) == work.step.detail["adopts"]:
        return done(adopted=True)
    order = store.deployments.order(work.deployment.id)
    said = order.result if order is not None and order.step is StepName.POWER else None
    asked = store.deployments.touched(work.deployment.id, StepName.POWER)
    if said is None and work.now - asked < ADOPT_SECONDS:
        return wait("the ramdisk that runs there takes it on")
    with store.transaction():
        store.deployments.drop_order(work.deployment.id)
        if said is not None and said.get("ok") is True:
            try:
                hardware = HardwareReport.model_validate(said["detail"].get("hardware"))
            except (ValidationError, AttributeError, KeyError):
                hardware = None
            if hardware is not None:
                store.nodes.set_hardware(work.node.name, hardware, work.now)
                store.deployments.set_boot_id(work.deployment.id, str(work.step.detail["adopts"]))
                return done(adopted=True)
        store.tokens.replace(new_token(), BOOT, work.node.name, work.deployment.id, work.now + TOKEN_SECONDS)
        news = {"adopts": None, "asleep": True}
        store.deployments.set_detail(work.deployment.id, StepName.POWER, news, touched=work.now)
        message = "the ramdisk that should run there does not answer; the node is started anew"
        work.doors.tell("ramdisk.asleep", message, work.node.name, work.deployment.id)
    return None
