"""A handover as the service sees it that gives the duty away: offers to the next master, and moves of its own record.

The next master asks; nothing is ever sent to it unasked. It is known by the token of its instance, and knows this
service by the site's authority and by the MAC of each answer. In order: it says that it is ready; it copies the images
while everything goes on here; the records are frozen, and copied with the keys under a token that is good once; it
proves the copy, and says so; *then* the epoch moves, here and on the disk, and from there on these records are never in
force again; only then it is told to take over; when it says that it is the master, a tombstone is left here. Whatever
is killed at whatever moment looks at its records when it starts again, and goes on. As long as the epoch has not
moved, every failure ends with these records in force.
"""

from __future__ import annotations

import base64
import secrets
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from provisioner.errors import (
    Conflict,
    DeployError,
    ProvisionerError,
    TrustError,
    UsageError,
    error_from_dict,
)
from provisioner.events import Event
from provisioner.images.catalogue import MANIFEST, SIGNATURE, Catalogue
from provisioner.images.provenance import FILE as PROVENANCE
from provisioner.model.duty import Duty, DutyState
from provisioner.model.states import AT_WORK, NodeState
from provisioner.server.backup import write_backup
from provisioner.store.store import Store
from provisioner.system.clock import Clock
from provisioner.system.files import hash_file
from provisioner.system.settings import Settings
from provisioner_agent.protocol.messages import ARCHIVE

READY_SECONDS = 120.0
"""For which a node counts as ready that said so; it says so twice a minute."""
SILENT_SECONDS = 300.0
"""Without a word of the next master, after which an attempt ends."""
FROZEN_SECONDS = 1800.0
"""For which nobody may be the master; it takes seconds."""
NAMED = 5
"""Nodes that an error names."""
COMMANDED = "commanded"
"""Whether a node that is ready has a door for operators."""

Mode = tuple[bool, bool]
"""(whether the records are in force, whether the next master is still answered)."""


def mode_of(duty: Duty) -> Mode:
    """What the service does by its duty; when that changes, it begins anew."""
    return duty.state.in_force, duty.state is not DutyState.TOMBSTONE


def describe_service(settings: Settings, schema: str) -> dict[str, Any]:
    """What must be the same on both sides."""
    return {
        "schema": schema,
        "service": settings.service,
        "http_port": settings.http_port,
        "https_port": settings.https_port,
        "dhcp_first": settings.dhcp_first,
        "dhcp_last": settings.dhcp_last,
    }


