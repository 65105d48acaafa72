"""The steps that the ramdisk agent does: one order each, given once, waited for; and what is watched meanwhile."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from contextlib import suppress
from typing import NoReturn

from pydantic import ValidationError

from provisioner.conductor.disk import choose_disks, guid_of_disk, mbr_of_disk
from provisioner.conductor.line import Fetch, why_wait
from provisioner.conductor.orders import build_order
from provisioner.conductor.status import READY, ready_roles
from provisioner.conductor.work import (
    BMC_SECONDS,
    DARK,
    LATER,
    SOON,
    TOKEN_SECONDS,
    Outcome,
    Work,
    done,
    wait,
    wait_for_guest,
)
from provisioner.errors import BmcError, DeployError, ImageError, NotFound
from provisioner.model.deployment import TESTS, StepName
from provisioner.model.hardware import HardwareReport, HardwareTest, Power, Verdict
from provisioner.model.storage import ROOT_DISK
from provisioner.store.deployments import Order
from provisioner.store.tokens import BOOT

AGENT_SECONDS = 1800.0
TEST_SECONDS = 3 * 3600.0
"""The memory of a large server takes its time."""
ERASE_SECONDS = 7 * 86400.0
"""A large disk that turns is overwritten within two days."""
SILENT_SECONDS = 180.0
POWER_LOOK = 60.0
"""Seconds of silence after which a waiting step asks whether the node has lost its power, and asks again; it asks at
once when a sweep has seen it off."""
PLACE_SECONDS, LINE_SECONDS = 0.5, 30.0
"""Who waits in line looks again the later the more are before it, and at most after so long."""
CHUNKS = "root.zst"
"""What of an image comes over the link."""
SEED_ROOM_MIB = 16
"""At the end of a whole disk that somebody brought."""


def check_power(work: Work, since: float) -> None:
    """A node without power would be waited for until the step's deadline.

    :param since: when it was last heard. :raises DeployError: its BMC says that it is off.
    """
    doors, spec = work.doors, work.node.spec
    known = max(since, float(work.step.detail.get("looked", 0.0)))
    if work.now - known < POWER_LOOK and float(work.step.detail.get(DARK, 0.0)) < known:
        return
    doors.store.deployments.set_detail(work.deployment.id, work.step.name, {"looked": work.now})
    try:
        power = doors.bmcs.power(work.node.bmc, doors.store.nodes.password(spec.name), BMC_SECONDS)
    except BmcError:
        return  # it says nothing about the node, which may be at work
    if power is Power.OFF:
        doors.store.nodes.set_power(spec.name, power, work.now)
        raise DeployError("the node's power is off, and nobody here switched it off", where=spec.name)


def check_alone(work: Work) -> None:
    """:raises DeployError: somebody fetched the boot script, and with it the token, beside the node."""
    detail = work.detail(StepName.POWER)
    stranger, again = detail.get("hello_again"), detail.get("script_again")
    if stranger is not None:
        refuse(
            work,
            "a second machine said hello with the token of its ramdisk",
            f"from {stranger['peer'] or '?'}, {stranger['mac'] or '?'}: it has read the boot script on the wire",
            "find that machine",
        )
    if again is not None:
        first = detail.get("script") or {"peer": "the ramdisk that stayed", "at": again["at"]}
        refuse(
            work,
            "its boot script was asked for twice after one power-on",
            f"from {first['peer'] or '?'}, and {again['at'] - first['at']:.0f} s later from {again['peer'] or '?'} "
            f"({again['mac']}): it restarted by itself, or another machine has its MAC address",
            f"provisioner node console {work.node.name} shows whether it restarts",
        )


def refuse(work: Work, summary: str, cause: str, hint: str) -> NoReturn:
    """Whoever speaks with the deployment's token may not be the node: nobody is heard by it any more.

    :param hint: what to do before the retry. :raises DeployError: always.
    """
    work.doors.store.tokens.drop(work.deployment.id)
    again = f"{hint}; then provisioner node retry {work.node.name}"
    raise DeployError(summary, where=work.node.name, cause=cause, hint=again)


def order_agent(work: Work, limit: float = AGENT_SECONDS) -> Outcome:
    """A step that the ramdisk agent does: one order, given once, waited for."""
    check_alone(work)
    store, name = work.doors.store, work.step.name
    order = store.deployments.order(work.deployment.id)
    if order is None or order.step is not name:
        _give_order(work)
        return wait_for_guest("the ramdisk fetches its order")
    if order.result is not None:
        return _finished(work, order)
    touched = store.deployments.touched(work.deployment.id, name)
    work.check_deadline(SILENT_SECONDS, touched, f"the ramdisk did not come on with {name}")
    begun = max(work.step.started or touched, float(work.step.detail.get("resumed", 0.0)))
    work.check_deadline(limit, begun, f"the ramdisk did not end {name}")
    check_power(work, touched)
    return wait_for_guest("the ramdisk works on it")


def _finished(work: Work, order: Order) -> Outcome:
    result = order.result or {}
    if result.get("ok") is True:
        return done(**dict(result.get("detail") or {}))
    error = result.get("error") or {}
    raise DeployError(
        f"the ramdisk could not do {order.step}: {error.get('summary') or 'it gave no reason'}",
        where=work.node.name,
        cause=error.get("cause"),
    )


def _give_order(work: Work) -> None:
    ident = str(uuid.uuid4())
    store = work.doors.store
    with store.transaction():
        work.check_lease()
        body = {"id": ident} | build_order(work)
        store.deployments.put_order(work.deployment.id, ident, work.step.name, body)


def choose(work: Work) -> Outcome:
    """Hints and guard of :mod:`provisioner.conductor.disk`, over the hardware that the ramdisk has just reported."""
    node, placement = work.node, work.deployment.placement
    if node.hardware is None:
        return wait("the ramdisk reports the hardware")
    image, storage = work.doors.catalogue.get(placement.image), work.role.storage
    if work.role.image.disk:
        storage = storage.model_copy(update={"esp_mib": SEED_ROOM_MIB})
    chosen = choose_disks(
        node.name,
        node.hardware,
        node.spec.root_disk,
        storage,
        root_min=work.doors.catalogue.index(placement.image).size,
        sector=image.sector,
        wipe=work.role.storage.wipe or placement.wipe or node.name in _named_to_wipe(work),
        own_tables=_own_tables(work),
    )
    disk = chosen[ROOT_DISK]
    names = {name: found.name for name, found in chosen.items()}
    return done(disk=disk.name, size=disk.size, model=disk.model, serial=disk.serial, disks=names)


def _named_to_wipe(work: Work) -> Collection[str]:
    """What the cloud file says by now, and may not have said when this was planned."""
    placement = work.deployment.placement
    use = work.doors.store.clouds.get(placement.cloud).cloud.roles.get(placement.role)
    return () if use is None else use.wipe


def _own_tables(work: Work) -> set[str]:
    """What the tables call themselves that deployments of this node wrote which never became active."""
    store, found = work.doors.store.deployments, set[str]()
    rebuilt = work.deployment.placement.rebuilds
    for ident in [*store.never_active(work.node.name), *([rebuilt] if rebuilt else [])]:
        for name in (ROOT_DISK, *work.role.storage.disks):
            found |= {guid_of_disk(ident, name), mbr_of_disk(ident, name)}
    for ident in [*store.since_active(work.node.name), *([rebuilt] if rebuilt else [])]:
        # A whole disk is called alike wherever it is, so only what came after the last instance that was in use counts.
        deployment = store.get(ident)
        if any(step.name is StepName.STORAGE and step.attempts for step in deployment.steps):
            with suppress(ImageError, NotFound):
                found.add(work.doors.catalogue.get(deployment.placement.image).table)
    return found - {""}


def write_image(work: Work) -> Outcome:
    """An order like the others, once it is this node's turn; its deadlines begin with the order."""
    store, ident, limit = work.doors.store, work.deployment.id, work.doors.settings.bytes_in_flight
    with store.transaction():
        order = store.deployments.order(ident)
        if order is None or order.step is not work.step.name:
            if "fetch" not in work.step.detail:
                image = work.doors.catalogue.get(work.deployment.placement.image)
                store.deployments.set_detail(ident, work.step.name, {"fetch": image.sizes.get(CHUNKS, 0)})
            crowded = bool(limit) and store.deployments.sum_at_step(work.step.name, "fetch") > limit
            turn = why_wait(ident, _fetches(work), limit) if crowded else None
            if turn is not None:
                reason, place = turn
                return Outcome(False, {}, reason, min(SOON + place * PLACE_SECONDS, LINE_SECONDS))
            _end_waiting(work)
            _give_order(work)
            return wait_for_guest("the ramdisk fetches its order")
    return order_agent(work)


