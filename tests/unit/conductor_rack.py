"""A rack for tests of the conductor: servers, controllers and guests that outlive the conductor, which may be killed.

Nothing of ours is patched: the conductor gets its own doors, with fakes behind them.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from records import records_url

from provisioner.bmc.contract import Asked
from provisioner.bmc.fake import FakeConsole
from provisioner.conductor.cloudinit import CONFIG
from provisioner.conductor.conductor import Conductor
from provisioner.conductor.metadata import Ask
from provisioner.errors import BmcError, BmcRefused, BmcSilent, ImageError, NotFound, TrustError
from provisioner.model.hardware import BmcAddress, BootDevice, Location, NodeSpec, Port, Power, SecretRef
from provisioner.model.image import Chunk, Image, ImageIndex
from provisioner.model.role import Cloud, Config, Desired, Health, ImageSpec, Network, Probe, Role, RoleUse
from provisioner.model.status import EnrollItem
from provisioner.store.store import Store
from provisioner.system.clock import FakeClock
from provisioner.system.settings import Settings
from provisioner_agent.instance.document import Document, parse_document
from provisioner_agent.protocol.auth import build_record
from provisioner_agent.protocol.messages import AGENT_CONFIG

PASSWORD = "hunter2"
AUTHORITY = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
"""Handed on, and not looked into."""


class Stamp:
    """In the place of a key: the rack's instances do not look at signatures."""

    public_key_pem = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"

    def sign(self, data: bytes) -> bytes:
        return b"signed: " + data[:8]


SIGNER = Stamp()
DISK_TABLE = "5ca1ab1e-0000-4000-8000-000000000000"
"""What the table of every whole disk calls itself."""
PARTITION = "deadbeef-0000-4000-8000-000000000001"
"""The root partition of every whole disk."""
GIB = 1 << 30


ON_A_WHOLE_DISK = {"root_device": f"PARTUUID={PARTITION}"}


class Killed(BaseException):
    """kill -9 of the conductor: nothing catches it."""


class Rot:
    """Unreadable enough to see that something was sealed."""

    def encrypt(self, text: str) -> str:
        return "sealed:" + base64.b64encode(text.encode()[::-1]).decode()

    def decrypt(self, token: str) -> str:
        return base64.b64decode(token.removeprefix("sealed:")).decode()[::-1]


class Images:
    """A catalogue with one image for each role and the ramdisk."""

    def __init__(self, roles: Mapping[str, Role]) -> None:
        self.size = 2 * GIB
        self.known = {name: _image(name) for name in ("ramdisk", *roles)}
        self.trees: dict[str, dict[str, str]] = {}
        self.scripts: dict[str, dict[str, str]] = {}
        self.damaged: set[str] = set()
        for name in [role.image_name for role in roles.values() if role.image.disk]:
            self.known[name] = _image(name).model_copy(update={"kind": "disk", "table": DISK_TABLE, "sector": 512})
            self.trees[name] = {}

    def images(self) -> list[Image]:
        return list(self.known.values())

    def newest(self, name: str) -> Image | None:
        return self.known.get(name)

    def get(self, image_id: str) -> Image:
        if image_id in self.damaged:
            raise ImageError("its signature does not hold", where=image_id)
        for image in self.known.values():
            if image.id == image_id:
                return image
        raise NotFound("there is no such image", where=image_id)

    def index(self, image_id: str) -> ImageIndex:
        if self.get(image_id).name == "ramdisk":
            raise ImageError("the ramdisk has no index")
        chunk = Chunk(offset=0, length=4096, sha256="0" * 64, frame=0, frame_length=100)
        return ImageIndex(size=self.size, chunks=(chunk,))

    def templates(self, image_id: str) -> dict[str, str] | None:
        return self.trees.get(self.get(image_id).name)

    def phases(self, image_id: str) -> dict[str, str]:
        return self.scripts.get(self.get(image_id).name, {})


