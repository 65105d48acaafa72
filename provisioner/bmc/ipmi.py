"""The driver ``ipmi``: IPMI 2.0 over LAN, spoken by pyghmi. Runs only in a process of its own for each controller.

Commands are sent raw, because pyghmi's own verbs lose the completion code, by which a busy controller is known.
Numbers and tables are those of the IPMI specification 2.0, revision 1.1.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyghmi.constants import Health
from pyghmi.exceptions import PyghmiException
from pyghmi.ipmi.command import Command
from pyghmi.ipmi.events import EventHandler
from pyghmi.ipmi.private.session import Session

from provisioner.bmc.audit import audit_ipmi, judge_clock
from provisioner.bmc.driver import Controller, Kept, Switch, Way
from provisioner.bmc.facts import parse_device_id
from provisioner.bmc.ipmi_troubles import not_ipmi, silent_command, silent_login, translate_code, translate_login
from provisioner.bmc.quirks import Quirk
from provisioner.bmc.trouble import Failed, Refused, Silent, TimeUp
from provisioner.model.hardware import BootDevice, Power

APPLICATION, CHASSIS, STORAGE = 0x06, 0x00, 0x0A
LOG_INFO, LOG_ENTRY, LOG_TIME = 0x40, 0x43, 0x48
DEVICE_ID, SYSTEM_GUID = 0x01, 0x37
CHASSIS_STATUS, CHASSIS_CONTROL, SET_BOOT_OPTION, GET_BOOT_OPTION = 0x01, 0x02, 0x08, 0x09
IDENTIFY, USER_ACCESS, USER_NAME, USER_PASSWORD = 0x04, 0x44, 0x46, 0x47
SWITCH: dict[Switch, int] = {"off": 0, "on": 1, "cycle": 2, "reset": 3, "soft": 5}
"""Chassis control (table 28-4)."""
TIMER, BOOT_FLAGS = 3, 5
KEEP_PAST_TIMEOUT = 0x08
VALID, PERSISTENT, UEFI = 0x80, 0x40, 0x20
SET_PASSWORD, LONG_PASSWORD, THIS_CHANNEL = 0x02, 0x80, 0x0E
PASSWORD_BYTES, LONG_PASSWORD_BYTES = 16, 20
REMOTE_DISK = 9
DEVICE_CODES = {BootDevice.PXE: 1, BootDevice.DISK: 2}
NOT_THERE = "record not present"
"""pyghmi's words for the completion code 0xCB, which a controller without a sensor repository answers."""
NO_PARTS = "Invalid data field"
PRIVILEGES = {2: "user", 3: "operator", 4: "administrator"}
HEALTH = {Health.Ok: "ok", Health.Warning: "warning", Health.Critical: "critical", Health.Failed: "failed"}
RETRANSMIT_UNTIL = 3.0
RETRANSMIT_PROBE_UNTIL = 1.0
"""pyghmi waits a random 0.5 to 1 s for the first answer, each time a second longer, and ends past this many."""


def connect(way: Way, /) -> Controller:
    """Log in with the highest privilege that the user has, administrator or operator."""
    start = time.monotonic()
    try:
        command = Command(bmc=way.address, userid=way.username, password=way.password, port=way.port)
        return IpmiController(command.ipmi_session, time.monotonic() - start, way, command)
    except TimeUp as error:
        raise silent_login(time.monotonic() - start) from error
    except socket.gaierror as error:
        raise Failed("the address cannot be resolved", error.strerror or "", "write an IP address") from error
    except PyghmiException as error:
        words = str(error)
        if words in ("None", "", "timeout") or "no longer connected" in words:
            raise silent_login(time.monotonic() - start) from error
        raise translate_login(words) from error
    except Exception as error:  # what a library says that unpacks bytes it took on trust
        raise not_ipmi(error) from error


