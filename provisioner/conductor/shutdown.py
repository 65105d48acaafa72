"""The end of an instance: the power is taken away, after it was asked to shut down where something of it is kept."""

from __future__ import annotations

from provisioner.conductor.doors import Doors
from provisioner.conductor.work import BMC_SECONDS
from provisioner.errors import BmcError, NotFound
from provisioner.model.deployment import Node
from provisioner.model.hardware import Power

SHUTDOWN_SECONDS = 90.0


def switch_off(doors: Doors, node: Node, before: str | None, password: str) -> Power:
    """:param before: the run of steps that comes after the instance; None when nothing of the node need be kept.

    :returns: what the power is then. :raises BmcError:
    """
    power = Power.ON
    if before is not None and _keeps(doors, node, before):
        power = _shut_down(doors, node, password)
    return power if power is Power.OFF else doors.bmcs.set_power(node.bmc, password, "off", BMC_SECONDS)


def _keeps(doors: Doors, node: Node, before: str) -> bool:
    """Whether the instance that ran there has volumes that the next one gets: what it has in memory is theirs."""
    store = doors.store
    ident = store.deployments.last_of(node.name, before, of_cloud=True)
    if ident is None or ident in store.deployments.never_active(node.name):
        return False
    placement = store.deployments.get(ident).placement
    try:
        role = store.clouds.get(placement.cloud).roles.get(placement.role)
    except NotFound:
        return False
    return role is not None and any(volume.keep for volume in role.storage.layout)


def _shut_down(doors: Doors, node: Node, password: str) -> Power:
    """Ask its operating system; one that does not end by then loses its power."""
    doors.tell("node.shutdown", "asked to shut down, since it has volumes that are kept", node.name)
    try:
        return doors.bmcs.set_power(node.bmc, password, "soft", SHUTDOWN_SECONDS)
    except BmcError as error:
        doors.tell("bmc.error", f"it did not shut down: {error}; its power is taken away", node.name)
        return Power.ON
