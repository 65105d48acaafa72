"""Controllers that live in memory, for the tests of other rooms."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from provisioner.bmc.contract import Asked, PowerWord
from provisioner.errors import BmcError, BmcRefused, BmcSilent
from provisioner.model.hardware import BmcAddress, BootDevice, Power


class FakeConsole:
    """Repeats what is typed."""

    def __init__(self, greeting: bytes = b"login: ") -> None:
        self._heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._heard.put(greeting)

    def read(self) -> bytes:
        return self._heard.get()

    def write(self, data: bytes) -> None:
        self._heard.put(data)

    def close(self) -> None:
        self._heard.put(b"")


class FakeBmcs:
    """Does at once what it is told.

    :param silent: addresses that never answer. :param password: what every other address expects; None takes any.

    ``powers`` and ``boot_devices`` are the state by address; ``calls`` are the words of each call, in order, without
    the password: ``("10.0.0.1", "set_power", "on")``.
    """

    def __init__(self, silent: Iterable[str] = (), password: str | None = None) -> None:
        self.silent = set(silent)
        self.password = password
        self.powers: dict[str, Power] = {}
        self.boot_devices: dict[str, tuple[BootDevice, bool]] = {}
        self.calls: list[tuple[str, ...]] = []
        self.closed = False

    def verify(self, bmc: BmcAddress, password: str, deadline: float) -> dict[str, Any]:
        self._reach(bmc, password, "verify")
        return {"ipmi_version": "2.0", "firmware": "1.00", "guid": None, "power": self._power(bmc)}

    def power(self, bmc: BmcAddress, password: str, deadline: float) -> Power:
        self._reach(bmc, password, "power")
        return self._power(bmc)

    def set_power(self, bmc: BmcAddress, password: str, want: PowerWord, deadline: float) -> Power:
        self._reach(bmc, password, "set_power", want)
        self.powers[bmc.address] = Power.OFF if want in ("off", "soft") else Power.ON
        return self.powers[bmc.address]

    def set_boot_device(
        self,
        bmc: BmcAddress,
        password: str,
        device: BootDevice,
        uefi: bool,
        deadline: float,
        persistent: bool = False,
    ) -> None:
        self._reach(bmc, password, "set_boot_device", device, "uefi" if uefi else "bios")
        self.boot_devices[bmc.address] = (device, uefi)

    def identify(self, bmc: BmcAddress, password: str, seconds: int | None, deadline: float) -> None:
        self._reach(bmc, password, f"identify {seconds}")

    def read(self, bmc: BmcAddress, password: str, what: str, deadline: float) -> Any:
        self._reach(bmc, password, what)
        return {} if what == "inventory" else []

    def event_record(self, bmc: BmcAddress, password: str, record: int, deadline: float) -> bytes:
        self._reach(bmc, password, "event_record", str(record))
        return bytes(14)

    def console(self, bmc: BmcAddress, password: str, *, force: bool = True) -> FakeConsole:
        self._reach(bmc, password, "console")
        return FakeConsole()

    def audit(self, bmc: BmcAddress, password: str, deadline: float) -> list[dict[str, Any]]:
        self._reach(bmc, password, "audit")
        return []

    def change_password(self, bmc: BmcAddress, password: str, new: str, deadline: float) -> None:
        self._reach(bmc, password, "change_password")
        self.password = new

    def sweep(self, bmcs: Asked, deadline: float) -> Iterator[Mapping[str, Power | BmcError]]:
        for key, (bmc, password) in bmcs.items():
            try:
                yield {key: self.power(bmc, password, deadline)}
            except BmcError as error:
                yield {key: error}

    def verify_all(self, bmcs: Asked, deadline: float) -> Iterator[Mapping[str, dict[str, Any] | BmcError]]:
        for key, (bmc, password) in bmcs.items():
            try:
                yield {key: self.verify(bmc, password, deadline)}
            except BmcError as error:
                yield {key: error}

    def scan(self, network: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield from ((address, ("ipmi",)) for address in sorted(self.powers) if address not in self.silent)

    def close(self) -> None:
        self.closed = True

    def _power(self, bmc: BmcAddress) -> Power:
        return self.powers.get(bmc.address, Power.OFF)

    def _reach(self, bmc: BmcAddress, password: str, *words: str) -> None:
        self.calls.append((bmc.address, *words))
        where = f"{bmc.address}:{bmc.port}"
        if bmc.address in self.silent:
            raise BmcSilent("no answer from the controller", where=where, cause="the fake was told so")
        if self.password not in (None, password):
            raise BmcRefused("the password is wrong", where=where, cause="the fake was told so")
