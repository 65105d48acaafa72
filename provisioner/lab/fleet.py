"""A fleet that is only a program: controllers that speak IPMI and guests that speak our protocol, to a real conductor.

For planning what a seed can carry. Nothing is booted and nothing written: a node takes as long as it is told to.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import ssl
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from provisioner.lab.bmcs import SimulatedBmc, SimulatedRack
from provisioner.lab.fleet_instance import FleetInstance, Seed, read_seed, trust
from provisioner.lab.guest_link import ANSWER_SECONDS, AWAY, AWAY_SECONDS, GuestLink
from provisioner.system.files import write_file
from provisioner_agent.protocol.auth import build_record
from provisioner_agent.protocol.messages import (
    HELLO,
    ORDER,
    PROGRESS,
    RAMDISK_CA_ARGUMENT,
    RAMDISK_PROVE_ARGUMENT,
    RAMDISK_TOKEN_ARGUMENT,
    RAMDISK_URL_ARGUMENT,
    RESULT,
)
from provisioner_agent.protocol.servers import BETWEEN, read_authority

USER = "admin"
POLL_SECONDS = 25.0
PXE_FLAG, VALID_FLAG, DEVICE_BITS = 0x04, 0x80, 0x3C
"""Of the boot flags (IPMI 2.0, table 28-14, parameter 5)."""
DISK_BYTES = 480 * 10**9
IMAGE_BYTES = 600 << 20


class Fault(StrEnum):
    """What may be wrong with a part of the fleet.

    ``silent``: the controller never answers. ``lost``: a boot of the ramdisk does not come up. ``disk``: the image
    cannot be written. ``red``: the instance's probe is never green.
    """

    SILENT = "silent"
    LOST = "lost"
    DISK = "disk"
    RED = "red"


@dataclass(frozen=True)
class Pace:
    """How long a node takes, in seconds, each time up to a third more or less. ``faults``: the part that has each.

    ``apply``: from a generation that an instance has fetched to its first report of it.
    """

    boot: float = 2.0
    image: float = 3.0
    start: float = 2.0
    apply: float = 2.0
    faults: Mapping[Fault, float] = field(default_factory=dict)
    seed: int = 1


class FleetBmc(SimulatedBmc):
    """Tells of its switch."""

    switched: Callable[[str], None] = staticmethod(lambda word: None)

    def _control(self, word: int) -> bytes:
        before = len(self.told)
        answer = super()._control(word)
        if len(self.told) > before:
            self.switched(self.told[-1].removeprefix("power "))
        return answer


class FleetNode:
    """One server. ``where`` it is: off, firmware, ramdisk or instance."""

    def __init__(self, number: int, urls: Sequence[str], pace: Pace, password: str) -> None:
        self.name = f"f{number:05}"
        self.mac = f"52:54:01:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
        self.where = "off"
        self.problem = ""
        self._pace = pace
        self._chance = random.Random(f"{pace.seed}/{number}")  # noqa: S311  # the same fleet each time
        self._urls = self._chance.sample(urls, len(urls))
        self.uuid = uuid.UUID(int=self._chance.getrandbits(128), version=4)
        guid = self.uuid.bytes_le
        self.bmc = FleetBmc({USER: password}, guid=guid)
        self.bmc.faults.silent = self._has(Fault.SILENT)
        self._bad_disk, self._red = self._has(Fault.DISK), self._has(Fault.RED)
        self._services: Sequence[str] = ()
        self._trust: ssl.SSLContext | None = None
        self._seed: Seed | None = None
        self.handed_to: Path | None = None
        """Folder of a real instance that takes the place of this one's, by the files that this one was given."""
        self._proves = False
        self._root = ""
        self._boot = 0
        self._task: asyncio.Task[None] | None = None

    def _has(self, fault: Fault) -> bool:
        return self._chance.random() < self._pace.faults.get(fault, 0.0)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on it lives when it is switched on; the controllers are served by another thread."""

        def switched(word: str) -> None:
            loop.call_soon_threadsafe(self._switch, word)

        self.bmc.switched = switched

    def _switch(self, word: str) -> None:
        if self._task is not None and word != "on":
            self._task.cancel()
            self._task = None
            self.where = "off"
        if word in ("on", "reset", "cycle") and self._task is None:
            self._boot += 1
            self._task = asyncio.get_running_loop().create_task(self._live())

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _live(self) -> None:
        link = GuestLink(self._urls)
        try:
            self.where = "firmware"
            await self._take(self._pace.boot)
            token = await self._boot_script(link) if self._boots_from_network() else None
            while token is None and self._seed is None:  # there is nothing on its disk, so it begins anew
                await self._take(self._pace.boot)
                token = await self._boot_script(link)
            if token is not None:
                link.close()
                link = GuestLink(self._services, self._trust)
            if token is not None and self._has(Fault.LOST):
                self.problem = "the ramdisk does not come up"
                return
            if token is not None:
                self.where = "ramdisk"
                await self._ramdisk(link, token)
            elif self._seed is not None:
                self.where = "instance"
                link.close()
                if self.handed_to is None:
                    await self._take(self._pace.start)
                    await self._instance(self._seed).run()
        finally:
            link.close()

    def _instance(self, seed: Seed) -> FleetInstance:
        async def apply() -> None:
            await self._take(self._pace.apply)

        def complain(problem: str) -> None:
            self.problem = problem

        boot = f"{self.name}-{self._boot}"
        return FleetInstance(seed, boot, self._root, apply, red=self._red, complain=complain)

    async def _take(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._chance.uniform(0.67, 1.33))

    def _boots_from_network(self) -> bool:
        """What the controller's flags say for this one start."""
        flags = self.bmc.boot
        self.bmc.boot = bytes(5)
        return bool(flags[0] & VALID_FLAG) and flags[1] & DEVICE_BITS == PXE_FLAG

    async def _boot_script(self, link: GuestLink) -> str | None:
        while True:
            try:
                status, script = await link.get(f"/boot/{self.mac}", ANSWER_SECONDS)
            except AWAY:
                await asyncio.sleep(AWAY_SECONDS)
                continue
            arguments: dict[str, str] = dict(re.findall(r"(provisioner\.\w+)=(\S+)", script.decode(errors="replace")))
            if status != 200 or RAMDISK_TOKEN_ARGUMENT not in arguments:
                link.turn()
                return None
            self._services = arguments[RAMDISK_URL_ARGUMENT].split(BETWEEN)
            self._trust = trust(read_authority(arguments[RAMDISK_CA_ARGUMENT]))
            self._proves = RAMDISK_PROVE_ARGUMENT in arguments
            return arguments[RAMDISK_TOKEN_ARGUMENT]

    def hardware(self) -> dict[str, Any]:
        disk = {"name": "sda", "size": DISK_BYTES, "model": "simulated", "serial": self.name}
        nic = {"name": "eth0", "mac": self.mac, "speed": 10_000}
        return {
            "cpus": 64, "memory_mib": 262_144, "firmware": "uefi", "disks": [disk], "nics": [nic],
            "product": "simulated", "serial": self.name, "uuid": str(self.uuid), "boot_mac": self.mac,
        }  # fmt: skip

    async def _ramdisk(self, link: GuestLink, token: str) -> None:
        ident, _, _ = token.partition(".")
        secret = secrets.token_urlsafe(32)
        hello: dict[str, Any] = {"boot_id": f"{self.name}-{self._boot}", "secret": secret, "hardware": self.hardware()}
        if self._proves:
            hello["proof"] = self.bmc.write_event(build_record(secret))
        if await link.say(token, "POST", HELLO, hello) is None:
            self.problem = "the service refuses its hello"
            return
        token = f"{ident}.{secret}"
        while True:
            said = await link.say(token, "GET", f"{ORDER}?wait={POLL_SECONDS:.0f}")
            order = (said or {}).get("order")
            if order is None:
                await asyncio.sleep(0 if said is not None else AWAY_SECONDS)
                continue
            if order["step"] == "power-off":
                self.bmc.power = False
                self.where = "off"
                return
            result = {"order": order["id"], "ok": True, "detail": await self._obey(link, token, order)}
            if order["step"] == "write-image" and self._bad_disk:
                error = {"summary": "the disk does not keep what is written to it", "cause": "simulated"}
                result |= {"ok": False, "detail": {}, "error": error}
            await link.say(token, "POST", RESULT, result)

    async def _obey(self, link: GuestLink, token: str, order: Mapping[str, Any]) -> dict[str, Any]:
        step = order["step"]
        if step == "storage":
            parts = [part["name"] for disk in order["disks"] for part in disk["partitions"]]
            parts += [part["name"] for part in (*order["raids"], *order["logicals"])]
            return {"devices": {name: f"/dev/{name}" for name in parts}, "made": [], "gone": []}
        if step == "write-image":
            begun = asyncio.get_running_loop().time()
            seconds = self._pace.image * self._chance.uniform(0.67, 1.33)
            while (passed := asyncio.get_running_loop().time() - begun) < seconds:
                await asyncio.sleep(min(1.0, seconds - passed))
                done = round(IMAGE_BYTES * min(1.0, (passed + 1) / seconds))
                news = {"order": order["id"], "phase": "write", "bytes": done, "total": IMAGE_BYTES, "rate": 1}
                await link.say(token, "POST", PROGRESS, news)
            return {"bytes": IMAGE_BYTES, "seconds": round(seconds, 1), "rate": round(IMAGE_BYTES / seconds)}
        if step == "seed-instance":
            self._seed = read_seed(order["files"])
            if self.handed_to is not None:
                for file in order["files"]:
                    write_file(self.handed_to / file["path"].lstrip("/"), file["content"], mode=file["mode"])
            return {"files": len(order["files"])}
        if step == "boot-loader":
            self._root = str(order["root_device"])
            return {"firmware": order["firmware"]}
        if step in ("hello", "inspect", "erase"):
            return {"hardware": self.hardware(), "disks": {"sda": "simulated"}}
        return {"verdict": "passed", "summary": "simulated"}


class Fleet:
    """``count`` servers. Their controllers are at UDP ports of the loopback: :attr:`ports`.

    :param urls: of the provisioning listeners of the services. :param password: of every controller.
    """

    def __init__(self, count: int, urls: Sequence[str], pace: Pace, password: str) -> None:
        self.nodes = [FleetNode(number, urls, pace, password) for number in range(1, count + 1)]
        self._rack = SimulatedRack([node.bmc for node in self.nodes])
        self.ports = self._rack.ports

    async def run(self, stop: asyncio.Event, say: Callable[[Mapping[str, int]], None], every: float) -> None:
        """Live until ``stop``. ``say`` hears every so many seconds how many servers are where."""
        loop = asyncio.get_running_loop()
        for node in self.nodes:
            node.attach(loop)
        try:
            while not stop.is_set():
                try:
                    await asyncio.wait_for(stop.wait(), every)
                except TimeoutError:
                    say(self.count())
        finally:
            for node in self.nodes:
                node.end()

    def count(self) -> dict[str, int]:
        """How many servers are where, and how many have which problem."""
        return dict(Counter(node.where for node in self.nodes) + Counter(n.problem for n in self.nodes if n.problem))

    def close(self) -> None:
        self._rack.close()
