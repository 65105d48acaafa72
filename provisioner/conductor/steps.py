"""What each step of a deployment does. A step may be begun again at any point of it, and looks before it acts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from provisioner.conductor.disk import choose_disks, guid_of_disk, mbr_of_disk
from provisioner.conductor.doors import RAMDISK
from provisioner.conductor.line import Fetch, why_wait
from provisioner.conductor.orders import build_layout, build_order
from provisioner.conductor.shutdown import switch_off
from provisioner.conductor.standby import adopt, ask_standby, find_standby
from provisioner.conductor.work import BMC_SECONDS, SOON, TOKEN_SECONDS, Outcome, Work, done, wait, wait_for_guest
from provisioner.errors import BmcError, Conflict, DeployError, ImageError, NotFound
from provisioner.model.deployment import CLEANING, TESTS, StepName
from provisioner.model.hardware import BootDevice, Firmware, HardwareReport, HardwareTest, Power, Verdict
from provisioner.model.storage import ROOT_DISK
from provisioner.store.deployments import Order
from provisioner.store.tokens import BOOT
from provisioner.trust.keys import new_token

POWER_SECONDS = 120.0
HELLO_SECONDS = 600.0
AGENT_SECONDS = 1800.0
TEST_SECONDS = 3 * 3600.0
"""The memory of a large server takes its time."""
ERASE_SECONDS = 7 * 86400.0
"""A large disk that turns is overwritten within two days."""
SILENT_SECONDS = 180.0
POWER_LOOK = 20.0
"""Seconds of silence after which a waiting step asks whether the node has lost its power, and asks again."""
CONFIGURE_SECONDS = 900.0
PLACE_SECONDS, LINE_SECONDS = 0.5, 30.0
"""Who waits in line looks again the later the more are before it, and at most after so long."""
CHUNKS = "root.zst"
"""What of an image comes over the link."""
SEED_ROOM_MIB = 16
"""At the end of a whole disk that somebody brought."""
PROBE_SLACK = 120.0
"""Seconds until a waiting step has failed; the agent's own waiting for a probe is the role's, and some more."""


def reserve(work: Work) -> Outcome:
    """The lease is held by whoever calls this; its fence number goes into the journal."""
    holder, _, _, fence = work.doors.store.leases.get(work.node.name)
    return done(holder=holder, fence=fence)


def boot_files(work: Work) -> Outcome:
    """From now on the boot script is due to the node, with a token that ends with this run of the deployment."""
    ramdisk = work.doors.catalogue.newest(RAMDISK)
    if ramdisk is None:
        raise ImageError("there is no ramdisk image", where=RAMDISK, hint="provisioner image build")
    if not work.node.spec.ports:
        try:
            work.doors.store.nodes.open_window(work.node.name, work.doors.pool)
        except Conflict as error:
            if error.where == work.node.name:
                raise
            return wait(f"its ports are not known, and the window to find them out is open for {error.where}")
    placement = work.deployment.placement
    image = "" if placement.inspects else work.doors.catalogue.get(placement.image).id
    store = work.doors.store
    if store.tokens.token(work.deployment.id, BOOT) is None:
        expiry = work.now + TOKEN_SECONDS
        store.tokens.replace(new_token(), BOOT, work.node.name, work.deployment.id, expiry)
    return done(ramdisk=ramdisk.id, image=image)


def boot_device(work: Work) -> Outcome:
    return _set_boot_device(work, BootDevice.PXE)


def boot_disk(work: Work) -> Outcome:
    return _set_boot_device(work, BootDevice.DISK)


def _set_boot_device(work: Work, device: BootDevice) -> Outcome:
    spec = work.node.spec
    password = work.doors.store.nodes.password(spec.name)
    work.doors.bmcs.set_boot_device(work.node.bmc, password, device, spec.firmware is Firmware.UEFI, BMC_SECONDS)
    return done(device=str(device))


def power(work: Work) -> Outcome:
    """A ramdisk that runs there since an inspection takes the deployment on; without one, or an answer, a new start."""
    if "adopts" in work.step.detail:
        outcome = adopt(work)
        if outcome is not None:
            return outcome
    elif "asleep" not in work.step.detail and (before := find_standby(work)) is not None:
        ask_standby(work, before)
        return wait("the ramdisk that runs there takes it on")
    return power_cycle(work)


def power_cycle(work: Work) -> Outcome:
    """Off if it is on, then on. That it was seen off is journaled, so that a node just switched on is left alone."""
    doors, spec = work.doors, work.node.spec
    password = doors.store.nodes.password(spec.name)
    power = doors.bmcs.power(work.node.bmc, password, BMC_SECONDS)
    seen_off = bool(work.step.detail.get("seen_off"))
    if not seen_off and power is not Power.OFF:
        power = switch_off(doors, work.node, work.deployment.id if _is_gentle(work) else None, password)
    if power is Power.OFF:
        if not seen_off:
            doors.store.deployments.set_detail(work.deployment.id, work.step.name, {"seen_off": True})
            seen_off = True
        power = doors.bmcs.set_power(work.node.bmc, password, "on", BMC_SECONDS)
    doors.store.nodes.set_power(spec.name, power, work.now)
    if seen_off and power is Power.ON:
        return done()
    since = doors.store.deployments.touched(work.deployment.id, work.step.name)
    work.check_deadline(POWER_SECONDS, since, "the power did not change")
    return wait(f"the power is {power}")


def _is_gentle(work: Work) -> bool:
    """Whether an instance may run there whose volumes are to be kept."""
    placement = work.deployment.placement
    released = placement.role == CLEANING and placement.erase is None
    return work.step.name is StepName.POWER and (released or placement.rebuilds is not None)


def restart(work: Work) -> Outcome:
    """From its own disk now; the ramdisk's token ends with it.

    Where the role wants it and the ramdisk can, by the ramdisk's kernel; what it cannot do is done by the power.
    """
    outcome = power_cycle(work) if work.role.start == "power" or "refused" in work.step.detail else _jump(work)
    if outcome.done:
        with work.doors.store.transaction():
            work.doors.store.tokens.drop(work.deployment.id, BOOT)
            work.doors.store.deployments.drop_order(work.deployment.id)
    return outcome


def _jump(work: Work) -> Outcome:
    store = work.doors.store.deployments
    order = store.order(work.deployment.id)
    if order is not None and order.step is StepName.RESTART and order.result and order.result.get("ok") is not True:
        refused = str((order.result.get("error") or {}).get("summary") or "it gave no reason")
        store.set_detail(work.deployment.id, work.step.name, {"refused": refused})
        message = f"it cannot start the instance by itself: {refused}; its power is switched"
        work.doors.tell("restart.refused", message, work.node.name, work.deployment.id)
        return wait("its power is switched")
    outcome = order_agent(work)
    return done(how="kexec") if outcome.done else outcome


def check_power(work: Work, since: float) -> None:
    """A node without power would be waited for until the step's deadline.

    :param since: when it was last heard. :raises DeployError: its BMC says that it is off.
    """
    doors, spec = work.doors, work.node.spec
    if work.now - max(since, float(work.step.detail.get("looked", 0.0))) < POWER_LOOK:
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
    again = detail.get("script_again")
    if again is None:
        return
    work.doors.store.tokens.drop(work.deployment.id, BOOT)
    first = detail.get("script") or {"peer": "the ramdisk that stayed", "at": again["at"]}
    raise DeployError(
        "its boot script was asked for twice after one power-on",
        where=work.node.name,
        cause=f"from {first['peer'] or '?'}, and {again['at'] - first['at']:.0f} s later from {again['peer'] or '?'} "
        f"({again['mac']}): it restarted by itself, or another machine has its MAC address",
        hint=f"provisioner node console {work.node.name} shows whether it restarts; then provisioner node retry "
        f"{work.node.name}",
    )


def hello(work: Work) -> Outcome:
    check_alone(work)
    if work.doors.store.deployments.boot_id(work.deployment.id) is not None:
        return done()
    since = work.doors.store.deployments.touched(work.deployment.id, work.step.name)
    work.check_deadline(HELLO_SECONDS, since, "the ramdisk did not say hello")
    check_power(work, since)
    return wait_for_guest("the node boots the ramdisk")


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
        wipe=work.role.storage.wipe or placement.wipe,
        own_tables=_own_tables(work),
    )
    disk = chosen[ROOT_DISK]
    names = {name: found.name for name, found in chosen.items()}
    return done(disk=disk.name, size=disk.size, model=disk.model, serial=disk.serial, disks=names)


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


def write_image(work: Work) -> Outcome:
    """An order like the others, once it is this node's turn; its deadlines begin with the order."""
    store, ident = work.doors.store, work.deployment.id
    with store.transaction():
        order = store.deployments.order(ident)
        if order is None or order.step is not work.step.name:
            turn = why_wait(ident, _fetches(work), work.doors.settings.bytes_in_flight)
            if turn is not None:
                reason, place = turn
                return Outcome(False, {}, reason, min(SOON + place * PLACE_SECONDS, LINE_SECONDS))
            store.deployments.set_detail(ident, work.step.name, {"resumed": work.now}, touched=work.now)
            _give_order(work)
            return wait_for_guest("the ramdisk fetches its order")
    return order_agent(work)