def _image(name: str) -> Image:
    names = ("kernel", "initramfs") if name == "ramdisk" else ("root.zst", "index.json")
    files = {file: f"{number:064x}" for number, file in enumerate(names)}
    return Image(id=f"{name}-{'0' * 12}", name=name, files=files, sizes=dict.fromkeys(names, 1))


@dataclass
class Server:
    """One server with its controller. It does what its power, its boot device and its disk say."""

    name: str
    number: int
    power: Power = Power.OFF
    device: BootDevice = BootDevice.DISK
    running: str = "nothing"
    boot: int = 0
    token: str = ""
    secret: str = ""
    event_log: dict[int, bytes] = field(default_factory=dict)
    greeted: bool = False
    disk_guid: str | None = None
    foreign: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    loader: bool = False
    applied: int = 0
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    permit: int = 0
    bad_generations: set[int] = field(default_factory=set)
    red: bool = False
    role_red: bool = False
    once: list[dict[str, Any]] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)
    order_bodies: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    deaf_to: set[str] = field(default_factory=set)
    test_results: dict[str, dict[str, str]] = field(default_factory=dict)
    root: str = ""
    fail_orders: dict[str, str] = field(default_factory=dict)
    boots: int = 0
    unknown_ports: bool = False
    says_uuid: bool = True
    bmc_inside: str = ""
    drain_scripts: int | None = 0
    """None: its agent knows of no drain."""
    drain: str = "drained"
    """How its drain ends; another word for never."""
    drained: dict[str, Any] = field(default_factory=dict)
    drains: list[str] = field(default_factory=list)
    zone: str = ""

    @property
    def mac(self) -> str:
        return f"52:54:00:77:00:{self.number:02x}"

    @property
    def uuid(self) -> uuid.UUID:
        return uuid.uuid5(uuid.NAMESPACE_DNS, self.name)

    @property
    def spec(self) -> NodeSpec:
        bmc = BmcAddress(address=f"10.77.1.{self.number}", username="admin", password=SecretRef(file="/bmc"))
        ports = () if self.unknown_ports else (Port(mac=self.mac),)
        place = Location(zone=self.zone)
        return NodeSpec(name=self.name, bmc=bmc, ports=ports, properties={"memory_mib": 2048}, location=place)

    def switch(self, want: str) -> None:
        on = want not in ("off", "soft")
        if on and (self.power is Power.OFF or want != "on"):
            self.running, self.greeted = "firmware", False
            self.boot += 1
            self.secret = f"made-by-{self.name}-in-boot-{self.boot}".ljust(32, "-")
        if not on:
            self.running = "nothing"
        self.power = Power.ON if on else Power.OFF


