"""The driver ``redfish``: DMTF's Redfish over HTTPS, spoken by sushy. Runs only in a process of its own per controller.

Controllers show certificates that they signed themselves. The one seen when a node is enrolled, or the one that the
hardware file names, is the only one taken from then on (DSP0266, section 13, asks for TLS and leaves trust to sites).
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import requests.adapters
import sushy
from sushy import auth, connector, exceptions
from urllib3.poolmanager import PoolManager

from provisioner.bmc.audit import DEFAULTS, IPMI_PORT, Finding, answers_ipmi, judge_clock
from provisioner.bmc.driver import Controller, Kept, Switch, Way
from provisioner.bmc.quirks import Quirk
from provisioner.bmc.trouble import Busy, Failed, Refused, Silent, TimeUp
from provisioner.model.hardware import BootDevice, Power

REQUEST_SECONDS = 6.0
CONNECT_SECONDS = 3.0
TARGETS = {BootDevice.PXE: sushy.BootSource.PXE, BootDevice.DISK: sushy.BootSource.HDD}
RESETS: dict[Switch, tuple[sushy.ResetType, ...]] = {
    "on": (sushy.ResetType.ON, sushy.ResetType.FORCE_ON),
    "off": (sushy.ResetType.FORCE_OFF,),
    "soft": (sushy.ResetType.GRACEFUL_SHUTDOWN, sushy.ResetType.PUSH_POWER_BUTTON),
    "reset": (sushy.ResetType.FORCE_RESTART,),
    "cycle": (sushy.ResetType.POWER_CYCLE, sushy.ResetType.FORCE_RESTART),
}
"""Ways to do what we want, the best first; controllers offer different ones (DSP2046, ComputerSystem.Reset)."""
NOT_IMPLEMENTED = 501
POWERS = {"On": Power.ON, "PoweringOff": Power.ON, "Paused": Power.ON, "Off": Power.OFF, "PoweringOn": Power.OFF}
BY_HAND = "look at it by hand: curl -k -u USER https://ADDRESS/redfish/v1/Systems"


class _Pinned(requests.adapters.HTTPAdapter):
    """Takes one certificate and no other, whoever signed it."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: Any) -> None:
        self.poolmanager = PoolManager(
            num_pools=connections, maxsize=maxsize, block=block, assert_fingerprint=self._fingerprint, **more
        )


class _Connector(connector.Connector):  # type: ignore[misc]
    def __init__(self, url: str, fingerprint: str) -> None:
        super().__init__(url, verify=False, default_request_timeout=REQUEST_SECONDS, connect_timeout=CONNECT_SECONDS)
        self._session.mount("https://", _Pinned(fingerprint))


def connect(way: Way, /) -> Controller:
    """Log in, find the one system, and hold on to the certificate."""
    start = time.monotonic()
    with _translated("logging in"):
        fingerprint = way.certificate or read_fingerprint(way.address, way.port)
        url = f"https://{f'[{way.address}]' if ':' in way.address else way.address}:{way.port}"
        login = auth.SessionOrBasicAuth(way.username, way.password)
        root = sushy.Sushy(url, auth=login, connector=_Connector(url, fingerprint))
        return RedfishController(root, login, way, fingerprint, time.monotonic() - start)


