"""A worker with a driver whose controllers misbehave by name; started as a program by the tests of the worker."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from provisioner.bmc.driver import Controller, Kept, Way
from provisioner.bmc.quirks import Quirk
from provisioner.bmc.trouble import Refused
from provisioner.bmc.worker_main import main
from provisioner.model.hardware import BootDevice, Power


class FakeController:
    def __init__(self, address: str) -> None:
        self.address = address
        self.on = False
        self.kept: Kept | None = None
        self.light: int | None = 0
        self.quirks: frozenset[Quirk] = frozenset()
        self.calls = 0

    def identity(self) -> dict[str, Any]:
        return {}

    def alive(self) -> bool:
        return True

    def facts(self) -> dict[str, Any]:
        if self.address == "hangs-later":
            threading.Event().wait()
        if self.address == "fails":
            raise RuntimeError(f"a library's words with the password in them: {sys.argv}")
        self.calls += 1
        return {"pid": os.getpid(), "calls": self.calls}

    def power(self) -> Power:
        return Power.ON if self.on else Power.OFF

    def switch(self, word: str) -> None:
        if self.address == "crashes":
            os._exit(7)
        self.on = word != "off"

    def set_boot_device(self, device: BootDevice, uefi: bool, persistent: bool) -> None:
        self.kept = Kept(device, uefi, persistent)

    def boot_device(self) -> Kept | None:
        return None if self.address == "forgetful" else self.kept

    def identify(self, seconds: int | None) -> None:
        self.light = seconds

    def sensors(self) -> Sequence[dict[str, Any]]:
        return [{"name": "light", "value": self.light}]

    def log(self) -> Sequence[dict[str, Any]]:
        return []

    def event_record(self, record: int) -> bytes:
        return record.to_bytes(14, "little")

    def inventory(self) -> dict[str, Any]:
        return {}

    def audit(self, now: float) -> Sequence[dict[str, Any]]:
        return [{"check": "clock"}]

    def change_password(self, password: str) -> None:
        pass

    def close(self) -> None:
        pass


def connect(way: Way, /) -> Controller:
    address, password = way.address, way.password
    print(f"a library that prints, here of {address}")
    if address == "hangs":
        threading.Event().wait()
    if address == "hangs-hard":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        threading.Event().wait()
    if password != "right":
        raise Refused("the password is wrong", "the fake knows", "try {ipmitool} or {ipmitool:user list 1}")
    return FakeController(address)


if __name__ == "__main__":
    sys.exit(main({"ipmi": connect}, idle=float(sys.argv[1]) if len(sys.argv) > 1 else 15.0))
