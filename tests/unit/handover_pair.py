"""Two sides of a handover in one process: a service that is the master, and a node that asks for the duty.

Each side keeps its own folder, and may be killed at any line of its program: what it had in memory is gone, and it is
made anew from what is on its disk. The line between them is a call; what is sent over it is JSON, as on a wire.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from provisioner.bmc.fake import FakeBmcs
from provisioner.errors import ProvisionerError
from provisioner.events import Event
from provisioner.images.catalogue import Catalogue
from provisioner.model.deployment import Address, Placement
from provisioner.model.duty import Duty, DutyState
from provisioner.model.hardware import BmcAddress, NodeSpec, Port, Power, SecretRef
from provisioner.model.image import Image, ImageIndex
from provisioner.model.states import NodeState
from provisioner.server.handover import Handover, mode_of
from provisioner.server.receive import Receiver, Successor
from provisioner.store.duty import read_duty
from provisioner.store.store import Store
from provisioner.store.tokens import INSTANCE
from provisioner.system.clock import FakeClock
from provisioner.system.files import hash_file
from provisioner.system.settings import Settings
from provisioner.trust.ca import ensure_ca
from provisioner.trust.keys import MetadataKey, SiteKeys
from provisioner_agent.protocol.link import FakeLink, Refused, ServerAway
from provisioner_agent.protocol.messages import ARCHIVE, HANDOVER, HANDOVER_SAY, IMAGES

SEED, UNDERCLOUD = "127.0.0.1", "127.0.0.2"
NETWORK = {"interface": "lo", "service": "127.0.0.3", "dhcp_first": "127.0.0.100", "dhcp_last": "127.0.0.199"}
PASSWORD = "hunter2"
TOKEN = "t1.secret"
ROUNDS = 300


class Killed(BaseException):
    """kill -9: nothing catches it."""


class Lines:
    """Counts the lines of some modules that are run, each once, and kills at one of them.

    :param modules: by the end of their paths. :param at: the number of the line; 0 for none.
    """

    def __init__(self, modules: tuple[str, ...], at: int) -> None:
        self._modules, self.at = modules, at
        self._seen: set[tuple[str, int]] = set()

    @property
    def count(self) -> int:
        return len(self._seen)

    def __enter__(self) -> Lines:
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *rest: object) -> None:
        sys.settrace(self._before)

    def _enter(self, frame: FrameType, kind: str, value: object) -> Any:
        return self._line if frame.f_code.co_filename.endswith(self._modules) else None

    def _line(self, frame: FrameType, kind: str, value: object) -> Any:
        place = (frame.f_code.co_filename, frame.f_lineno)
        if kind == "line" and place not in self._seen:
            self._seen.add(place)
            if self.count == self.at:
                raise Killed
        return self._line


class Seed:
    """The service that has the duty at first. :meth:`begin` is what each start of it does."""

    def __init__(self, folder: Path, clock: FakeClock, schema: str = "") -> None:
        self.settings = Settings(state_dir=folder, run_dir=folder / "run", address=f"{SEED}/8", **NETWORK)
        self.clock = clock
        self.up = True
        self.begin()

    def begin(self) -> None:
        keys = SiteKeys.ensure(self.settings.keys)
        self.store = Store(self.settings.database, keys, self.settings.records)
        self.catalogue = Catalogue(self.settings.images, keys)
        self.handover = Handover(self.settings, self.store, self.catalogue, self.clock)
        if not self.handover.duty().state.in_force:
            self.store.fence()
        self.turned = False
        self.handover.turn = self._turn
        self.mode = mode_of(self.handover.duty())
        self.handover.prepare()

    def _turn(self) -> None:
        self.turned = True

    def end(self) -> None:
        self.store.close()

    @property
    def duty(self) -> Duty:
        return read_duty(self.settings.records)


class Pair:
    def __init__(self, folder: Path, nodes: int = 3) -> None:
        self.clock = FakeClock()
        self.seed = Seed(folder / "seed", self.clock)
        self.fill(nodes)
        self.settings = Settings(
            state_dir=folder / "undercloud", run_dir=folder / "run2", address=f"{UNDERCLOUD}/8", awaits=True, **NETWORK
        )
        self.config = {
            "node": "node0",
            "ca": ensure_ca(self.seed.settings.keys).read_text(),
            "signer": MetadataKey.ensure(self.seed.settings.keys).public_key_pem,
        }
        self.bmcs = FakeBmcs(password=PASSWORD)
        self.commanded = True
        self.started = 0
        self.start_fails: ProvisionerError | None = None
        self.told: list[Event] = []
        self.cut: Callable[[str], bool] = lambda what: False
        self.damage: Callable[[Path], None] = lambda path: None
        self.epoch: int | None = None
        self.receiver = self._receiver()

    def fill(self, nodes: int) -> None:
        """Nodes of which the first is active, and images."""
        store, catalogue, now = self.seed.store, self.seed.catalogue, self.clock.now()
        ensure_ca(self.seed.settings.keys)
        image = publish(catalogue, "undercloud", "1")
        publish(catalogue, "ramdisk", "2")
        publish(catalogue, "old", "3")
        (catalogue.folder / "old.newest").unlink()
        for number in range(nodes):
            bmc = BmcAddress(address=f"10.0.0.{number + 1}", username="admin", password=SecretRef(file="/x"))
            spec = NodeSpec(name=f"node{number}", bmc=bmc, ports=(Port(mac=f"52:54:00:00:00:{number:02x}"),))
            store.nodes.add(f"u{number}", spec, PASSWORD, power=Power.OFF, facts={}, pool=(), now=now)
        address = Address(network="main", address="127.0.0.2/8", mac="52:54:00:00:00:00")
        place = Placement(
            cloud="lab", role="undercloud", index=0, hostname="undercloud-0", node="node0", image=image.id,
            addresses=(address,),
        )  # fmt: skip
        store.deployments.add("d1", place, now)
        for state in (NodeState.AVAILABLE, NodeState.DEPLOYING, NodeState.ACTIVE):
            store.nodes.move(store.nodes.get("node0"), state, now=now, deployment="d1")
        store.tokens.replace(TOKEN, INSTANCE, "node0", "d1", None)

    def _receiver(self) -> Receiver:
        return Receiver(
            Successor(
                self.settings,
                self.config,
                self.seed.store.schema,
                lambda seed: FakeLink(self.answer),
                self,
                lambda: (self.bmcs, self.bmcs.close),
                lambda: self.commanded,
                self.start,
                self.clock,
                self.told.append,
            )
        )

    def start(self) -> None:
        """The service of the undercloud."""
        if self.start_fails is not None:
            raise self.start_fails
        self.started += 1

    # The line.

    def answer(self, method: str, target: str, body: dict[str, Any]) -> Any:
        url = urlsplit(target)
        what = f"{method} {url.path} {body.get('say', '')}".strip()
        if not self.seed.up or not self.seed.mode[1] or self.cut(what):
            raise ServerAway("the seed does not answer")
        ident = TOKEN.partition(".")[0]
        try:
            if url.path == HANDOVER:
                have = parse_qs(url.query).get("have", [""])[0]
                said: Mapping[str, Any] = self.seed.handover.offer(ident, have)
            else:
                assert url.path == HANDOVER_SAY
                said = self.seed.handover.hear(ident, json.loads(json.dumps(body)))
        except ProvisionerError as error:
            raise Refused(error.summary) from error
        finally:
            self.turn()
        if self.cut(f"answer {what}"):
            raise ServerAway("the answer was lost")
        return json.loads(json.dumps(said))

    def fetch(self, seed: str, path: str, target: Path, size: int, tell: Callable[[int], None]) -> None:
        if not self.seed.up or self.cut(f"FETCH {path}"):
            raise OSError("the line was cut")
        try:
            if path.startswith(ARCHIVE):
                source = self.seed.handover.archive(path.removeprefix(f"{ARCHIVE}/"))
            else:
                image, name = path.removeprefix(f"{IMAGES}/").split("/")
                source = self.seed.catalogue.path(image, name)
        except ProvisionerError as error:
            raise OSError(str(error)) from error
        shutil.copyfile(source, target)
        self.damage(target)
        tell(size)

    # What happens.

    def turn(self) -> None:
        """The service begins anew when its duty is another."""
        if self.seed.turned:
            self.seed.end()
            self.seed.begin()

    def kill_seed(self) -> None:
        self.seed.end()
        self.seed.begin()

    def kill_receiver(self) -> None:
        self.receiver = self._receiver()

    def masters(self) -> list[str]:
        """On whose disk the records are in force."""
        found = ["seed"] if self.seed.duty.state.in_force else []
        here = self.settings.records
        return found + (["undercloud"] if here.exists() and read_duty(here).state.in_force else [])

    def round(self) -> None:
        """One step of the undercloud, and of the seed."""
        if self.epoch is None:
            self.epoch = self.receiver.step()
        self.seed.handover.look()
        self.turn()
        self.clock.sleep(1.0)

    def play(self, until: Callable[[], bool] | None = None, rounds: int = ROUNDS) -> None:
        for _ in range(rounds):
            if (until or self.over)():
                return
            self.round()
            assert len(self.masters()) <= 1
        raise AssertionError(f"not within {rounds} rounds: {self.seed.duty}; {self.told[-3:]}")

    def over(self) -> bool:
        return self.epoch is not None or (
            self.seed.duty.state is DutyState.MASTER and "failure" in self.seed.duty.detail
        )


def publish(catalogue: Catalogue, name: str, digit: str) -> Image:
    with catalogue.workplace() as built:
        (built / "root.zst").write_text(f"{name} {digit}" * 100)
        (built / "index.json").write_text(ImageIndex(size=4096, chunks=()).model_dump_json())
        paths = sorted(built.iterdir())
        files, sizes = {p.name: hash_file(p) for p in paths}, {p.name: p.stat().st_size for p in paths}
        image = Image(id=f"{name}-{digit * 12}", name=name, files=files, sizes=sizes)
        catalogue.publish(image, built, {"subject": image.id})
    return image
