"""Certificates of clouds' members: found, made when they are missing or wrong, renewed before they end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping

from provisioner.conductor.doors import Doors
from provisioner.conductor.presence import leads
from provisioner.errors import ProvisionerError
from provisioner.metadata.certificates import certificate_stand_in, needs_authority
from provisioner.model.deployment import Placement
from provisioner.model.role import Desired
from provisioner.store.certificates import AUTHORITY, CertificateRecord, Slot
from provisioner.trust.certificates import Pair, ends_at, is_due, new_authority, new_certificate

LOOK_SECONDS = 3600.0

LOG = logging.getLogger(__name__)


class Certified:
    """Those that a cloud has; what is still to be made has a stand-in.

    :param known: all of the cloud. :param now: seconds since the epoch.
    """

    def __init__(self, desired: Desired, known: Mapping[Slot, CertificateRecord], now: float) -> None:
        self._desired = desired
        self._known = known
        self._now = now
        used = needs_authority(desired)
        self._signer = known.get(AUTHORITY) if used else None
        self.authority = self._first_authority() if used else ""
        """The certificate, as PEM; empty when no role of the cloud needs one."""

    def find(self, placement: Placement, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, str]]:
        """Of a member. :param wanted: host names and addresses by certificate."""
        return {name: self._find((placement.hostname, name), names) for name, names in wanted.items()}

    def fits(self, slot: Slot, names: tuple[str, ...]) -> CertificateRecord | None:
        """The one that there is, if it is for these names, signed by the authority that there is, and does not end."""
        known = self._known.get(slot)
        good = known is not None and known.names == names and not is_due(known.ends, self._now)
        return known if good and self._signer is not None else None

    def _first_authority(self) -> str:
        return self._signer.certificate if self._signer else certificate_stand_in("authority")["certificate"]

    def _find(self, slot: Slot, names: tuple[str, ...]) -> dict[str, str]:
        known = self.fits(slot, names)
        return certificate_stand_in(slot[1]) if known is None else _as_told(known)


class Issuer(Certified):
    """Makes what is missing. ``made``: what then is to be kept."""

    def __init__(self, desired: Desired, known: Mapping[Slot, CertificateRecord], now: float) -> None:
        self.made: dict[Slot, CertificateRecord] = {}
        super().__init__(desired, known, now)

    def unused(self, members: Iterable[Placement]) -> list[Slot]:
        """Those of members that there are not any more: another one of that name gets a key of its own."""
        used = {(member.hostname, name) for member in members for name in self._desired.roles[member.role].certificates}
        return [slot for slot in self._known if slot not in used and slot != AUTHORITY]

    def _first_authority(self) -> str:
        if self._signer is None:
            pair = new_authority(f"cloud {self._desired.cloud.cloud}", self._now)
            self._signer = self.made[AUTHORITY] = _record(pair, ())
        return self._signer.certificate

    def _find(self, slot: Slot, names: tuple[str, ...]) -> dict[str, str]:
        known = self.made.get(slot) or self.fits(slot, names)
        if known is None:
            known = self.made[slot] = self._make(slot[0], names)
        return _as_told(known)

    def _make(self, hostname: str, names: tuple[str, ...]) -> CertificateRecord:
        assert self._signer is not None, "there is an authority where a role has certificates"
        pair = new_certificate(Pair(self._signer.certificate, self._signer.key), hostname, names, self._now)
        return _record(pair, names)


def _record(pair: Pair, names: tuple[str, ...]) -> CertificateRecord:
    return CertificateRecord(names, ends_at(pair.certificate), pair.certificate, pair.key)


def _as_told(known: CertificateRecord) -> dict[str, str]:
    return {"certificate": known.certificate, "key": known.key}


def clouds_due(doors: Doors) -> list[str]:
    """Those in which a member's certificate is to be replaced."""
    now = doors.clock.now()
    return [cloud for cloud, ends in sorted(doors.store.certificates.first_end().items()) if is_due(ends, now)]


class Renewal:
    """The thread that has certificates replaced in time: as a new generation, in the order that the role asks for.

    :param renew: a cloud's metadata.
    """

    def __init__(self, doors: Doors, renew: Callable[[Doors, str], None]) -> None:
        self._doors = doors
        self._renew = renew
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None

    def look(self) -> None:
        """Once. A cloud of which that cannot be done holds up no other."""
        for cloud in clouds_due(self._doors):
            try:
                with self._doors.store.transaction():
                    self._renew(self._doors, cloud)
            except ProvisionerError as error:
                LOG.warning("certificates of %s are not renewed: %s", cloud, error)

    def _run(self) -> None:
        while True:
            try:
                if leads(self._doors):
                    self.look()
            except ProvisionerError as error:
                LOG.warning("certificates are not renewed: %s", error)
            except Exception:
                LOG.exception("a fault of the program in the renewal of certificates; it goes on")
            if self._stopping.wait(LOOK_SECONDS):
                return
