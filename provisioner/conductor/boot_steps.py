"""The steps that bring a node into the ramdisk, and out of it into its instance. Each looks before it acts."""

from __future__ import annotations

from typing import NoReturn

from provisioner.conductor.doors import RAMDISK
from provisioner.conductor.ramdisk_steps import check_alone, check_power, order_agent, refuse
from provisioner.conductor.shutdown import switch_off
from provisioner.conductor.standby import adopt, ask_standby, find_standby
from provisioner.conductor.work import BMC_SECONDS, TOKEN_SECONDS, Outcome, Work, done, wait, wait_for_guest
from provisioner.errors import BmcRefused, Conflict, ImageError
from provisioner.model.deployment import CLEANING, StepName
from provisioner.model.hardware import BootDevice, Firmware, Power
from provisioner.store.tokens import BOOT
from provisioner.trust.keys import new_token

POWER_SECONDS = 120.0
HELLO_SECONDS = 600.0


def reserve(work: Work) -> Outcome:
    """The lease is held by whoever calls this; its fence number goes into the journal."""
    return done(holder=work.doors.holder, fence=work.fence)


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
    work.check_lease()
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
    work.check_lease()
    if not seen_off and power is not Power.OFF:
        power = switch_off(doors, work.node, work.deployment.id if _is_gentle(work) else None, password)
    if power is Power.OFF:
        if not seen_off:
            doors.store.deployments.set_detail(work.deployment.id, work.step.name, {"seen_off": True})
            seen_off = True
        work.check_lease()
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
    stays = placement.rebuilds is not None or placement.rescues is not None
    return work.step.name is StepName.POWER and (released or stays)


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


def hello(work: Work) -> Outcome:
    check_alone(work)
    if work.doors.store.deployments.boot_id(work.deployment.id) is not None:
        if work.doors.settings.prove_by_bmc and not work.detail(StepName.POWER).get("adopted"):
            _check_proof(work)
        return done()
    since = work.doors.store.deployments.touched(work.deployment.id, work.step.name)
    work.check_deadline(HELLO_SECONDS, since, "the ramdisk did not say hello")
    check_power(work, since)
    return wait_for_guest("the node boots the ramdisk")


def _check_proof(work: Work) -> None:
    """Only what runs on a server writes into the event log of its controller from inside.

    :raises DeployError: the ramdisk that said hello does not run on this node, or cannot prove it.
    """
    doors, spec = work.doors, work.node.spec
    steps = doors.store.deployments.get(work.deployment.id).steps
    said = next(step.detail for step in steps if step.name is StepName.HELLO)
    number = said.get("proof")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 0xFFFF:
        _unproved(work, "the ramdisk cannot prove which server it runs on", str(number or "it says nothing of it"))
    password = doors.store.nodes.password(spec.name)
    try:
        found = doors.bmcs.event_record(work.node.bmc, password, number, BMC_SECONDS)
    except BmcRefused as error:
        _unproved(work, "the ramdisk that said hello does not run on this node", str(error))
    if found.hex() != said.get("record"):
        why = f"record {number} of the event log is another"
        _unproved(work, "the ramdisk that said hello does not run on this node", why)
    doors.tell("ramdisk.proved", "its controller has heard of it from inside", spec.name, work.deployment.id)


def _unproved(work: Work, summary: str, cause: str) -> NoReturn:
    refuse(work, summary, cause, "find who has its MAC address, or set prove_by_bmc to false")