def _end_waiting(work: Work) -> None:
    """It is its turn: the step's deadlines begin, and what has passed of it was not its own time."""
    waited = work.now - (work.step.started or work.now)
    detail = {"resumed": work.now, "waited": round(waited, 1) if waited >= 1.0 else None}
    work.doors.store.deployments.set_detail(work.deployment.id, work.step.name, detail, touched=work.now)


def _fetches(work: Work) -> list[Fetch]:
    """All that are at this step, everywhere."""
    found = []
    for ident, since, begun, detail in work.doors.store.deployments.at_step(work.step.name):
        size = int(detail.get("fetch", 0))
        total, done = float(detail.get("total") or 1), float(detail.get("bytes") or 0)
        left = 0 if detail.get("phase") == "read back" else round(size * (1 - min(1.0, done / total)))
        found.append(Fetch(ident, since, left, begun, detail.get("remaining")))
    return found


def seed_instance(work: Work) -> Outcome:
    """An order like the others, once the roles that come before are ready: they were not waited for until here, so that
    the disk is written meanwhile. Its deadlines begin with the order."""
    store, ident, name = work.doors.store, work.deployment.id, work.step.name
    order = store.deployments.order(ident)
    if order is not None and order.step is name:
        return order_agent(work)
    reason = _missing_roles(work)
    if reason is None:
        _end_waiting(work)
        return order_agent(work)
    check_alone(work)
    touched = store.deployments.touched(ident, name)
    if work.now - touched > TOKEN_SECONDS / 4:
        store.deployments.set_detail(ident, name, {}, touched=work.now)
        store.tokens.extend(ident, BOOT, work.now + TOKEN_SECONDS)
    check_power(work, touched)
    return Outcome(False, {}, reason, LATER)


