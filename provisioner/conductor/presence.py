"""Several conductors on the same records: each says that it lives, hears what the others commit, and takes over."""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict
from socket import gethostname

from provisioner import __version__
from provisioner.conductor.doors import Doors
from provisioner.errors import RecordsAway
from provisioner.model.status import ConductorStatus
from provisioner.store.conductors import ConductorRecord
from provisioner_agent.protocol.servers import BETWEEN

LEASE_SECONDS = 30.0
"""How long a node is left alone whose conductor has died."""
BEAT_SECONDS = 5.0
AGAIN_SECONDS = 2.0
"""Until a database that was away is asked again."""

LOG = logging.getLogger(__name__)


def leads(doors: Doors) -> bool:
    """Whether this is the conductor that does what only one has to do: the first by name of those that live."""
    if not doors.store.shared:
        return True
    try:
        return next((other.name for other in alive(doors)), None) == doors.holder
    except RecordsAway:
        return False


def alive(doors: Doors) -> list[ConductorRecord]:
    """Those that were seen of late, by name."""
    return [other for other in doors.store.conductors.all() if other.lives(doors.clock.now())]


def guest_urls(doors: Doors) -> tuple[str, ...]:
    """Where guests reach the service: at the address that moves with it, here, then where the other conductors are."""
    others = alive(doors) if doors.store.shared else []
    here = (doors.settings.guest_url, doors.settings.own_url)
    return tuple(dict.fromkeys([*here, *(other.url for other in others if other.url)]))


def build_agent_config(doors: Doors, token: str) -> dict[str, str]:
    """What an agent in an instance must know of the service. :param token: ``ID.SECRET``."""
    return {
        "url": BETWEEN.join(guest_urls(doors)),
        "ca": doors.authority,
        "token": token,
        "signer": doors.signer.public_key_pem,
    }


class Presence:
    """For records that no other host can reach, only the leases are kept from running out."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def all(self) -> list[ConductorStatus]:
        store, now = self._doors.store, self._doors.clock.now()
        found = store.conductors.all() if store.shared else [self._mine()]
        nodes = store.leases.count(now)
        return [ConductorStatus(**asdict(one), alive=one.lives(now), nodes=nodes.get(one.name, 0)) for one in found]

    def start(self) -> None:
        """:raises Conflict: see :meth:`provisioner.store.conductors.Conductors.join`. :raises TrustError: too."""
        if self._threads:
            return
        shared = self._doors.store.shared
        if shared:
            self._doors.store.conductors.join(self._mine())
        self._stopping.clear()
        for work in (self._beat, self._follow) if shared else (self._beat,):
            thread = threading.Thread(target=work, name=f"presence{work.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """What this conductor worked on is free for the others."""
        if not self._threads:
            return
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        try:
            self._doors.store.conductors.leave(self._doors.holder)
        except RecordsAway as error:
            LOG.warning("%s", error)

    def _mine(self) -> ConductorRecord:
        settings = self._doors.settings
        url = settings.guest_url if settings.interface else ""
        place = f"{gethostname()}:{settings.run_dir}"
        return ConductorRecord(settings.name, place, url, __version__, self._doors.clock.now())

    def _beat(self) -> None:
        while not self._stopping.wait(BEAT_SECONDS):
            try:
                self._doors.store.conductors.see(self._doors.holder, self._doors.clock.now(), LEASE_SECONDS)
            except RecordsAway as error:
                LOG.warning("%s", error)
            except Exception:
                LOG.exception("a fault of the program; it goes on")

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                self._doors.store.follow_others(self._stopping)
            except RecordsAway as error:
                LOG.warning("%s", error)
                self._stopping.wait(AGAIN_SECONDS)
