"""The values of members and where they come from; secrets that somebody brings."""

from __future__ import annotations

import re

from provisioner.conductor.clouds import renew_metadata
from provisioner.conductor.doors import Doors
from provisioner.errors import Conflict, UsageError
from provisioner.manifest.explain import explain_values
from provisioner.model.hardware import NAME
from provisioner.model.values import MemberValues

SECRET_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_-]{0,99}$")


def explain_node(doors: Doors, name: str) -> MemberValues:
    """The values of a node's place in its cloud, and where each comes from.

    :raises NotFound: there is no such node. :raises Conflict: it has no place in a cloud.
    """
    store = doors.store
    node = store.nodes.get(name)
    placement = None if node.deployment is None else store.deployments.placement(node.deployment)
    desired = None if placement is None else store.clouds.find(placement.cloud)
    if placement is None or desired is None or placement.role not in desired.roles:
        raise Conflict("it has no place in a cloud", where=name, hint=f"provisioner node show {name}")
    zone = node.spec.location.zone
    return MemberValues(
        cloud=placement.cloud,
        role=placement.role,
        hostname=placement.hostname,
        node=name,
        zone=zone,
        values=tuple(explain_values(desired, placement.role, zone, name)),
    )


def store_secret(doors: Doors, cloud: str, name: str, value: str) -> bool:
    """Keep a secret that somebody brings; whether the cloud is on record, whose members then get it at once.

    :raises UsageError: the name is none.
    """
    if not SECRET_NAME.match(name) or not NAME.match(cloud):
        hint = "a secret: letters, digits and underscores; a cloud: as its file says"
        raise UsageError("not a name", where=f"{cloud} {name}", hint=hint)
    store = doors.store
    with store.transaction():
        store.clouds.put_secret(cloud, name, value)
        known = store.clouds.find(cloud) is not None
        if known:
            renew_metadata(doors, cloud)
    return known