class Handover:
    """:param turn: is called, from any thread, when the service has to begin anew because its duty is another."""

    def __init__(self, settings: Settings, store: Store, catalogue: Catalogue, clock: Clock) -> None:
        self._settings, self._store, self._catalogue, self._clock = settings, store, catalogue, clock
        self._lock = threading.RLock()
        self._ready: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self._tokens: set[str] = set()
        self._heard = clock.now()
        self._mode = mode_of(store.duty.get())
        self.turn: Callable[[], None] = lambda: None

    @property
    def folder(self) -> Path:
        return self._settings.handover / "out"

    def duty(self) -> Duty:
        return self._store.duty.get()

    # What operators ask.

    def begin(self, node: str) -> Duty:
        """Offer the duty to a node. Of an attempt to the same node that is under way nothing changes.

        :raises Conflict: something is in the way; nothing was changed. :raises NotFound: there is no such node.
        """
        with self._lock, self._store.transaction():
            duty = self.duty()
            if duty.state is not DutyState.MASTER:
                if duty.node != node:
                    raise Conflict(f"the duty is being handed over to {duty.node}", where=node, hint=STATUS)
                return duty
            self._check_ready(node)
            self._check_stays(node)
            self._check_idle()
            now = self._clock.now()
            self._heard = now
            duty = self._store.duty.begin(node, str(uuid.uuid4()), now)
            self._tell("handover.begun", f"images are copied to {node}", node)
            return duty

    def cancel(self) -> Duty:
        """The records stay in force. :raises Conflict: no handover is under way, or the epoch has moved."""
        with self._lock:
            duty = self.duty()
            if duty.state in (DutyState.CEDED, DutyState.TOMBSTONE):
                raise Conflict(
                    "the epoch has moved: these records are not in force any more, and never will be",
                    where=duty.node,
                    cause=f"{duty.node} may take over at any moment, or has",
                    hint=f"provisioner handover {duty.node} --resume waits for it",
                )
            if duty.state is DutyState.MASTER:
                raise Conflict("no handover is under way", hint="provisioner handover NODE begins one")
            return self._end(duty, DeployError("cancelled by an operator", where=duty.node))

    def _check_ready(self, node: str) -> None:
        settings, found = self._settings, self._store.nodes.get(node)
        if settings.database_url:
            raise Conflict(
                "records in a database that others share are not handed over",
                where="[database] url",
                cause="several conductors share the work there, and all of them are masters",
                hint="start another conductor on the same records",
            )
        if not (settings.interface and settings.service):
            raise Conflict(
                "there is no address that could move",
                where="[network] service",
                cause="instances would not find the service on another host",
                hint="set [network] service to a free address of the provisioning network, and start the service again",
            )
        if found.state is not NodeState.ACTIVE or found.healthy is False or found.maintenance is not None:
            raise Conflict("the node is not active", where=node, hint=f"provisioner node show {node}")
        when, said = self._ready.get(node, (0.0, {}))
        if self._clock.now() - when > READY_SECONDS:
            raise Conflict(
                "the node does not ask for the duty",
                where=node,
                cause="nothing was heard of it" if not when else f"last heard {self._clock.now() - when:.0f} s ago",
                hint="its role must have the element undercloud; there: systemctl status provisioner-receive",
            )
        ours = describe_service(settings, self._store.schema)
        differ = [key for key in ours if said.get(key) != ours[key]]
        if differ:
            raise Conflict(
                "the node is set up for another service than this",
                where=node,
                cause="; ".join(f"{key} is {said.get(key)!r} there and {ours[key]!r} here" for key in differ),
                hint="correct its values (provisioner config explain), or build and deploy its image again",
            )
        if said.get(COMMANDED) is False:
            raise Conflict(
                "nobody could tell the service on this node anything",
                where=node,
                cause="it listens to no operators, and no key may log in there",
                hint="set undercloud.operators_listen or base.authorized_keys for it, then provisioner apply",
            )

    def _check_stays(self, node: str) -> None:
        """:raises Conflict: the first thing that the new master would do is to take itself away."""
        ident = self._store.nodes.get(node).deployment
        departure = None if ident is None else self._store.departures.of(ident)
        if departure is not None and departure.going:
            raise Conflict(
                f"{departure.hostname} is to leave it: it {departure.what}",
                where=node,
                cause=departure.why,
                hint=f"wait until it has, or provisioner cloud abort {departure.cloud} {departure.hostname}",
            )

    def _check_idle(self) -> None:
        """:raises Conflict: a node is worked on."""
        busy = [n.name for n in self._store.nodes.all() if n.state in AT_WORK and n.maintenance is None]
        if busy:
            raise Conflict(
                "nodes are being worked on",
                where=", ".join(busy[:NAMED]) + (f" and {len(busy) - NAMED} others" if len(busy) > NAMED else ""),
                hint="wait until they are done (provisioner node list), or abort them",
            )

    # What the next master asks.

    def offer(self, token: str, have: str) -> dict[str, Any]:
        """What is due to whoever has this token; empty when that is nothing, or what it has already."""
        node = self._store.tokens.get(token).node
        with self._lock:
            duty = self.duty()
            if duty.node != node or duty.state in (DutyState.MASTER, DutyState.TOMBSTONE):
                return {"phase": "none"} if have else {}
            self._heard = self._clock.now()
            phase = self._phase(duty)
            if have == f"{duty.handover}.{phase}":
                return {}
            told = {"handover": duty.handover, "phase": phase, "epoch": duty.epoch, "seed": self._settings.own_url}
            if phase == "images":
                told |= self._images()
            elif phase in ("records", "commit"):  # also for one that lost its copy before it was in force
                archive = duty.detail["archive"]
                ticket = secrets.token_urlsafe(32)
                self._tokens = {ticket}
                told |= {"archive": {**archive, "path": f"{ARCHIVE}/{ticket}"}, "tables": duty.detail["tables"]}
            return told

    def _phase(self, duty: Duty) -> str:
        if duty.state is DutyState.COPYING:
            return "images"
        if duty.state is DutyState.CEDED:
            return "commit"
        return "records" if "archive" in duty.detail else "wait"

    def _images(self) -> dict[str, Any]:
        """Those that new deployments take, those of deployments there are or are to be, and that cloud files name."""
        newest = {path.stem: path.read_text().strip() for path in sorted(self._catalogue.folder.glob("*.newest"))}
        live = {deployment.placement.image for deployment in self._store.deployments.live()}
        wanted = {one.placement.image for one in self._store.departures.all() if one.placement is not None}
        clouds = [self._store.clouds.get(name).cloud for name in self._store.clouds.names()]
        named = {use.image for cloud in clouds for use in cloud.roles.values()}
        known = {path.parent.name for path in self._catalogue.folder.glob(f"*/{MANIFEST}")}
        return {"newest": newest, "images": sorted({*newest.values(), *live, *wanted, *named} & known)}

    def archive(self, ticket: str) -> Path:
        """The records, once for each offer. :raises TrustError: it is no token of an offer, or was used."""
        with self._lock:
            duty = self.duty()
            if ticket not in self._tokens or duty.state not in ARCHIVED:
                raise TrustError("there is nothing to fetch with this token")
            self._tokens.discard(ticket)
            self._heard = self._clock.now()
            return self._path(duty)

    def hear(self, token: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """What the next master says.

        :raises Conflict: it is about an attempt that is over. :raises UsageError: it says nothing that is known.
        """
        node, say = self._store.tokens.get(token).node, message.get("say")
        with self._lock:
            if say == "ready":
                said, ours = message.get("service"), describe_service(self._settings, self._store.schema)
                known = {key: said.get(key) for key in (*ours, COMMANDED)} if isinstance(said, dict) else {}
                self._ready[node] = (self._clock.now(), known)
                return {}
            duty = self.duty()
            if duty.own_node == node and say == "master":
                return {}  # it asks itself
            if duty.node != node or duty.handover != message.get("handover") or duty.state is DutyState.MASTER:
                raise Conflict("that handover is over", where=node)
            self._heard = self._clock.now()
            answer = SAID.get(str(say))
            if answer is None:
                raise UsageError("the message says nothing that is known", where=node, cause=str(say)[:40])
            return answer(self, duty, message)

    def _progress(self, duty: Duty, message: Mapping[str, Any]) -> dict[str, Any]:
        numbers = {key: message[key] for key in ("bytes", "total") if isinstance(message.get(key), int | float)}
        self._store.duty.note(duty.handover, {**numbers, "doing": str(message.get("doing", ""))[:200]})
        return {}

    def _image(self, duty: Duty, message: Mapping[str, Any]) -> dict[str, Any]:
        image = self._catalogue.get(str(message.get("image")))
        folder = self._catalogue.folder / image.id
        names = {"manifest": MANIFEST, "signature": SIGNATURE, "provenance": PROVENANCE}
        paths = {key: folder / name for key, name in names.items()}
        return {key: base64.b64encode(path.read_bytes()).decode() for key, path in paths.items() if path.is_file()}

    def _freeze(self, duty: Duty, message: Mapping[str, Any]) -> dict[str, Any]:
        """All images are there: from now on nothing is written."""
        if duty.state is not DutyState.COPYING:
            return {}
        try:
            with self._store.transaction():
                self._check_idle()
                self._check_stays(duty.node)
                self._tell("handover.frozen", f"the records are frozen; {duty.node} copies them", duty.node)
                self._moved(self._store.duty.freeze(duty.handover, self._clock.now()))
        except Conflict as error:
            self._end(duty, error)
        return {}

    def _verified(self, duty: Duty, message: Mapping[str, Any]) -> dict[str, Any]:
        """The point of no return: on the disk before the other hears of it."""
        if duty.state is DutyState.FROZEN:
            checks = message.get("checks")
            self._store.duty.note(duty.handover, {"checks": checks if isinstance(checks, dict) else {}})
            self._moved(self._store.duty.cede(duty.handover, self._clock.now()))
        return {}

    def _refused(self, duty: Duty, message: Mapping[str, Any]) -> dict[str, Any]:
        if duty.state.may_cancel:
            said = message.get("error")
            self._end(duty, error_from_dict(said if isinstance(said, dict) else {}))
        return {}

    def _master(self, duty: Duty, message: Mapping[str, Any]) -> dict[str, Any]:
        if duty.state is DutyState.CEDED and message.get("epoch") == duty.epoch:
            self._moved(self._store.duty.bury(duty.handover, self._clock.now()))
        return {}

    # What is done by itself.

    def prepare(self) -> None:
        """At the start of the service: the archive of frozen records is there, and of all others is not.

        :raises HostError: it cannot be written.
        """
        duty = self.duty()
        if duty.state is DutyState.FROZEN and not self._is_whole(duty):
            self._drop()
            self.folder.mkdir(parents=True, mode=0o700)
            path = self._path(duty)
            tables = self._store.duty.digests()
            write_backup(self._settings, path, self._clock)
            archive = {"size": path.stat().st_size, "sha256": hash_file(path)}
            self._store.duty.note(duty.handover, {"archive": archive, "tables": tables})
        elif duty.state not in ARCHIVED:
            self._drop()

    def look(self) -> None:
        """End an attempt of which nothing is heard any more."""
        with self._lock:
            duty, silent = self.duty(), self._clock.now() - self._heard
            if duty.state.may_cancel and silent > SILENT_SECONDS:
                hint = f"provisioner node console {duty.node} --last; then provisioner handover {duty.node} --resume"
                self._end(duty, DeployError(f"nothing was heard of it for {silent:.0f} s", where=duty.node, hint=hint))
            elif duty.state is DutyState.FROZEN and self._clock.now() - duty.since > FROZEN_SECONDS:
                cause = str(duty.detail.get("doing", "")) or None
                summary = f"the copy was not proved within {FROZEN_SECONDS:.0f} s"
                self._end(duty, DeployError(summary, where=duty.node, cause=cause, hint=RESUME.format(duty.node)))

    def doubt(self, token: str, epoch: int) -> None:
        """A guest has heard of a greater epoch: it does not obey this service, and an operator must know."""
        node, duty = self._store.tokens.get(token).node, self.duty()
        if not duty.state.in_force:
            return  # it is right
        cause = f"it knows a master in epoch {epoch}, and this service is at {duty.epoch}"
        hint = "find the other one before anything else is done here: these records may be old"
        self._tell("handover.doubted", f"{node} does not obey this service: {cause}", node, next=hint)

    def _end(self, duty: Duty, error: ProvisionerError) -> Duty:
        """The records are in force as before; the reason is kept, with a next command at least to try again."""
        told = {"node": duty.node, "hint": error.hint or RESUME.format(duty.node)}
        thawed = self._store.duty.thaw(duty.handover, self._clock.now(), error.to_dict() | told)
        self._tokens.clear()
        self._store.fence(False)
        self._tell("handover.ended", f"the records stay in force here: {error}", duty.node)
        self._moved(thawed)
        return thawed

    def _moved(self, duty: Duty) -> None:
        if mode_of(duty) != self._mode:
            self.turn()

    def _is_whole(self, duty: Duty) -> bool:
        archive, path = duty.detail.get("archive", {}), self._path(duty)
        return path.is_file() and path.stat().st_size == archive.get("size") and hash_file(path) == archive["sha256"]

    def _path(self, duty: Duty) -> Path:
        return self.folder / f"{duty.handover}.archive"

    def _drop(self) -> None:
        for path in self.folder.glob("*"):
            path.unlink()
        if self.folder.is_dir():
            self.folder.rmdir()

    def _tell(self, kind: str, message: str, node: str, **data: object) -> None:
        self._store.events.add(Event(kind, message, node, None, data), self._clock.now())


STATUS = "provisioner handover --status"
RESUME = "provisioner handover {} --resume"
ARCHIVED = (DutyState.FROZEN, DutyState.CEDED)
SAID: Mapping[str, Callable[[Handover, Duty, Mapping[str, Any]], dict[str, Any]]] = {
    "progress": Handover._progress,
    "image": Handover._image,
    "images": Handover._freeze,
    "verified": Handover._verified,
    "failed": Handover._refused,
    "master": Handover._master,
}
