"""What comes after a run of steps: the node is switched off, or its instance goes on. It needs the BMC alone."""

from __future__ import annotations

import logging
from collections.abc import Callable

from provisioner.conductor.departures import go_on
from provisioner.conductor.doors import Doors
from provisioner.conductor.evidence import build_failure
from provisioner.conductor.shutdown import switch_off
from provisioner.conductor.tapes import Tapes
from provisioner.conductor.work import BMC_SECONDS, SOON, check_lease
from provisioner.errors import BmcError, Conflict, NotFound
from provisioner.model.deployment import Node
from provisioner.model.hardware import BootDevice, Firmware, Power
from provisioner.model.states import NodeState

BMC_TRIES = 5
"""How often a BMC that fails is asked, 2, 4, 8 and 16 s apart, before the node has failed."""
PURPOSES = {
    NodeState.DEPLOYING: "deploy",
    NodeState.INSPECTING: "inspect",
    NodeState.CLEANING: "clean",
    NodeState.RESCUE: "rescue",
}
"""Of a lease, by state: these have a run of steps, or what comes after it."""

LOG = logging.getLogger(__name__)


class Afterwards:
    """Both methods give the seconds after which they are to be called again; None when it is done, or has failed."""

    def __init__(self, doors: Doors, tapes: Tapes) -> None:
        self._doors = doors
        self._store = doors.store
        self._tapes = tapes
        self._asked: dict[str, tuple[int, float]] = {}
        """(tries, not before) of nodes whose BMC failed; a restart begins to count again."""

    def clean(self, node: Node, fence: int) -> float | None:
        """Power off; then nobody hears its guests any more, and the node is available."""
        return self._ask_bmc(node, lambda: self._clean(node, fence))

    def return_from_rescue(self, node: Node, fence: int) -> float | None:
        """The instance runs again, in the place that it has, as healthy as it was."""
        return self._ask_bmc(node, lambda: self._return(node, fence))

    def _ask_bmc(self, node: Node, work: Callable[[], None]) -> float | None:
        """The BMC is asked again when it fails. :param work: raises BmcError, Conflict or NotFound."""
        self._tapes.end(node.name)  # of a run that was aborted
        now = self._doors.clock.now()
        tries, not_before = self._asked.get(node.name, (0, 0.0))
        if now < not_before:
            return not_before - now
        try:
            try:
                work()
            except BmcError as error:
                if tries + 1 < BMC_TRIES:
                    pause = 2.0 ** (tries + 1)
                    self._asked[node.name] = (tries + 1, now + pause)
                    return pause
                self._give_up(node, error)
        except (Conflict, NotFound) as error:
            LOG.info("%s", error)  # aborted or forgotten while the BMC was asked
            return SOON
        self._asked.pop(node.name, None)
        return None

    def _give_up(self, node: Node, error: BmcError) -> None:
        now, what = self._doors.clock.now(), PURPOSES[node.state]
        failure = build_failure(self._doors, node.name, error, now)
        with self._store.transaction():
            self._store.nodes.move(node, NodeState.FAILED, now=now, deployment=node.deployment, failure=failure)
            self._store.leases.end(node.name, self._doors.holder)
            self._doors.tell("node.failed", f"{what}: {error}", node.name, node.deployment)

    def _clean(self, node: Node, fence: int) -> None:
        password = self._store.nodes.password(node.name)
        power = self._doors.bmcs.power(node.bmc, password, BMC_SECONDS)
        check_lease(self._doors, node.name, fence)
        if power is not Power.OFF:
            power = switch_off(self._doors, node, "", password)
            if power is not Power.OFF:
                raise BmcError(f"the power is {power} after it was switched off", where=node.name)
        now = self._doors.clock.now()
        with self._store.transaction():
            self._store.nodes.set_power(node.name, Power.OFF, now)
            known = bool(self._store.nodes.get(node.name).spec.ports)
            state = NodeState.AVAILABLE if known else NodeState.ENROLLED
            self._store.nodes.move(node, state, now=now, deployment=None)
            self._store.tokens.drop_node(node.name)
            self._store.leases.end(node.name, self._doors.holder)
            self._doors.tell(f"node.{state}", f"powered off and {state}", node.name)

    def _return(self, node: Node, fence: int) -> None:
        assert node.deployment is not None
        failure = self._store.deployments.get(node.deployment).failure
        password, bmcs = self._store.nodes.password(node.name), self._doors.bmcs
        check_lease(self._doors, node.name, fence)
        bmcs.set_power(node.bmc, password, "off", BMC_SECONDS)
        check_lease(self._doors, node.name, fence)
        bmcs.set_boot_device(node.bmc, password, BootDevice.DISK, node.spec.firmware is Firmware.UEFI, BMC_SECONDS)
        check_lease(self._doors, node.name, fence)
        bmcs.set_power(node.bmc, password, "on", BMC_SECONDS)
        now, state = self._doors.clock.now(), NodeState.ACTIVE if failure is None else NodeState.FAILED
        with self._store.transaction():
            self._store.nodes.set_power(node.name, Power.ON, now)
            self._store.nodes.move(node, state, now=now, deployment=node.deployment, failure=failure)
            go_on(self._doors, node.deployment)
            self._store.leases.end(node.name, self._doors.holder)
            self._doors.tell(f"node.{state}", "back from its rescue", node.name, node.deployment)