def _fetches(work: Work) -> list[Fetch]:
    """All that are at this step, everywhere."""
    found = []
    for ident, image_id, since, begun, detail in work.doors.store.deployments.at_step(work.step.name):
        size = work.doors.catalogue.get(image_id).sizes.get(CHUNKS, 0)
        total, done = float(detail.get("total") or 1), float(detail.get("bytes") or 0)
        left = 0 if detail.get("phase") == "read back" else round(size * (1 - min(1.0, done / total)))
        found.append(Fetch(ident, since, left, begun, detail.get("remaining")))
    return found


def inspect(work: Work) -> Outcome:
    """The whole report, with what takes the agent a while to find out."""
    outcome = order_agent(work)
    if not outcome.done:
        return outcome
    try:
        hardware = HardwareReport.model_validate(outcome.detail.get("hardware"))
    except ValidationError as error:
        raise DeployError("the hardware report cannot be understood", where=work.node.name, cause=str(error)) from error
    work.doors.store.nodes.set_hardware(work.node.name, hardware, work.now)
    return done(cpus=hardware.cpus, memory_mib=hardware.memory_mib, disks=len(hardware.disks), nics=len(hardware.nics))


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


def erase(work: Work) -> Outcome:
    """The disks as they are afterwards are on record: what they held before is not warned of any more."""
    outcome = order_agent(work, ERASE_SECONDS)
    if not outcome.done:
        return outcome
    detail = dict(outcome.detail)
    try:
        hardware = HardwareReport.model_validate(detail.pop("hardware", None))
    except ValidationError as error:
        raise DeployError("the hardware report cannot be understood", where=work.node.name, cause=str(error)) from error
    work.doors.store.nodes.set_hardware(work.node.name, hardware, work.now)
    return done(**detail)


