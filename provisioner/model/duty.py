"""Which service of a site is its master: the only one that changes records, answers DHCP and tells guests anything."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from provisioner.model.value import Value


class DutyState(StrEnum):
    """How the records at hand stand to the duty; in the order of a handover.

    ``master``: they are in force. ``copying``: still, while images are copied to the next master. ``frozen``: nothing
    is written, and nobody is told anything; there is no master for a while. ``ceded``: the epoch has moved, the other
    may take over at any moment, and from here there is no way back. ``tombstone``: the other has said that it did.
    """

    MASTER = "master"
    COPYING = "copying"
    FROZEN = "frozen"
    CEDED = "ceded"
    TOMBSTONE = "tombstone"

    @property
    def in_force(self) -> bool:
        return self in (DutyState.MASTER, DutyState.COPYING)

    @property
    def may_cancel(self) -> bool:
        return self in (DutyState.COPYING, DutyState.FROZEN)


class Duty(Value):
    """``epoch`` is a fencing number: it grows by one with each handover, and who has a smaller one is not obeyed.

    ``node``: to which the duty goes or went; on records that came by a handover and are in force, the node that the
    service itself runs on. ``handover``: id of the attempt. ``since``: seconds since the epoch of clocks.
    ``detail``: how far it came; ``failure`` is why the last attempt ended, as an error's map.
    """

    epoch: int = 1
    state: DutyState = DutyState.MASTER
    node: str = ""
    handover: str = ""
    since: float = 0.0
    detail: dict[str, Any] = Field(default_factory=dict)

    @property
    def own_node(self) -> str:
        """The node on record that the service itself runs on; empty where it runs on none."""
        return str(self.detail.get("own_node", ""))
