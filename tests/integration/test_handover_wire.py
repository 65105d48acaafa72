"""A handover on a wire of its own: two hosts, each a network namespace on one bridge, and a neighbour who looks on.

The address of the service moves from the one to the other, so does DHCP, and a seed that is put back from before the
handover does not start beside the new master. No machine is emulated: whoever asks for the duty is the real program.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rack import PROGRAM, ROOT

from provisioner.model.deployment import Address, Placement
from provisioner.model.hardware import BmcAddress, NodeSpec, Port, Power, SecretRef
from provisioner.model.states import NodeState
from provisioner.store.store import Store
from provisioner.store.tokens import INSTANCE
from provisioner.trust.ca import ensure_ca
from provisioner.trust.keys import MetadataKey, SiteKeys, new_token

SEED, UNDERCLOUD, NEIGHBOUR = "10.78.0.1", "10.78.0.20", "10.78.0.99"
SERVICE = "10.78.0.2"
NODE = "node1"
MAC = "52:54:00:78:00:01"


class Host:
    """A namespace on the wire, with a folder and a configuration of its own."""

    def __init__(self, folder: Path, name: str, address: str, more: str = "") -> None:
        self.folder, self.namespace, self.address = folder / name, f"provisioner-wire-{name}", address
        self.state, self.config = self.folder / "state", self.folder / "provisioner.conf"
        self.folder.mkdir()
        self.config.write_text(
            f"[DEFAULT]\nstate_dir = {self.state}\nrun_dir = {self.folder / 'run'}\nsource_dir = {ROOT}\n"
            f"[operators]\nlisten = {address}:8443\n"
            f"[network]\ninterface = eth0\naddress = {address}/24\nservice = {SERVICE}\n"
            f"dhcp_first = 10.78.0.100\ndhcp_last = 10.78.0.199\n{more}"
        )

    def inside(self, *words: str) -> str:
        argv = ["ip", "netns", "exec", self.namespace, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout

    def attach(self, wire: str) -> None:
        run("ip", "netns", "add", self.namespace)
        port = f"pw-{self.folder.name}"
        run("ip", "-n", wire, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        run("ip", "-n", wire, "link", "set", port, "master", "wire", "up")
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.inside("ip", "link", "set", "eth0", "up")

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        argv = ["ip", "netns", "exec", self.namespace, PROGRAM, "--config", str(self.config), *words]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def run(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        argv = ["ip", "netns", "exec", self.namespace, PROGRAM, "--config", str(self.config), *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
        assert done.returncode in codes, f"{words}\n{done.stdout}\n{done.stderr}\n{self.log()}"
        return done.stdout + done.stderr

    def answers(self) -> bool:
        argv = [PROGRAM, "--config", str(self.config), "node", "list"]
        return subprocess.run(argv, capture_output=True).returncode == 0

    def log(self) -> str:
        return (self.folder / "log").read_text()[-4000:]

    @property
    def mac(self) -> str:
        found: list[dict[str, Any]] = json.loads(self.inside("ip", "-j", "link", "show", "dev", "eth0"))
        return str(found[0]["address"])

    @property
    def dnsmasq(self) -> bool:
        process = self.folder / "run" / "dnsmasq" / "process.json"
        return process.is_file() and Path(f"/proc/{json.loads(process.read_text())['pid']}").exists()

    def has_service(self) -> bool:
        return f"{SERVICE}/32" in self.inside("ip", "addr", "show", "dev", "eth0")


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=60)


def wait(what: str, holds: Callable[[], bool], host: Host, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}\n{host.log()}"
        time.sleep(0.5)


@contextmanager
def wired(*hosts: Host) -> Iterator[None]:
    wire = "provisioner-wire"
    try:
        run("ip", "netns", "add", wire)
        run("ip", "-n", wire, "link", "add", "wire", "type", "bridge")
        run("ip", "-n", wire, "link", "set", "wire", "up")
        for host in hosts:
            host.attach(wire)
        yield
    finally:
        for name in (wire, *(host.namespace for host in hosts)):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@contextmanager
def started(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def fill(seed: Host) -> Path:
    """An active node on record, as after its deployment; what its agent knows of the service."""
    keys = SiteKeys.ensure(seed.state / "keys")
    store, token = Store(f"sqlite:///{seed.state / 'provisioner.db'}", keys), new_token()
    bmc = BmcAddress(address="10.99.0.1", username="admin", password=SecretRef(file="/x"))
    spec = NodeSpec(name=NODE, bmc=bmc, ports=(Port(mac=MAC),))
    store.nodes.add("u1", spec, "hunter2", power=Power.ON, facts={}, pool=("10.78.0.100",), now=time.time())
    place = Placement(
        cloud="lab", role="undercloud", index=0, hostname="undercloud-0", node=NODE, image="undercloud-000000000000",
        addresses=(Address(network="main", address=f"{UNDERCLOUD}/24", mac=MAC),),
    )  # fmt: skip
    store.deployments.add("d1", place, time.time())
    for state in (NodeState.AVAILABLE, NodeState.DEPLOYING, NodeState.ACTIVE):
        store.nodes.move(store.nodes.get(NODE), state, now=time.time(), deployment="d1")
    store.tokens.replace(token, INSTANCE, NODE, "d1", None)
    store.close()
    agent = seed.folder / "agent.json"
    urls = f"https://{SERVICE}:8081,https://{SEED}:8081"
    signer = MetadataKey.ensure(seed.state / "keys").public_key_pem
    ca = ensure_ca(seed.state / "keys").read_text()
    agent.write_text(json.dumps({"url": urls, "ca": ca, "signer": signer, "token": token, "node": NODE}))
    return agent


def silent(seed: Host) -> None:
    """The controller of the node is none of this test: it is on record as one that does not answer."""
    wait("a sweep has found its controller silent", lambda: "10.99.0.1" in json.dumps(errors(seed)), seed)


def begun(seed: Host) -> bool:
    seed.run("handover", NODE, "--no-wait", codes=(0, 1))
    return bool(json.loads(seed.run("handover", "--status", "-o", "json"))["state"] != "master")


def errors(host: Host) -> list[Any]:
    return [node["bmc_error"] for node in json.loads(host.run("node", "list", "-o", "json"))]


@pytest.mark.integration
def test_address_and_dhcp_move_and_an_old_seed_stays_down(tmp_path: Path) -> None:
    seed = Host(tmp_path, "seed", SEED)
    there = Host(tmp_path, "there", UNDERCLOUD, "[handover]\nawaits = true\n")
    neighbour = Host(tmp_path, "next", NEIGHBOUR)
    agent = fill(seed)
    with wired(seed, there, neighbour), started(seed.start("serve")) as first:
        wait("the seed answers", seed.answers, seed)
        assert seed.has_service() and seed.dnsmasq
        assert who_has(neighbour) == seed.mac
        silent(seed)
        passing = shutil.ignore_patterns("*.db-shm", ".*")  # what comes and goes while the service writes
        shutil.copytree(seed.state, tmp_path / "before", ignore=passing)
        with started(there.start("receive", "--agent", str(agent), "--no-start")) as receiver:
            wait("it is begun", lambda: begun(seed), seed)
            seed.run("handover", NODE, "--resume")
            assert receiver.wait(timeout=60) == 0, there.log()
        assert not seed.has_service() and not seed.dnsmasq and first.poll() is None
        with started(there.start("serve")):
            wait("the undercloud answers", there.answers, there)
            assert there.has_service() and there.dnsmasq
            assert who_has(neighbour) == there.mac, "the neighbours were told"
            hosts = (there.folder / "run" / "dnsmasq" / "hosts").read_text()
            assert hosts == f"{MAC},10.78.0.100\n"
            first.terminate()
            first.wait(timeout=30)
            shutil.rmtree(seed.state)
            (tmp_path / "before").rename(seed.state)  # as a disk that is put back
            said = seed.run("serve", codes=(1,))
            assert "another host has the address" in said and there.mac in said
            assert there.has_service() and not seed.dnsmasq


def who_has(neighbour: Host) -> str:
    """Whom a neighbour takes for the service now, without having asked anew."""
    with_it = f"import socket; socket.create_connection(('{SERVICE}', 8081), 10).close()"
    neighbour.inside("python3", "-c", with_it)
    found: list[dict[str, Any]] = json.loads(neighbour.inside("ip", "-j", "neigh", "show", SERVICE))
    return str(found[0]["lladdr"])