def _record_test(work: Work, result: HardwareTest) -> None:
    part = TESTS[work.step.name]
    with work.doors.store.transaction():
        work.doors.store.nodes.set_test(work.node.name, part, result)
        message = f"{part} {result.verdict}: {result.summary}"
        work.doors.tell(f"test.{result.verdict}", message, work.node.name, work.deployment.id)


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
        body = {"id": ident} | build_order(work)
        store.deployments.put_order(work.deployment.id, ident, work.step.name, body)


def configure(work: Work) -> Outcome:
    """Done when the config agent says that the newest generation is in force."""
    report = _report(work)
    if report.get("state") == "applied" and int(report.get("generation", 0)) >= work.node.generation:
        return done(generation=work.node.generation, root=_check_root(work, report))
    reason, asked = work.doors.store.nodes.waiting(work.node.name)
    since = max(asked, work.doors.store.deployments.touched(work.deployment.id, StepName.CONFIGURE))
    limit = CONFIGURE_SECONDS + work.role.health.wait
    work.check_deadline(limit, since, f"generation {work.node.generation} was not reported as applied")
    check_power(work, since)
    return wait_for_guest(reason or "the instance boots and applies its metadata")


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


BAD_STATES = frozenset({"failed", "rolled-back", "broken"})
"""States of a report that say: the generation is not in force."""


def report_error(node: str, report: Mapping[str, Any]) -> DeployError:
    error = report.get("error") or {}
    return DeployError(
        f"generation {report.get('generation')} {report.get('state')}: {error.get('summary') or 'no reason was given'}",
        where=node,
        cause=error.get("cause"),
    )


def red_probes(report: Mapping[str, Any], scope: str) -> dict[str, Mapping[str, Any]]:
    probes: Mapping[str, Mapping[str, Any]] = report.get("probes") or {}
    return {
        name: probe for name, probe in probes.items() if probe.get("scope") == scope and probe.get("ok") is not True
    }


ACTIONS: Mapping[StepName, Callable[[Work], Outcome]] = {
    StepName.RESERVE: reserve,
    StepName.BOOT_FILES: boot_files,
    StepName.BOOT_DEVICE: boot_device,
    StepName.POWER: power,
    StepName.HELLO: hello,
    StepName.CHOOSE_DISK: choose,
    StepName.STORAGE: order_agent,
    StepName.WRITE_IMAGE: write_image,
    StepName.SEED_INSTANCE: order_agent,
    StepName.BOOT_LOADER: order_agent,
    StepName.BOOT_DISK: boot_disk,
    StepName.RESTART: restart,
    StepName.CONFIGURE: configure,
    StepName.PROBE: probe,
    StepName.INSPECT: inspect,
    StepName.ERASE: erase,
    **dict.fromkeys(TESTS, test),
}
