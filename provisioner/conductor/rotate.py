"""Gives a BMC another password such that a way in is on record at every moment, whatever ends in between.

The new password is recorded, sealed, before the BMC hears of it, and the old one is dropped only after a login with the
new one. Whoever comes back after a crash finds both, and tries which one holds.
"""

from __future__ import annotations

import secrets
import string

from provisioner.conductor.bmcs import check_idle
from provisioner.conductor.doors import Doors
from provisioner.errors import BmcError, BmcRefused, BmcSilent
from provisioner.model.deployment import Node

ROTATE_SECONDS = 30.0
PROBE_SECONDS = 8.0
LENGTH = 16
"""Letters and digits: 95 bits. The 20 that IPMI 2.0 allows are cut to 16 by some controllers without a word."""
LETTERS = string.ascii_letters + string.digits


def new_password() -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(LENGTH))


def rotate(doors: Doors, name: str) -> None:
    """Set a new password, prove it, drop the old one.

    :raises BmcError: it was not done; which password holds then is said, and a next call goes on from there.
    """
    node = check_idle(doors, name, "password")
    settle(doors, node)
    new = new_password()
    doors.store.nodes.begin_rotation(name, new)
    try:
        doors.bmcs.change_password(node.bmc, doors.store.nodes.password(name), new, ROTATE_SECONDS)
    except BmcSilent as error:
        raise BmcSilent(
            error.summary,
            where=name,
            cause=f"{error.cause}; the old and the new password are both on record",
            hint=f"when it answers again: provisioner node rotate-credentials {name}",
        ) from error
    except BmcError:
        doors.store.nodes.drop_rotation(name)  # it said no, or the old one was set back and proved
        raise
    _finish(doors, name)


def settle(doors: Doors, node: Node) -> None:
    """End a rotation that was cut off: find out which password holds.

    :raises BmcError: neither does, or the controller is silent.
    """
    new = doors.store.nodes.next_password(node.name)
    if new is None:
        return
    for password, finish in ((new, True), (doors.store.nodes.password(node.name), False)):
        try:
            doors.bmcs.power(node.bmc, password, PROBE_SECONDS)
        except BmcRefused:
            continue
        if finish:
            _finish(doors, node.name)
        else:
            doors.store.nodes.drop_rotation(node.name)
        return
    raise BmcRefused(
        "neither the old nor the new password works",
        where=node.name,
        cause="a rotation was cut off, and the controller refuses both that are on record",
        hint="set the password by other means, then enroll the node again from its hardware file",
    )


def _finish(doors: Doors, name: str) -> None:
    with doors.store.transaction():
        doors.store.nodes.end_rotation(name, doors.clock.now())
        doors.tell("credentials.rotated", "its BMC has a new password, which is proved; the old one is gone", name)
