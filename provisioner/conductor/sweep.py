"""Looks at the power of all nodes, over and over, and says what is not as it was left."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

from provisioner.conductor.doors import Doors
from provisioner.conductor.presence import leads
from provisioner.conductor.work import DARK
from provisioner.errors import BmcError, LeaseLost, ProvisionerError
from provisioner.model.deployment import Node, StepState
from provisioner.model.hardware import Power, PowerPolicy
from provisioner.model.states import AT_WORK
from provisioner.model.status import SweepResult

SWEEP_SECONDS = 8.0
"""A controller that has not answered by then is silent."""
RESTORE_SECONDS = 20.0
SOFT = "soft"
"""In a drift: the operating system was asked to end, so nothing is done about it."""

LOG = logging.getLogger(__name__)


def sweep_nodes(doors: Doors) -> Iterator[SweepResult]:
    """Ask all controllers at once and take on record what they say; the results as the answers come."""
    known = {node.name: (node, password) for node, password in doors.store.nodes.with_passwords()}
    asked = {name: (node.bmc, password) for name, (node, password) in known.items()}
    answers = (answer for batch in doors.bmcs.sweep(asked, SWEEP_SECONDS) for answer in batch.items())
    for name, answer in answers:
        node = doors.store.nodes.find(name)
        if node is None or node.bmc != asked[name][0]:
            continue  # forgotten, or enrolled anew meanwhile
        if isinstance(answer, BmcError):
            _lost(doors, node, answer)
            yield SweepResult(node=name, power=Power.UNKNOWN, error=answer.to_dict())
        else:
            drift = note_power(doors, node, known[name][0], answer)
            yield SweepResult(node=name, power=answer, drift=drift)


def _lost(doors: Doors, node: Node, error: BmcError) -> None:
    """Told once: an error that only says other seconds is the same."""
    said = error.to_dict()
    known = node.bmc_error or {}
    if (known.get("error"), known.get("summary")) == (said["error"], said["summary"]):
        return
    with doors.store.transaction():
        doors.store.nodes.set_bmc_error(node.name, said, doors.clock.now())
        doors.tell("bmc.lost", str(error), node.name)


def note_power(doors: Doors, node: Node, before: Node, power: Power) -> dict[str, Any] | None:
    """Take on record what a controller said of the power; the drift, if it is not what we left.

    :param before: the record when the question was sent: of a node that was moved since, the answer means nothing.
    """
    moved = (node.state, node.power, node.deployment) != (before.state, before.power, before.deployment)
    if node.state in AT_WORK and not moved and (power, node.power) == (Power.OFF, Power.ON):
        _note_dark(doors, node)
    if node.state in AT_WORK or moved:
        drift = node.drift if moved else None
        power = node.power if moved else power
    else:
        drift = _drift(node, power, doors.clock.now())
    if (power, drift, None) == (node.power, node.drift, node.bmc_error):
        return drift
    with doors.store.transaction():
        if drift is None and (node.drift or {}).get(SOFT):
            doors.store.nodes.set_power(node.name, power, doors.clock.now())  # it has ended, by our command
        else:
            doors.store.nodes.set_seen(node.name, power, drift, doors.clock.now())
        if node.bmc_error is not None:
            doors.tell("bmc.back", "its BMC answers again", node.name)
        if drift is not None and node.drift is None:
            doors.tell("power.drift", f"the power is {power}; it was left {drift['expected']}", node.name)
        elif drift is None and node.drift is not None:
            doors.tell("power.drift-over", f"the power is {power} again", node.name)
    return drift


def expect_end(doors: Doors, node: Node) -> None:
    """Its operating system was asked to end, and may yet: then it is off as was wished, and not switched on again."""
    if node.power is Power.ON:
        now = doors.clock.now()
        doors.store.nodes.set_seen(node.name, node.power, {"expected": str(Power.OFF), "since": now, SOFT: True}, now)


def _note_dark(doors: Doors, node: Node) -> None:
    """The step that the node is at asks its controller at once, and decides; see :func:`.ramdisk_steps.check_power`."""
    if node.deployment is None:
        return
    deployments = doors.store.deployments
    step = next((step for step in deployments.get(node.deployment).steps if step.state is StepState.RUNNING), None)
    if step is not None:
        with doors.store.transaction():
            deployments.set_detail(node.deployment, step.name, {DARK: doors.clock.now()})
            deployments.touch(node.deployment)


def _drift(node: Node, power: Power, now: float) -> dict[str, Any] | None:
    expected = Power(node.drift["expected"]) if node.drift else node.power
    if expected in (power, Power.UNKNOWN):
        return None
    return node.drift or {"expected": str(expected), "since": now}


def restore_power(doors: Doors, name: str) -> None:
    """Give a node whose policy says so the power that it was left with."""
    node = doors.store.nodes.find(name)
    if node is None or node.drift is None or node.state in AT_WORK or node.maintenance is not None:
        return
    if node.spec.power_policy is not PowerPolicy.RESTORE or node.drift.get(SOFT):
        return
    expected = node.drift["expected"]
    password = doors.store.nodes.password(name)
    try:
        doors.store.leases.take(name, doors.holder, "restore power", doors.clock.now(), 2 * RESTORE_SECONDS)
    except LeaseLost:
        return  # somebody works on it
    try:
        power = doors.bmcs.set_power(node.bmc, password, "on" if expected == "on" else "off", RESTORE_SECONDS)
    except BmcError as error:
        _lost(doors, node, error)
        return
    finally:
        doors.store.leases.end(name, doors.holder)
    with doors.store.transaction():
        doors.store.nodes.set_power(name, power, doors.clock.now())
        doors.tell("power.restored", f"the power is {power} again, because its power_policy is restore", name)


class Sweep:
    """The thread that sweeps every ``seconds``; 0: never by itself."""

    def __init__(self, doors: Doors, seconds: float) -> None:
        self._doors = doors
        self._seconds = seconds
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._seconds > 0 and self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Begin no other sweep; one that waits for the silent is left to end by itself."""
        self._stopping.set()
        self._thread = None

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            if not leads(self._doors):
                continue
            try:
                drifted = [seen.node for seen in sweep_nodes(self._doors) if seen.drift is not None]
                for name in drifted:
                    if not self._stopping.is_set():
                        restore_power(self._doors, name)
            except ProvisionerError as error:
                LOG.warning("the sweep of all controllers failed: %s", error)
            except Exception:
                LOG.exception("a fault of the program in the sweep; it goes on")