class Controllers:
    """The BMC door over the servers. ``silent`` addresses never answer; ``after`` is called after each effect."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self.by_address = {server.spec.bmc.address: server for server in servers.values()}
        self.silent: set[str] = set()
        self.errors: dict[str, int] = {}
        self.ignores_soft = False
        self.password = PASSWORD
        self.passwords: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []
        self.after: Callable[[str], None] = lambda call: None
        self.held: dict[str, threading.Event] = {}

    def _reach(self, bmc: BmcAddress, password: str, call: str) -> Server:
        self.calls.append((bmc.address, call))
        if bmc.address in self.held:
            assert self.held[bmc.address].wait(20)
        left = self.errors.get(bmc.address, 0)
        if left:
            self.errors[bmc.address] = left - 1
        if left or bmc.address in self.silent or bmc.address not in self.by_address:
            raise BmcSilent("no answer", where=bmc.address)
        if password != self.passwords.get(bmc.address, self.password):
            raise BmcRefused("the password is wrong", where=bmc.address)
        return self.by_address[bmc.address]

    def verify(self, bmc: BmcAddress, password: str, deadline: float) -> dict[str, Any]:
        server = self._reach(bmc, password, "verify")
        return {"manufacturer": "test", "power": str(server.power), "guid": server.uuid.hex}

    def power(self, bmc: BmcAddress, password: str, deadline: float) -> Power:
        return self._reach(bmc, password, "power").power

    def set_power(self, bmc: BmcAddress, password: str, want: str, deadline: float) -> Power:
        server = self._reach(bmc, password, want)
        if want == "soft" and self.ignores_soft:
            raise BmcError("the node did not shut down", where=bmc.address)
        server.switch(want)
        self.after(want)
        return server.power

    def set_boot_device(
        self,
        bmc: BmcAddress,
        password: str,
        device: BootDevice,
        uefi: bool,
        deadline: float,
        persistent: bool = False,
    ) -> None:
        server = self._reach(bmc, password, f"boot {device}")
        assert uefi
        server.device = device
        self.after(f"boot {device}")

    def identify(self, bmc: BmcAddress, password: str, seconds: int | None, deadline: float) -> None:
        self._reach(bmc, password, f"identify {seconds}")

    def read(self, bmc: BmcAddress, password: str, what: str, deadline: float) -> Any:
        self._reach(bmc, password, what)
        return {} if what == "inventory" else []

    def event_record(self, bmc: BmcAddress, password: str, record: int, deadline: float) -> bytes:
        return self._reach(bmc, password, "event_record").event_log[record]

    def console(self, bmc: BmcAddress, password: str, *, force: bool = True) -> FakeConsole:
        self._reach(bmc, password, "console")
        return FakeConsole()

    def audit(self, bmc: BmcAddress, password: str, deadline: float) -> list[dict[str, Any]]:
        self._reach(bmc, password, "audit")
        return []

    def change_password(self, bmc: BmcAddress, password: str, new: str, deadline: float) -> None:
        self._reach(bmc, password, "change_password")
        self.passwords[bmc.address] = new
        self.after("change_password")

    def sweep(self, bmcs: Asked, deadline: float) -> Iterator[Mapping[str, Power | BmcError]]:
        for key, (bmc, password) in bmcs.items():
            try:
                yield {key: self.power(bmc, password, deadline)}
            except BmcError as error:
                yield {key: error}

    def verify_all(self, bmcs: Asked, deadline: float) -> Iterator[Mapping[str, dict[str, Any] | BmcError]]:
        for key, (bmc, password) in sorted(bmcs.items(), key=lambda item: item[1][0].address in self.held):
            try:
                yield {key: self.verify(bmc, password, deadline)}
            except BmcError as error:
                yield {key: error}

    def scan(self, network: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield from ((address, ("ipmi",)) for address in self.by_address)

    def close(self) -> None:
        pass


class Rack:
    """Servers, and the conductor that a test may kill and start again. Play with :meth:`play`."""

    def __init__(
        self,
        folder: Path,
        count: int = 1,
        desired: Desired | None = None,
        record_consoles: bool = False,
        prove_by_bmc: bool = False,
    ) -> None:
        self.folder = folder
        self.settings = Settings(
            interface="rack0",
            address="10.77.0.1/24",
            dhcp_first="10.77.0.100",
            dhcp_last="10.77.0.199",
            record_consoles=record_consoles,
            prove_by_bmc=prove_by_bmc,
        )
        self.clock = FakeClock()
        self.servers = {f"node{number}": Server(f"node{number}", number) for number in range(1, count + 1)}
        self.bmcs = Controllers(self.servers)
        self.desired = desired or cloud(count)
        self.images = Images(self.desired.roles)
        self.on_commit: Callable[[], None] | None = None
        self.restarts = 0
        self.max_at_once = 0
        self.store, self.conductor = self._open()

    def _open(self) -> tuple[Store, Conductor]:
        store = Store(records_url(self.folder, "rack"), Rot())
        conductor = Conductor(store, self.bmcs, self.images, self.settings, AUTHORITY, SIGNER, clock=self.clock)
        conductor.subscribe(lambda topics: self.on_commit() if self.on_commit else None)
        return store, conductor

    def restart(self) -> None:
        """The conductor is gone; a fresh one opens the same records."""
        self.restarts += 1
        self.store.close()
        self.store, self.conductor = self._open()

    def enroll(self) -> None:
        items = [EnrollItem(spec=server.spec, password=PASSWORD) for server in self.servers.values()]
        assert {result.result for result in self.conductor.enroll(items)} == {"enrolled"}

    def enroll_again(self, name: str) -> None:
        items = [EnrollItem(spec=self.servers[name].spec, password=PASSWORD)]
        assert {result.result for result in self.conductor.enroll(items)} == {"enrolled"}

    def apply(self, desired: Desired | None = None) -> None:
        self.desired = desired or self.desired
        self.conductor.apply(self.conductor.plan(self.desired))

    def play(self, until: Callable[[], bool] | None = None, rounds: int = 60) -> None:
        """Let everything happen, round by round, until all are active and told, or ``until`` holds."""
        for _ in range(rounds):
            if (until or self.settled)():
                return
            self.surviving(self.conductor.tick)
            for server in self.servers.values():
                self.surviving(lambda server=server: self.live(server))  # type: ignore[misc]
            self.clock.sleep(3)
        raise AssertionError(f"not within {rounds} rounds: {self.states()}; {self.events()[-5:]}")

    def kill_at(self, commit: int) -> None:
        """The conductor is killed at its so manieth commit from now on, once."""
        left = commit

        def strike() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        self.on_commit = strike

    def surviving(self, call: Callable[[], None]) -> None:
        """A call after which, when it kills the conductor, a fresh one is there."""
        try:
            call()
        except Killed:
            self.restart()

    def settled(self) -> bool:
        status = self.conductor.cloud_status(self.desired.cloud.cloud)
        return status.ready or status.failed

    def states(self) -> dict[str, str]:
        return {node.name: str(node.state) for node in self.conductor.nodes()}

    def events(self) -> list[str]:
        return [f"{event['node']} {event['kind']}: {event['message']}" for event in self.conductor.events(0, 10_000)]

    def live(self, server: Server) -> None:
        """What a server does by itself in a moment."""
        {
            "nothing": lambda server: None,
            "firmware": self._firmware,
            "ramdisk": self._ramdisk,
            "instance": self._instance,
        }[server.running](server)

    def _firmware(self, server: Server) -> None:
        if server.device is BootDevice.PXE:
            script = self.conductor.boot_script(server.mac)
            assert script is not None
            found = re.search(r"provisioner\.token=(\S+)", script)
            if found:
                server.running, server.token = "ramdisk", found.group(1)
                server.boots += 1
                return
        if server.loader:
            server.running = "instance"

    def _ramdisk(self, server: Server) -> None:
        ident, _, secret = server.token.partition(".")
        try:
            if not server.greeted:
                assert self.conductor.guest(ident, "hello")[0] == secret
                hello = {"boot_id": f"boot-{server.boot}", "secret": server.secret, "hardware": self.hardware(server)}
                if self.settings.prove_by_bmc:
                    number = 0x0100 + server.boot
                    server.event_log[number] = build_record(server.secret)
                    hello |= {"proof": number}
                self.conductor.hello(ident, hello, "10.77.0.100")
                server.greeted = True
            assert self.conductor.guest(ident, "boot")[0] == server.secret
            order = self.conductor.order(ident)
        except TrustError:
            return  # the token ended, maybe this very moment: another thread may be restarting the server
        if order:
            self.obey(server, ident, order)

    def hardware(self, server: Server) -> dict[str, Any]:
        gpt = ("gpt",) if server.disk_guid else ()
        disk = {
            "name": "sda",
            "size": 8 * GIB,
            "signatures": server.foreign + gpt,
            "gpt_uuid": server.disk_guid,
        }
        nics = [{"name": "eth1", "mac": f"52:54:00:88:00:{server.number:02x}"}, {"name": "eth0", "mac": server.mac}]
        more: dict[str, Any] = {"boot_mac": server.mac, "nics": nics, "bmc_address": server.bmc_inside}
        more["uuid"] = str(server.uuid) if server.says_uuid else ""
        return {"cpus": 2, "memory_mib": 2048, "firmware": "uefi", "disks": [disk]} | more

    def obey(self, server: Server, ident: str, order: Mapping[str, Any]) -> None:
        step = order["step"]
        server.orders.append(step)
        server.order_bodies[step] = order
        if step in server.deaf_to:
            return
        if step == "power-off":
            server.switch("off")
            return
        if step in server.fail_orders:
            error = {"summary": server.fail_orders[step], "cause": "a test"}
            self.conductor.result(ident, {"order": order["id"], "ok": False, "error": error})
            return
        if step == "storage":
            server.disk_guid, server.loader, server.files = order["disks"][0]["guid"], False, {}
        if step == "clear-disk":
            server.disk_guid, server.loader, server.files = None, False, {}
        if step == "erase":
            server.disk_guid, server.loader = None, False
        if step == "write-image" and server.disk_guid is None:
            server.disk_guid = DISK_TABLE
        if step == "write-image":
            news = {"order": order["id"], "bytes": 50, "total": 100, "rate": 10.0, "remaining": 5.0}
            self.conductor.progress(ident, news)
        if step in ("seed-instance", "seed-disk"):
            server.files = {file["path"]: file["content"] for file in order["files"]}
            server.applied = server.permit = 0
            server.drained = {}
        if step in ("boot-loader", "check-disk"):
            server.loader = True
        if step == "restart" and server.loader:
            server.running = "instance"
        detail: dict[str, Any] = {"seen": step}
        if step == "storage":
            names = [partition["name"] for disk in order["disks"] for partition in disk["partitions"]]
            names += [part["name"] for part in (*order["raids"], *order["logicals"])]
            detail = {"devices": {name: f"/dev/{name}" for name in names}, "made": []}
        if step == "clear-disk":
            detail = {"devices": {"root": "/dev/sda"}, "made": [], "gone": []}
        if step == "erase":
            detail = {"level": order["level"], "disks": {"sda": "discarded"}, "hardware": self.hardware(server)}
        if step == "check-disk":
            detail = {"partitions": [PARTITION]}
        if step.startswith("test-"):
            well = {"verdict": "passed", "summary": "well"}
            detail = server.test_results.get(step.removeprefix("test-"), well)
        if step == "rescue":
            detail = {"consoles": ["ttyS0"], "fingerprint": "SHA256:x"}
        if step == "hello":
            detail = {"hardware": self.hardware(server)}
        if step == "inspect":
            detail = {"hardware": self.hardware(server) | {"processor": "Testing 9000"}}
        self.conductor.result(ident, {"order": order["id"], "ok": True, "detail": detail})

    def _instance(self, server: Server) -> None:
        """The config agent: permit, change, report unhealthy, probe, report, give the permit back."""
        token = re.search(r'"token": "(\S+)\.(\S+)"', read_agent_config(server))
        assert token
        ident = token.group(1)
        try:
            assert self.conductor.guest(ident, "instance")[0] == token.group(2)
        except TrustError:
            return
        if server.permit:
            self._finish(server, ident)
            return
        found = self._collect(server, ident)
        if found is None:
            self.report(server, ident, server.applied, "applied", not server.red)
            return
        generation, asked = found.generation, dict(found.own.get("drain") or {})
        if server.drain_scripts is not None:
            if asked:
                server.drains.append(asked["for"])
                ends = server.drain in ("drained", "failed")
                error = {"summary": "guests are left", "cause": "a test"} if server.drain == "failed" else None
                server.drained = {"id": asked["id"], "state": server.drain if ends else "running", "error": error}
                self.report(server, ident, server.applied, "applied", not server.red)
                return
            server.drained = {}
        answer = self.conductor.permit(ident, {"action": "acquire", "generation": generation, "wait": 0})
        if answer["granted"]:
            server.once.append(answer["once"])
            server.permit = generation
            self.max_at_once = max(self.max_at_once, sum(bool(s.permit) for s in self.servers.values()))

    def metadata(self, ident: str, since: int, have: Collection[str] = ()) -> str | None:
        """What one instance is told. :raises TrustError: nobody knows its token."""
        (answer,) = self.conductor.metadata([Ask(ident, since, have)])
        if isinstance(answer, TrustError):
            raise answer
        return answer

    def _collect(self, server: Server, ident: str) -> Document | None:
        """As an agent reads it, that has kept what it got before."""
        text = self.metadata(ident, server.applied, server.parts)
        found = None if text is None else parse_document(json.loads(text), server.parts)
        server.parts = server.parts if found is None else found.parts
        return found

    def _finish(self, server: Server, ident: str) -> None:
        generation = server.permit
        if generation in server.bad_generations:
            self.report(server, ident, generation, "rolled-back", False, error={"summary": "it did not start"})
        else:
            self.report(server, ident, generation, "applied", False)
            server.applied = generation
            if server.red:
                return
            self.report(server, ident, generation, "applied", True)
        self.conductor.permit(ident, {"action": "release", "generation": generation})
        server.permit = 0

    def report(
        self, server: Server, ident: str, generation: int, state: str, healthy: bool, error: object = None
    ) -> None:
        probes = {
            "synced": {"ok": healthy, "output": "", "scope": "node"},
            "size": {"ok": not server.role_red, "output": "2", "scope": "role"},
        }
        message: dict[str, Any] = {
            "generation": generation,
            "applied": server.applied if state != "applied" else generation,
            "state": state,
            "healthy": healthy,
            "probes": probes,
            "phases": [],
            "error": error,
            "services": {},
            "boot_id": str(server.boot),
            "root": server.root or server.order_bodies.get("boot-loader", ON_A_WHOLE_DISK)["root_device"],
        }
        if server.drain_scripts is not None:
            message["drain"] = {"scripts": server.drain_scripts, **server.drained}
        self.conductor.report(ident, message)


def read_agent_config(server: Server) -> str:
    """What the agent of an instance is told of the service, by the ramdisk or by cloud-init."""
    if "/user-data" not in server.files:
        return server.files[AGENT_CONFIG]
    user = json.loads(server.files["/user-data"].removeprefix("#cloud-config\n"))
    return next(str(file["content"]) for file in user["write_files"] if file["path"] == CONFIG)


def role(name: str = "web", **more: Any) -> Role:
    fields: dict[str, Any] = {
        "role": name,
        "image": ImageSpec(elements=("base",)),
        "networks": ("main",),
        "config": Config(values={"web": {"size": 1, "word": "plain"}}),
        "secrets": ("web_password",),
        "health": Health(
            node=(Probe(name="synced", command=("true",)),),
            role=(Probe(name="size", command=("true",), expect="{count}"),),
            wait=100.0,
        ),
    }
    return Role(**fields | more)


def cloud(count: int = 1, roles: tuple[Role, ...] = (), **uses: Any) -> Desired:
    """``uses``: fields of the use of the first role; all roles have ``count`` members."""
    chosen = roles or (role(),)
    wanted = {r.role: RoleUse(count=count, **(uses if r is chosen[0] else {})) for r in chosen}
    network = Network(cidr="10.77.0.0/24", pool="10.77.0.20-10.77.0.60")
    return Desired(
        cloud=Cloud(cloud="lab", networks={"main": network}, roles=wanted), roles={r.role: r for r in chosen}
    )
