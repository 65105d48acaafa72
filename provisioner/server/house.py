"""Builds what stands behind the listeners: keys, records, catalogue, controllers, conductor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from provisioner.bmc.quirks import read_quirks
from provisioner.bmc.worker import BmcWorker
from provisioner.boot.dnsmasq import Dnsmasq
from provisioner.boot.wire import WireLog
from provisioner.conductor.conductor import Conductor
from provisioner.errors import ImageError
from provisioner.events import Event, Observer
from provisioner.images.catalogue import MANIFEST, Catalogue
from provisioner.model.image import Image
from provisioner.server.follower import Follower, Tail
from provisioner.server.handover import Handover
from provisioner.store.store import Store
from provisioner.system.address import HostAddresses
from provisioner.system.clock import HostClock
from provisioner.system.daemon import HostDaemons
from provisioner.system.run import HostRunner
from provisioner.system.settings import LOOPBACK, Settings
from provisioner.trust.ca import ensure_ca
from provisioner.trust.keys import MetadataKey, SiteKeys


@dataclass(frozen=True)
class SiteHouse:
    """The parts of the service. ``closing`` ends them, the last that was built first."""

    conductor: Conductor
    catalogue: Catalogue
    follower: Follower
    observer: Observer
    store: Store
    handover: Handover
    dnsmasq: Dnsmasq | None
    closing: ExitStack

    @property
    def path_of(self) -> Callable[[str, str], Path]:
        return self.catalogue.path

    def images(self) -> list[Image]:
        """The images whose signature holds; the others are named in the log."""
        found = []
        for path in sorted(self.catalogue.folder.glob(f"*/{MANIFEST}")):
            try:
                found.append(self.catalogue.get(path.parent.name))
            except ImageError as error:
                self.observer(Event("image.refused", str(error), data={"next": error.hint}))
        return found

    def forget(self) -> None:
        self.store.forget()

    def rest(self) -> None:
        """Where these records are not in force: nothing is done, DHCP of a service that was killed has an end, and the
        next master finds what it needs."""
        if self.dnsmasq is not None:
            self.dnsmasq.stop()
        self.handover.prepare()
        self.follower.start()
        self.closing.callback(self.follower.stop)

    def start(self) -> None:
        self.handover.prepare()
        self.follower.do_work()
        self.follower.start()
        self.closing.callback(self.follower.stop)
        self.conductor.start()
        self.closing.callback(self.conductor.stop)

    def stop(self) -> None:
        self.closing.close()


def build_house(settings: Settings, observer: Observer) -> SiteHouse:
    """Open the records and build the parts; nothing is started yet.

    :raises TrustError: others may read a key. :raises HostError: the records cannot be opened.
    """
    with ExitStack() as closing:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        keys = SiteKeys.ensure(settings.keys)
        store = Store(settings.database, keys, settings.records)
        closing.callback(store.close)
        catalogue = Catalogue(settings.images, keys)
        quirks = settings.source_dir / "hardware" / "quirks"
        read_quirks(quirks)  # the worker reads them again; here a fault is told to whoever starts the service
        bmcs = BmcWorker(observer, quirks=quirks)
        closing.callback(bmcs.close)
        bmcs.start()
        clock = HostClock()
        handover = Handover(settings, store, catalogue, clock)
        in_force = handover.duty().state.in_force
        if not in_force:
            store.fence()
        authority, signer = ensure_ca(settings.keys).read_text(), MetadataKey.ensure(settings.keys)
        conductor = Conductor(store, bmcs, catalogue, settings, authority, signer, clock=clock)
        work: list[Callable[[], None]] = [Tail(store.events, observer), handover.look]
        dnsmasq = None
        if settings.interface not in ("", LOOPBACK):
            dnsmasq = Dnsmasq(settings, conductor.ports, HostDaemons(), observer)
            closing.callback(dnsmasq.stop)
            wire = WireLog(dnsmasq.log, lambda seen: conductor.seen_on_wire(seen.address, seen.kind, seen.message))
            work += [dnsmasq.ensure, wire] if in_force else []
        if in_force and settings.service:
            addresses = HostAddresses(HostRunner())
            work.append(lambda: addresses.add(settings.interface, settings.service))  # others may take it off
        follower = Follower(store.listen, work, observer)
        return SiteHouse(conductor, catalogue, follower, observer, store, handover, dnsmasq, closing.pop_all())