class IpmiController:
    """One session. ``session`` is pyghmi's, logged in; ``seconds`` is how long that took.

    :param library: pyghmi's own verbs, for what takes a sensor repository or an inventory to understand.
    """

    def __init__(
        self, session: Session, seconds: float, way: Way | None = None, library: Command | None = None
    ) -> None:
        self._session = session
        self._seconds = seconds
        self._way = way
        self.quirks: frozenset[Quirk] = frozenset()
        self._library = library

    def alive(self) -> bool:
        try:
            self._send(APPLICATION, DEVICE_ID, until=RETRANSMIT_PROBE_UNTIL)
        except Silent:
            return False
        return True

    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in self._device_id().items() if key in ("manufacturer_id", "product_id")}

    def facts(self) -> dict[str, Any]:
        return self._device_id() | {
            "guid": self._guid(),
            "privilege": PRIVILEGES.get(self._session.privlevel, str(self._session.privlevel)),
            "hash": "sha256" if self._session.attemptedhash == 256 else "sha1",
            "seconds": round(self._seconds, 3),
        }

    def _device_id(self) -> dict[str, Any]:
        return parse_device_id(self._send(APPLICATION, DEVICE_ID))

    def _guid(self) -> str | None:
        try:
            return self._send(APPLICATION, SYSTEM_GUID)[:16].hex() or None
        except (Refused, Failed):
            return None  # the command is optional (table 20-1)

    def power(self) -> Power:
        data = self._send(CHASSIS, CHASSIS_STATUS)
        if not data:
            raise Failed("the controller's chassis status is empty")
        return Power.ON if data[0] & 1 else Power.OFF

    def switch(self, word: Switch) -> None:
        self._send(CHASSIS, CHASSIS_CONTROL, SWITCH[word])

    def set_boot_device(self, device: BootDevice, uefi: bool, persistent: bool) -> None:
        if Quirk.NO_BOOT_TIMER not in self.quirks:
            self._keep_past_timeout()
        code = DEVICE_CODES[device]
        if uefi and device is BootDevice.DISK and Quirk.UEFI_DISK_IS_REMOTE_DISK in self.quirks:
            code = REMOTE_DISK
        flags = VALID | (UEFI if uefi else 0) | (PERSISTENT if persistent else 0)
        self._send(CHASSIS, SET_BOOT_OPTION, BOOT_FLAGS, flags, code << 2, 0, 0, 0)

    def _keep_past_timeout(self) -> None:
        try:
            # Else flags are forgotten when no power command follows within 60 s (28.12), less than some servers' POST.
            self._send(CHASSIS, SET_BOOT_OPTION, TIMER, KEEP_PAST_TIMEOUT)
        except Refused:
            pass  # the parameter is optional; the flags are not

    def boot_device(self) -> Kept | None:
        try:
            data = self._send(CHASSIS, GET_BOOT_OPTION, BOOT_FLAGS, 0, 0)
        except Refused:
            return None
        if len(data) < 4 or data[1] & 0x80:
            return None
        code = data[3] >> 2 & 0x0F
        codes = DEVICE_CODES | ({BootDevice.DISK: REMOTE_DISK} if code == REMOTE_DISK else {})
        named = next((device for device, number in codes.items() if number == code), None)
        # Some controllers keep the device but always answer "not valid"; then an unknown code or a flag says nothing.
        if not data[2] & VALID:
            return None if named is None else Kept(named)
        return Kept(named or f"device {code}", bool(data[2] & UEFI), bool(data[2] & PERSISTENT))

    def identify(self, seconds: int | None) -> None:
        if seconds is None:
            self._send(CHASSIS, IDENTIFY, 0, 1)
        else:
            self._send(CHASSIS, IDENTIFY, min(seconds, 255))

    def sensors(self) -> Sequence[dict[str, Any]]:
        return [
            {
                "name": str(sensor.name),
                "kind": str(sensor.type),
                "value": sensor.value,
                "unit": str(sensor.units or ""),
                "health": "; ".join(sensor.states) or HEALTH.get(sensor.health, "ok"),
            }
            for sensor in self._ask_library(_read_sensors)
        ]

    def log(self) -> Sequence[dict[str, Any]]:
        if not int.from_bytes(self._send(STORAGE, LOG_INFO)[1:3], "little"):
            return []  # pyghmi fails on a log without entries
        return [
            {
                "time": str(entry.get("timestamp") or ""),
                "sensor": str(entry.get("component") or entry.get("component_type") or ""),
                "event": str(entry.get("event") or ""),
                "severity": HEALTH.get(entry.get("severity"), "unknown"),
            }
            for entry in self._ask_library(_read_log)
        ]

    def event_record(self, record: int) -> bytes:
        number = record.to_bytes(2, "little")
        return self._send(STORAGE, LOG_ENTRY, 0, 0, *number, 0, 0xFF)[4:18]  # behind the next one's number, and its own

    def inventory(self) -> dict[str, Any]:
        parts = self._ask_library(_read_inventory)
        return {
            str(name): {str(key): str(value) for key, value in (part or {}).items() if value not in (None, "", [])}
            for name, part in parts
        }

    def audit(self, now: float) -> Sequence[dict[str, Any]]:
        assert self._way is not None
        found = audit_ipmi(self._way)
        try:
            found += judge_clock(int.from_bytes(self._send(STORAGE, LOG_TIME)[:4], "little"), now)
        except Refused:
            pass  # it has no clock (31.10)
        return [finding.to_dict() for finding in found]

    def change_password(self, password: str) -> None:
        word = password.encode()
        long = len(word) > PASSWORD_BYTES
        if len(word) > LONG_PASSWORD_BYTES:
            raise Refused("the password is too long", f"IPMI takes at most {LONG_PASSWORD_BYTES} bytes")
        size = LONG_PASSWORD_BYTES if long else PASSWORD_BYTES
        user = self._user_id()
        self._send(
            APPLICATION, USER_PASSWORD, user | (LONG_PASSWORD if long else 0), SET_PASSWORD, *word.ljust(size, b"\0")
        )

    def _user_id(self) -> int:
        """The number of the user who is logged in (22.26, 22.29)."""
        assert self._way is not None
        most = self._send(APPLICATION, USER_ACCESS, THIS_CHANNEL, 1)[0] & 0x3F
        for user in range(1, most + 1):
            try:
                name = self._send(APPLICATION, USER_NAME, user)
            except Refused:
                continue  # an empty place
            if name.rstrip(b"\0").decode(errors="replace") == self._way.username:
                return user
        raise Failed(
            "the user cannot be found in the controller's list", f"{most} places, none is {self._way.username}"
        )

    def close(self) -> None:
        self._session.logout()

    def _ask_library(self, call: Callable[[Command], list[Any]]) -> list[Any]:
        """One of pyghmi's own verbs, its errors as ours."""
        assert self._library is not None
        start = time.monotonic()
        self._session.maxtimeout = RETRANSMIT_UNTIL
        try:
            return call(self._library)
        except TimeUp as error:
            raise silent_command(time.monotonic() - start) from error
        except PyghmiException as error:
            words = str(error) or "timeout"
            if "timeout" in words or words == "None":
                raise silent_command(time.monotonic() - start) from error
            raise Refused("the controller refused the command", words, "by hand: {ipmitool}") from error
        except Exception as error:
            raise not_ipmi(error) from error

    def _send(self, function: int, command: int, *data: int, until: float = RETRANSMIT_UNTIL) -> bytes:
        """One command and its answer without the completion code."""
        # pyghmi would log in anew by itself, but only after it has waited up to 20 s for its own lock.
        self._session.logontries = 0
        self._session.maxtimeout = until
        start = time.monotonic()
        try:
            answer = self._session.raw_command(netfn=function, command=command, data=data)
            code, body = int(answer["code"]), bytes(answer["data"])
        except TimeUp as error:
            raise silent_command(time.monotonic() - start) from error
        except (PyghmiException, KeyError) as error:  # KeyError: its note of a time-out lacks what it then looks for
            raise silent_command(time.monotonic() - start) from error
        except Exception as error:
            raise not_ipmi(error) from error
        if code:
            raise translate_code(code, f"network function {function:#04x} command {command:#04x}")
        return body


class _NoSensors:
    """In place of a sensor repository: names and meanings of events are then those of the specification alone."""

    sensors: Mapping[int, Any] = {}


def _read_log(library: Command) -> list[Any]:
    try:
        return list(library.get_event_log())
    except PyghmiException as error:
        if NOT_THERE not in str(error):
            raise
        return list(EventHandler(_NoSensors(), library).fetch_sel(library))


def _read_sensors(library: Command) -> list[Any]:
    try:
        return list(library.get_sensor_data())
    except PyghmiException as error:
        if NOT_THERE not in str(error):
            raise
        return []  # the controller has no sensor repository


def _read_inventory(library: Command) -> list[Any]:
    try:
        return list(library.get_inventory())
    except PyghmiException as error:
        if NOT_THERE not in str(error) and NO_PARTS not in str(error):
            raise
        return []  # it has no list of its parts (34.2)