def read_fingerprint(address: str, port: int) -> str:
    """SHA-256 of the certificate that is shown there, in hexadecimal digits."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((address, port), CONNECT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=address) as door,
    ):
        return hashlib.sha256(door.getpeercert(binary_form=True) or b"").hexdigest()


class RedfishController:
    """One controller and the one system of it that is the node."""

    def __init__(
        self, root: sushy.Sushy, login: auth.SessionOrBasicAuth, way: Way, fingerprint: str, seconds: float
    ) -> None:
        self._root = root
        self._login = login
        self._way = way
        self._fingerprint = fingerprint
        self._seconds = seconds
        self._system = self._find_system()
        self._fresh = True
        self.quirks: frozenset[Quirk] = frozenset()

    def _find_system(self) -> Any:
        wanted = self._way.system
        if wanted.startswith("/"):
            return self._root.get_system(wanted)
        systems = self._root.get_system_collection().get_members()
        named = [system for system in systems if wanted in (system.identity, system.name, system.uuid)]
        found = named if wanted else systems
        if len(found) == 1:
            return found[0]
        names = ", ".join(sorted(str(system.identity) for system in systems)) or "none"
        raise Failed(
            f"there is no system {wanted!r}" if wanted else "which system is the node?",
            f"the controller has these systems: {names}",
            "write its id as bmc.system in the node's hardware file",
        )

    def alive(self) -> bool:
        try:
            with _translated("asking again"):
                self._look()
        except (Silent, Refused):
            return False
        return True

    def identity(self) -> dict[str, Any]:
        return {"manufacturer": self._system.manufacturer, "product": self._system.model}

    def facts(self) -> dict[str, Any]:
        with _translated("reading the system"):
            system = self._look()
            managers = self._optional(lambda: system.managers) or []
            manager = managers[0] if managers else None
            return {
                "protocol": f"redfish {self._root.redfish_version}",
                "manufacturer": system.manufacturer,
                "product": system.model,
                "serial": system.serial_number,
                "firmware": manager.firmware_version if manager else None,
                "bios": system.bios_version,
                "guid": str(system.uuid or "").replace("-", "").lower() or None,
                "certificate": self._fingerprint,
                "seconds": round(self._seconds, 3),
            }

    def power(self) -> Power:
        with _translated("reading the power"):
            state = self._look().power_state
            return POWERS.get(getattr(state, "value", ""), Power.UNKNOWN)

    def switch(self, word: Switch) -> None:
        with _translated(f"switching {word}"):
            allowed = self._optional(self._system.get_allowed_reset_system_values) or set()
            for reset in RESETS[word]:
                if not allowed or reset in allowed:
                    self._system.reset_system(reset)
                    return
        offers = ", ".join(sorted(reset.value for reset in allowed))
        raise Refused(f"the controller cannot do {word}", f"it offers only: {offers}", BY_HAND)

    def set_boot_device(self, device: BootDevice, uefi: bool, persistent: bool) -> None:
        enabled = sushy.BootSourceOverrideEnabled.CONTINUOUS if persistent else sushy.BootSourceOverrideEnabled.ONCE
        mode = sushy.BootSourceOverrideMode.UEFI if uefi else sushy.BootSourceOverrideMode.LEGACY
        with _translated(f"setting the boot device {device}"):
            boot = self._look().boot
            known = boot is not None and boot.mode is not None
            self._system.set_system_boot_options(TARGETS[device], enabled, mode if known else None)

    def boot_device(self) -> Kept | None:
        with _translated("reading the boot device"):
            boot = self._look().boot
        if boot is None or boot.target is None:
            return None
        named = next((device for device, target in TARGETS.items() if target is boot.target), None)
        enabled, mode = boot.enabled, boot.mode
        if enabled is sushy.BootSourceOverrideEnabled.DISABLED:
            return Kept("the order of its firmware")
        return Kept(
            named or str(boot.target.value),
            None if mode is None else mode is sushy.BootSourceOverrideMode.UEFI,
            None if enabled is None else enabled is sushy.BootSourceOverrideEnabled.CONTINUOUS,
        )

    def identify(self, seconds: int | None) -> None:
        """Redfish has no time for the light: whatever is not 0 lights it until told otherwise."""
        lit = seconds is None or seconds > 0
        with _translated("switching the identify light"):
            if "LocationIndicatorActive" in self._look().json:
                self._patch(self._system.path, {"LocationIndicatorActive": lit})
            else:
                self._patch(self._system.path, {"IndicatorLED": "Blinking" if lit else "Off"})

    def sensors(self) -> Sequence[dict[str, Any]]:
        with _translated("reading the sensors"):
            found: list[dict[str, Any]] = []
            for chassis in self._optional(lambda: self._system.chassis) or []:
                found += self._thermal(chassis.path)
                found += self._supplies(chassis.path)
            return found

    def _thermal(self, path: str) -> Iterator[dict[str, Any]]:
        thermal = self._get(f"{path}/Thermal")
        for part in thermal.get("Temperatures") or ():
            yield _sensor(part, "temperature", part.get("ReadingCelsius"), "°C")
        for part in thermal.get("Fans") or ():
            yield _sensor(part, "fan", part.get("Reading"), str(part.get("ReadingUnits") or ""))

    def _supplies(self, path: str) -> Iterator[dict[str, Any]]:
        for part in self._get(f"{path}/Power").get("PowerSupplies") or ():
            yield _sensor(part, "power supply", part.get("LastPowerOutputWatts"), "W")

    def log(self) -> Sequence[dict[str, Any]]:
        with _translated("reading the event log"):
            found = []
            for owner in (self._system, *(self._optional(lambda: self._system.managers) or ())):
                services = self._get(f"{owner.path}/LogServices").get("Members") or ()
                for service in services:
                    entries = self._get(f"{service['@odata.id'].rstrip('/')}/Entries").get("Members") or ()
                    found += [
                        {
                            "time": str(entry.get("Created") or ""),
                            "sensor": str(entry.get("SensorType") or entry.get("EntryType") or ""),
                            "event": str(entry.get("Message") or ""),
                            "severity": str(entry.get("Severity") or "unknown").lower(),
                        }
                        for entry in entries
                    ]
            return sorted(found, key=lambda entry: entry["time"])

    def event_record(self, record: int) -> bytes:
        raise Refused(
            "Redfish has no event log that is written from inside the server",
            "its driver is redfish",
            "reach the controller by IPMI, or set prove_by_bmc to false",
        )

    def inventory(self) -> dict[str, Any]:
        with _translated("reading the inventory"):
            system = self._look()
            parts: dict[str, Any] = {
                "system": {
                    "manufacturer": system.manufacturer,
                    "model": system.model,
                    "serial": system.serial_number,
                    "memory": f"{system.memory_summary.size_gib} GiB" if system.memory_summary else None,
                    "bios": system.bios_version,
                }
            }
            for kind, path in (("processor", "Processors"), ("port", "EthernetInterfaces"), ("memory", "Memory")):
                for member in self._get(f"{system.path}/{path}").get("Members") or ():
                    part = self._get(member["@odata.id"])
                    shown = ("Model", "Manufacturer", "TotalCores", "MACAddress", "CapacityMiB", "PartNumber")
                    parts[f"{kind} {part.get('Id')}"] = {key: part[key] for key in shown if part.get(key)}
            return {name: {k: str(v) for k, v in part.items() if v is not None} for name, part in parts.items()}

    def audit(self, now: float) -> Sequence[dict[str, Any]]:
        found = []
        if (self._way.username, self._way.password) in DEFAULTS:
            words = f"the user {self._way.username} has a password from the factory"
            mend = "provisioner node rotate-credentials {node}"
            found.append(Finding("default-password", "high", words, "it is in the vendor's manual", mend))
        if answers_ipmi(self._way.address):
            words = "IPMI over LAN is reachable, though Redfish is what is used"
            cause = f"it answers at UDP port {IPMI_PORT}, and gives anyone a hash of a user's password (CVE-2013-4786)"
            found.append(Finding("ipmi-reachable", "medium", words, cause, "{ipmitool:lan set 1 access off}"))
        with _translated("reading the clock"):
            for manager in self._optional(lambda: self._system.managers) or ():
                if clock := manager.json.get("DateTime"):
                    found += judge_clock(datetime.fromisoformat(str(clock)).timestamp(), now)
                    break
        return [finding.to_dict() for finding in found]

    def change_password(self, password: str) -> None:
        with _translated("changing the password"):
            accounts = self._get("/redfish/v1/AccountService/Accounts").get("Members") or ()
            for member in accounts:
                if self._get(member["@odata.id"]).get("UserName") == self._way.username:
                    self._patch(member["@odata.id"], {"Password": password})
                    return
        raise Failed("the user cannot be found in the controller's accounts", f"it lists {len(accounts)}", BY_HAND)

    def close(self) -> None:
        try:
            self._login.close()
        except (exceptions.SushyError, OSError):
            pass  # its sessions run out by themselves

    def _look(self) -> Any:
        """The system as it is now; what was read at the login counts once."""
        if not self._fresh:
            self._system.refresh(force=True)
        self._fresh = False
        return self._system

    def _get(self, path: str) -> Mapping[str, Any]:
        """A resource; nothing where the controller has none of the kind."""
        try:
            found = self._root._conn.get(path).json()
        except exceptions.ResourceNotFoundError:
            return {}
        except exceptions.ServerSideError as error:
            if error.status_code != NOT_IMPLEMENTED:
                raise
            return {}
        return found if isinstance(found, Mapping) else {}

    def _patch(self, path: str, data: dict[str, Any]) -> None:
        self._root._conn.patch(path, data=data)

    def _optional(self, read: Callable[[], Any]) -> Any:
        """What not every controller has."""
        try:
            return read()
        except (exceptions.MissingAttributeError, exceptions.MissingActionError, exceptions.ResourceNotFoundError):
            return None


def _sensor(part: Mapping[str, Any], kind: str, value: Any, unit: str) -> dict[str, Any]:
    health = str((part.get("Status") or {}).get("Health") or "unknown").lower()
    return {"name": str(part.get("Name") or ""), "kind": kind, "value": value, "unit": unit, "health": health}


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """sushy's errors and the network's in our words."""
    start = time.monotonic()
    try:
        yield
    except TimeUp as error:
        raise _silent(doing, start) from error
    except exceptions.AccessError as error:
        raise Refused(
            "user or password is wrong, or may not do this",
            f"HTTP {error.status_code} when {doing}",
            "check the user and the password that the node's hardware file names",
        ) from error
    except exceptions.ServerSideError as error:
        raise Busy(
            "the controller is busy", f"HTTP {error.status_code} when {doing}: {_words(error)}", BY_HAND
        ) from error
    except exceptions.HTTPError as error:
        cause = f"HTTP {error.status_code} when {doing}: {_words(error)}"
        raise Refused("the controller refused the command", cause, BY_HAND) from error
    except (exceptions.ConnectionError, OSError) as error:
        raise _unreachable(str(error), doing, start) from error
    except exceptions.SushyError as error:
        cause = f"{_words(error)} when {doing}"
        raise Failed("the controller does not answer as Redfish says", cause, BY_HAND) from error


def _unreachable(words: str, doing: str, start: float) -> Silent | Refused:
    if "ingerprint" in words:
        return Refused(
            "the controller shows another certificate",
            "it is not the one it was enrolled with, or that its hardware file names",
            "if it was replaced on purpose: provisioner node forget NAME, then enroll it again",
        )
    return _silent(doing, start, words)


def _silent(doing: str, start: float, words: str = "") -> Silent:
    why = f": {words}" if words else ""
    return Silent(
        "no answer",
        f"none for {time.monotonic() - start:.1f} s when {doing}{why}"[:300],
        "check that the controller has power and HTTPS enabled, and the way to it",
    )


def _words(error: Exception) -> str:
    return " ".join(str(getattr(error, "detail", None) or error).split())[:200]
