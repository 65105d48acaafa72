"""A handover between two real services on the loopback: what they say goes by TLS, and one is killed on the way.

Each has its own address there, and one that moves. The fleet is simulated, but one of its instances is run by a real
config agent, which has to find the new master by itself; another one is asleep meanwhile.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleet_site import Site, free_port
from rack import PROGRAM, ROOT

from provisioner.store.store import Store
from provisioner.trust.keys import MetadataKey, SiteKeys

NODES = 4
SERVICE = "127.0.0.3"
PACE = ("--boot-seconds", "1", "--image-seconds", "1", "--start-seconds", "1")


class Undercloud(Site):
    """The other side: its own address and folder, the same ports, and no records."""

    def __init__(self, folder: Path, seed: Site) -> None:
        super().__init__(folder, network=f"service = {SERVICE}")
        self.port, self.agents_port = seed.port, seed.agents_port
        self.config.write_text(
            f"[DEFAULT]\nstate_dir = {folder / 'state'}\nrun_dir = {folder / 'run'}\nsource_dir = {ROOT}\n"
            f"[operators]\nlisten = 127.0.0.2:{free_port()}\n"
            f"[network]\ninterface = lo\naddress = 127.0.0.2/8\nservice = {SERVICE}\n"
            f"http_port = {seed.port}\nhttps_port = {seed.agents_port}\n[handover]\nawaits = true\n"
        )

    def receive(self, agent: Path) -> subprocess.Popen[bytes]:
        words = (PROGRAM, "--config", str(self.config), "receive", "--agent", str(agent), "--no-start")
        with (self.folder / "receive.log").open("ab") as log:
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def instance_config(seed: Site, node: str) -> dict[str, str]:
    """What the config agent of a node's instance has on its disk."""
    state = seed.folder / "state"
    keys = SiteKeys.ensure(state / "keys")
    store = Store(f"sqlite:///{state / 'provisioner.db'}", keys)
    try:
        token = store.tokens.token(str(store.nodes.get(node).deployment), "instance")
    finally:
        store.close()
    assert token is not None
    return {
        "url": f"https://{SERVICE}:{seed.agents_port},https://127.0.0.1:{seed.agents_port}",
        "ca": (state / "keys" / "ca.crt").read_text(),
        "signer": MetadataKey.ensure(state / "keys").public_key_pem,
        "token": token,
        "node": node,
    }


@contextmanager
def running(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def duty(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.run("handover", "--status", "-o", "json"))
    return found


def applied(site: Site) -> dict[str, int]:
    return {node["spec"]["name"]: node["applied"] for node in site.nodes()}


@pytest.mark.integration
def test_two_services_hand_over_and_the_agents_follow(tmp_path: Path) -> None:
    seed = Site(tmp_path / "seed", network=f"service = {SERVICE}")
    there = Undercloud(tmp_path / "undercloud", seed)
    real = tmp_path / "real"
    fleet = ("--nodes", str(NODES), "--folder", str(seed.manifests), "--real", str(real), *PACE)
    with seed.started("lab", "fleet", *fleet), seed.started("serve") as first:
        seed.wait("fleet and service are up", lambda: (seed.manifests / "cloud.yaml").exists() and seed.answers())
        seed.run("node", "enroll", str(seed.manifests / "hardware.yaml"))
        seed.run("apply", str(seed.manifests / "cloud.yaml"), "--no-wait")
        seed.wait("the real agent has its files", lambda: (real / "etc/provisioner-agent/agent.json").exists())
        agent_words = [str(Path(PROGRAM).with_name("provisioner-agent")), "run", "--root", str(real)]
        with running(agent_words, tmp_path / "agent.log"):
            seed.wait("all are active", lambda: {node["state"] for node in seed.nodes()} == {"active"}, 240)
            names = sorted(applied(seed))
            agent = tmp_path / "agent.json"
            agent.write_text(json.dumps(instance_config(seed, names[0])))
            refused = seed.run("handover", names[0], codes=(1,), errors=True)
            assert "does not ask for the duty" in refused and "provisioner-receive" in refused
            no = there.run("serve", codes=(1,), errors=True)
            assert "gets its records by a handover" in no
            hand_over(seed, there, agent, names[0], first)
            follow(seed, there, names, real)


def hand_over(seed: Site, there: Undercloud, agent: Path, node: str, first: subprocess.Popen[bytes]) -> None:
    """The receiving side is killed while it copies, and begins again; the seed is watched by its command."""
    receiver = there.receive(agent)
    try:
        seed.wait("it is begun", lambda: duty(seed)["state"] != "master" or begin(seed, node))
        receiver.send_signal(signal.SIGKILL)
        receiver.wait(timeout=30)
        receiver = there.receive(agent)
        said = seed.run("handover", node, "--resume", "-o", "json", errors=True)
        assert receiver.wait(timeout=120) == 0, (there.folder / "receive.log").read_text()
    finally:
        if receiver.poll() is None:
            receiver.kill()
            receiver.wait()
    assert "the node is the master" in said
    found = duty(seed)
    assert (found["state"], found["epoch"]) == ("tombstone", 2) and found["detail"]["checks"]["nodes"] == NODES
    text = seed.run("apply", str(seed.manifests / "cloud.yaml"), codes=(1,), errors=True)
    assert "the master no more" in text and node in text
    assert len(seed.nodes()) == NODES, "what it had can still be looked at"
    assert first.poll() is None


def begin(seed: Site, node: str) -> bool:
    seed.run("handover", node, "--no-wait", codes=(0, 1))
    return False


def follow(seed: Site, there: Undercloud, names: list[str], real: Path) -> None:
    with there.started("serve"):
        there.wait("the new master answers", there.answers)
        before = applied(there)
        cloud = yaml.safe_load((seed.manifests / "cloud.yaml").read_text())
        role = next(iter(cloud["roles"]))
        cloud.setdefault("nodes", {})
        cloud["roles"][role]["values"] = {"setting": 7}
        shutil.copytree(seed.manifests, there.manifests, dirs_exist_ok=True)
        changed = there.manifests / "cloud.yaml"
        changed.write_text(yaml.safe_dump(cloud))
        there.run("apply", str(changed), "--no-wait")
        there.wait(
            "all agents have what the new master says",
            lambda: all(count > before[name] for name, count in applied(there).items()),
            240,
        )
        assert (real / "var/lib/provisioner-agent/master").read_text().startswith("2 ")
        own = there.run("node", "release", names[0], codes=(1,), errors=True)
        assert "--self" in own and "service itself runs on" in own
        own = there.run("node", "power", names[0], "off", codes=(1,), errors=True)
        assert "--self" in own
        text = (seed.folder / "serve.log").read_text()
        assert "Traceback" not in text, text[-3000:]
