"""What the conductor reaches the world through, handed in from above."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from provisioner.bmc.contract import Bmcs
from provisioner.conductor.order import SILENT
from provisioner.errors import UsageError
from provisioner.events import Event
from provisioner.model.image import Image, ImageIndex
from provisioner.store.store import Store
from provisioner.system.clock import Clock
from provisioner.system.settings import Settings

RAMDISK = "ramdisk"
"""Name of the image that nodes boot over the network."""


class CatalogueDoor(Protocol):
    """What of :class:`provisioner.images.catalogue.Catalogue` the conductor needs."""

    def images(self) -> Sequence[Image]: ...

    def newest(self, name: str) -> Image | None: ...

    def get(self, image_id: str) -> Image: ...

    def index(self, image_id: str) -> ImageIndex: ...

    def templates(self, image_id: str) -> Mapping[str, str] | None: ...

    def phases(self, image_id: str) -> Mapping[str, str]: ...


class Signer(Protocol):
    """The key that metadata are signed with."""

    def sign(self, data: bytes) -> bytes: ...

    @property
    def public_key_pem(self) -> str: ...


@dataclass(frozen=True)
class Doors:
    """``authority``: the certificate, as PEM, by which guests know the service. ``opened``: since when they can reach
    it, in seconds since the epoch.
    """

    store: Store
    bmcs: Bmcs
    catalogue: CatalogueDoor
    settings: Settings
    clock: Clock
    authority: str
    signer: Signer
    opened: float = 0.0

    @property
    def holder(self) -> str:
        """Under which name this conductor takes leases; the same after a restart, which so goes on at once."""
        return self.settings.name

    @property
    def silence(self) -> float:
        """In seconds since the epoch: who was last heard before is taken for dead. 0 while nobody has had time to be
        heard."""
        since = self.clock.now() - SILENT
        return since if self.opened < since else 0.0

    def tell(self, kind: str, message: str, node: str, deployment: str | None = None, **data: object) -> None:
        """Record an event, in the transaction that is open if one is."""
        self.store.events.add(Event(kind, message, node, deployment, data), self.clock.now())

    @cached_property
    def pool(self) -> list[str]:
        """The addresses that ports may get while their node runs the ramdisk; empty without a DHCP range.

        :raises UsageError: the range is not one.
        """
        first, last = self.settings.dhcp_first, self.settings.dhcp_last
        if not (first and last):
            return []
        try:
            low, high = int(ipaddress.IPv4Address(first)), int(ipaddress.IPv4Address(last))
        except ValueError as error:
            raise UsageError(
                "dhcp_first and dhcp_last are not IPv4 addresses",
                cause=str(error),
                hint="correct them in the configuration file",
            ) from error
        return [str(ipaddress.IPv4Address(number)) for number in range(low, high + 1)]

    @property
    def prefix(self) -> int:
        """The prefix length of the provisioning network."""
        return int(self.settings.address.partition("/")[2] or 24)