def _missing_roles(work: Work) -> str | None:
    """Why the deployment has to wait for other roles."""
    if not work.role.after:
        return None
    # Who brought a permit along is itself what those may wait for with their newest generation.
    held = work.doors.store.permits.held_by(work.deployment.id) is not None
    ready = ready_roles(work.doors, work.deployment.placement.cloud, newest=not held)
    missing = [f"{name} ({ready.get(name, 'not deployed')})" for name in work.role.after if ready.get(name) != READY]
    return f"waits until these roles are ready: {', '.join(missing)}" if missing else None


def inspect(work: Work) -> Outcome:
    """The whole report, with what takes the agent a while to find out."""
    outcome = order_agent(work)
    if not outcome.done:
        return outcome
    hardware = _record_hardware(work, outcome.detail.get("hardware"))
    return done(cpus=hardware.cpus, memory_mib=hardware.memory_mib, disks=len(hardware.disks), nics=len(hardware.nics))


def _record_hardware(work: Work, raw: object) -> HardwareReport:
    """:raises DeployError: it is no report."""
    try:
        hardware = HardwareReport.model_validate(raw)
    except ValidationError as error:
        raise DeployError("the hardware report cannot be understood", where=work.node.name, cause=str(error)) from error
    work.doors.store.nodes.set_hardware(work.node.name, hardware, work.now)
    return hardware


def test(work: Work) -> Outcome:
    """A hardware test, whose result is recorded whatever it is: a bad one keeps the node from being deployed."""
    try:
        outcome = order_agent(work, TEST_SECONDS)
    except DeployError as error:
        order = work.doors.store.deployments.order(work.deployment.id)
        if order is not None and order.result is None:  # under the load it fell silent, or went off
            _record_test(work, HardwareTest(verdict=Verdict.FAILED, summary=error.summary, at=work.now))
        raise
    if not outcome.done:
        return outcome
    try:
        result = HardwareTest.model_validate({**outcome.detail, "at": work.now})
    except ValidationError as error:
        raise DeployError("the result cannot be understood", where=work.node.name, cause=str(error)) from error
    _record_test(work, result)
    return done(verdict=str(result.verdict), summary=result.summary)


def _record_test(work: Work, result: HardwareTest) -> None:
    part = TESTS[work.step.name]
    with work.doors.store.transaction():
        work.doors.store.nodes.set_test(work.node.name, part, result)
        message = f"{part} {result.verdict}: {result.summary}"
        work.doors.tell(f"test.{result.verdict}", message, work.node.name, work.deployment.id)


def erase(work: Work) -> Outcome:
    """The disks as they are afterwards are on record: what they held before is not warned of any more."""
    outcome = order_agent(work, ERASE_SECONDS)
    if not outcome.done:
        return outcome
    detail = dict(outcome.detail)
    _record_hardware(work, detail.pop("hardware", None))
    return done(**detail)


def rescue(work: Work) -> Outcome:
    """Let an operator in, and wait until he says that it is over: as long as he likes."""
    if "open" not in work.step.detail:
        outcome = order_agent(work)
        if not outcome.done:
            return outcome
        address = next((port.address for port in work.doors.store.nodes.ports_of(work.node.name) if port.address), None)
        way = f"ssh root@{address}" if address and work.deployment.placement.keys else "its console"
        work.doors.tell("node.rescue", f"open to an operator: {way}", work.node.name, work.deployment.id)
        return wait(f"in rescue: {way}", open=True, **outcome.detail)
    check_alone(work)
    return Outcome(False, {}, work.step.detail.get("waiting"), LATER)
