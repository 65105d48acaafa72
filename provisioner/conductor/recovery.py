"""A role whose members were all down begins again once: from the member that had come furthest.

An outage begins with the first member that finds no other one alive and says how far it had come. It is over when a
member is healthy. What was said in an outage counts in that one only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioner.conductor.doors import Doors
from provisioner.conductor.quorum import Decision, Position, Voice, decide, describe_loss
from provisioner.errors import Conflict, NotFound, UsageError
from provisioner.model.deployment import Deployment, Node
from provisioner.model.hardware import Power
from provisioner.model.role import Desired
from provisioner.model.status import MemberPosition, RecoveryStatus
from provisioner.store.recoveries import LEADS, NAMED, OVER, PositionRecord, RecoveryRecord
from provisioner.store.store import Store

LEAD, JOIN, WAIT = "lead", "join", "wait"
HISTORY = re.compile(r"^[A-Za-z0-9_.:-]{0,100}$")
LARGEST = (1 << 63) - 1
"""Sequence that a column holds."""
ASKED_SECONDS = 30.0
"""Seconds after which a member that asks in vain is noted to have been heard again."""
UNHEARD_SECONDS = 180.0
"""After which a member that asked, and would ask again and again, has stopped to ask."""
WAITS = "recovery: "
"""What the reason begins with for which a member waits here."""


@dataclass(frozen=True)
class Speaker:
    """A member that finds no other one alive."""

    node: Node
    deployment: Deployment
    desired: Desired


def parse_position(message: Mapping[str, Any], node: str) -> Position:
    """:raises UsageError: the message has another shape."""
    history, sequence = message.get("history"), message.get("sequence")
    if not isinstance(history, str) or not HISTORY.match(history):
        raise UsageError("the position has no history", where=node)
    if isinstance(sequence, bool) or not isinstance(sequence, int) or not -1 <= sequence <= LARGEST:
        raise UsageError("the position has no sequence", where=node)
    return Position(history, sequence)


def answer(doors: Doors, who: Speaker, position: Position) -> dict[str, Any]:
    """Take a member's word, and tell it to lead, to join, or why it waits; in the transaction that is open.

    Asking again with the same word changes nothing, but to lead is said once: who asks again after that begins another
    outage, in which all speak anew.
    """
    store, now, ident = doors.store, doors.clock.now(), who.deployment.id
    cloud, role = who.deployment.placement.cloud, who.deployment.placement.role
    spec = who.desired.roles.get(role)
    if spec is None or not spec.recover:
        return {"verdict": JOIN, "why": f"members of {role} do not wait for each other", "fence": 0}
    if who.node.healthy is True:
        store.nodes.set_health(who.node.name, who.node.applied, False, now)
    store.nodes.note_spoke(who.node.name, now, ASKED_SECONDS)
    recovery = store.recoveries.get(cloud, role)
    if recovery is not None and recovery.state == OVER and ident in store.recoveries.positions(recovery):
        store.recoveries.drop(ident)  # the next word is of another outage
        return _tell(doors, who, JOIN, f"{role} is up again", recovery.fence)
    if recovery is None or recovery.state == OVER or _is_void(recovery, ident):
        recovery = store.recoveries.open(cloud, role, now)
        doors.tell("recovery.begun", f"no member of {role} is alive", who.node.name, ident, outage=recovery.outage)
    known = store.recoveries.positions(recovery).get(ident)
    given_up = known is not None and known.lost and recovery.state in (NAMED, LEADS)
    if not given_up and not _is_same(known, position):
        store.recoveries.say(recovery, ident, position.history, position.sequence, now)
        doors.tell("recovery.position", f"had come to {position}", who.node.name, ident, outage=recovery.outage)
    recovery, decision = _settle(doors, recovery)
    if recovery.state == NAMED and recovery.leader == ident:
        store.recoveries.lead(recovery)
        return _tell(doors, who, LEAD, decision.why, recovery.fence)
    return _tell(doors, who, WAIT, decision.why, recovery.fence)


def _is_void(recovery: RecoveryRecord, ident: str) -> bool:
    """Whether who was told to begin asks again: it may have been up since, and others have gone on without it."""
    return recovery.state == LEADS and recovery.leader == ident


def _is_same(known: PositionRecord | None, position: Position) -> bool:
    if known is None or not known.said or known.lost:
        return False
    return (known.history, known.sequence) == (position.history, position.sequence)


def _tell(doors: Doors, who: Speaker, verdict: str, why: str, fence: int) -> dict[str, Any]:
    wanted = f"{WAITS}{why}" if verdict == WAIT else None
    known, _ = doors.store.nodes.waiting(who.node.name)
    if known != wanted and (wanted is not None or (known or "").startswith(WAITS)):
        doors.store.nodes.set_waiting(who.node.name, wanted, doors.clock.now())
    return {"verdict": verdict, "why": why, "fence": fence}


def _settle(doors: Doors, recovery: RecoveryRecord) -> tuple[RecoveryRecord, Decision]:
    """Name who begins again, if that can be said now. Whoever was named stays it while it is a member, and not lost;
    before it is told so, only while all that was said holds: others may have been up meanwhile, and have gone on."""
    voices = read_voices(doors.store, recovery, doors.clock.now())
    leader = next((voice for voice in voices if voice.deployment == recovery.leader and not voice.lost), None)
    holds = recovery.state == LEADS or all(voice.position is not None or voice.lost for voice in voices)
    if leader is not None and recovery.state in (NAMED, LEADS) and holds:
        return recovery, Decision(leader, f"{leader} begins again from {leader.position}")
    if recovery.state == LEADS:
        lost = [voice for voice in voices if voice.deployment == recovery.leader]
        recovery = doors.store.recoveries.open(recovery.cloud, recovery.role, doors.clock.now())
        for voice in lost:
            doors.store.recoveries.give_up(recovery, voice.deployment, doors.clock.now())
        voices = read_voices(doors.store, recovery, doors.clock.now())
    elif recovery.state == NAMED:
        recovery = doors.store.recoveries.unname(recovery)
    decision = decide(recovery.cloud, recovery.role, voices)
    if decision.leader is not None:
        recovery = doors.store.recoveries.name(recovery, decision.leader.deployment)
        named = decision.leader
        doors.tell("recovery.named", f"{decision.why}, fence {recovery.fence}", named.node, named.deployment)
    return recovery, decision


def read_voices(store: Store, recovery: RecoveryRecord, now: float) -> list[Voice]:
    """All members that may hold state, by number. Whoever has never run holds none, and counts when it speaks."""
    said = store.recoveries.positions(recovery)
    voices = []
    for index, member in enumerate(store.permits.members(recovery.cloud, recovery.role)):
        known = said.get(member.deployment)
        if known is None and not (member.deployed or member.rebuilds or member.applied):
            continue
        # Who asked and is silent since may be up where we cannot see it, and have gone on.
        silent = member.heard is not None and now - member.heard > UNHEARD_SECONDS
        position = Position(known.history, known.sequence) if known is not None and known.said and not silent else None
        lost = known is not None and known.lost
        voices.append(Voice(member.deployment, member.hostname, member.node, index, position, lost))
    return voices


def note_healthy(doors: Doors, node: Node, ident: str) -> None:
    """A member is healthy: whatever outage its role was in is over. In the transaction that is open.

    :param ident: of its deployment.
    """
    store = doors.store
    placement = store.deployments.placement(ident)
    waiting, _ = store.nodes.waiting(node.name)
    if waiting is not None and waiting.startswith(WAITS):
        store.nodes.set_waiting(node.name, None, doors.clock.now())
    recovery = store.recoveries.get(placement.cloud, placement.role)
    if recovery is None:
        return
    if ident in store.recoveries.positions(recovery):
        store.recoveries.drop(ident)
    if recovery.state != OVER:
        store.recoveries.end(recovery)
        message = f"{placement.role} is up again; {placement.hostname} is healthy"
        doors.tell("recovery.over", message, node.name, ident, outage=recovery.outage)


def leave_out(doors: Doors, cloud: str, role: str, names: tuple[str, ...]) -> RecoveryStatus:
    """Do not wait for these nodes in the outage that goes on; what they alone held may be lost.

    :raises NotFound: no such cloud, or a node is not a member. :raises Conflict: no member asks, a node may be at work,
        or nobody would be left.
    """
    store, now = doors.store, doors.clock.now()
    with store.transaction():
        recovery = _going_on(store, cloud, role)
        for name in names:
            voices = read_voices(store, recovery, now)
            voice = next((one for one in voices if one.node == name), None)
            if voice is None:
                raise NotFound(f"{name} is no member of {role}", where=cloud, hint=f"provisioner cloud status {cloud}")
            _check_off(store.nodes.get(name), voice, recovery)
            if all(one.lost for one in voices if one.node != name):
                raise Conflict(f"nobody of {role} would be left", where=cloud, hint=f"provisioner cloud status {cloud}")
            loss = describe_loss(voice, voices)
            store.recoveries.give_up(recovery, voice.deployment, now)
            doors.tell("recovery.lost", f"an operator does not wait for it: {loss}", name, voice.deployment)
            recovery = _settle(doors, recovery)[0]
    return read_recovery(store, recovery, now)


def _check_off(node: Node, voice: Voice, recovery: RecoveryRecord) -> None:
    """Who is silent may live and serve where we cannot see it, and so may who was told to begin.

    :raises Conflict: it is switched on, and its controller answers, so it can be switched off.
    """
    waits = voice.position is not None and recovery.leader != voice.deployment
    if waits or node.power is not Power.ON or node.bmc_error:
        return
    raise Conflict(
        f"{voice} is switched on: it may still be at work",
        where=node.name,
        cause="two members that both begin would hold two truths",
        hint=f"provisioner node power {node.name} off, then this again",
    )


def _going_on(store: Store, cloud: str, role: str) -> RecoveryRecord:
    desired = store.clouds.get(cloud)
    if role not in desired.roles or not desired.roles[role].recover:
        named = ", ".join(name for name, spec in desired.roles.items() if spec.recover) or "none"
        raise NotFound(f"{role} is no role whose members hold one state", where=cloud, hint=f"those are: {named}")
    recovery = store.recoveries.get(cloud, role)
    if recovery is None or recovery.state == OVER:
        raise Conflict(
            f"no member of {role} waits for others",
            where=cloud,
            cause="members say how far they had come when they find no other one alive",
            hint=f"provisioner cloud status {cloud}",
        )
    return recovery


def read_recoveries(store: Store, cloud: str, now: float) -> dict[str, RecoveryStatus]:
    """The outages of a cloud that go on, by role."""
    return {recovery.role: read_recovery(store, recovery, now) for recovery in store.recoveries.going_on(cloud)}


def read_recovery(store: Store, recovery: RecoveryRecord, now: float) -> RecoveryStatus:
    voices = read_voices(store, recovery, now)
    leader = next((voice for voice in voices if voice.deployment == recovery.leader), None)
    if recovery.state in (NAMED, LEADS) and leader is not None:
        why = f"{leader} begins again from {leader.position}"
    else:
        why = decide(recovery.cloud, recovery.role, voices).why
    return RecoveryStatus(
        role=recovery.role,
        begun=recovery.begun,
        leader=None if leader is None else leader.hostname,
        fence=recovery.fence,
        why=why,
        members=tuple(
            MemberPosition(
                hostname=voice.hostname,
                node=voice.node,
                history=None if voice.position is None else voice.position.history,
                sequence=None if voice.position is None else voice.position.sequence,
                lost=voice.lost,
            )
            for voice in voices
        ),
    )
