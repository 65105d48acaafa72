"""How long the service takes to say which files of which nodes a change will touch: ``plan`` of a thousand members.

``python benchmarks/trees.py`` alone, or a row of ``tox -e bench-config``. The records are real, their nodes are not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import yaml
from table import Row, say, show

from provisioner.bmc.fake import FakeBmcs
from provisioner.cli.desired import read_elements
from provisioner.conductor.conductor import Conductor
from provisioner.images.assemble import read_templates
from provisioner.images.catalogue import TEMPLATES, Catalogue, describe_files
from provisioner.manifest.cloud import parse_desired
from provisioner.model.deployment import DeploymentState
from provisioner.model.hardware import BmcAddress, NodeSpec, Port, Power, SecretRef
from provisioner.model.image import Image
from provisioner.model.plan import Configure
from provisioner.model.role import Desired
from provisioner.model.states import NodeState
from provisioner.plan.text import render_plan
from provisioner.store.store import Store
from provisioner.system.settings import Settings
from provisioner.trust.keys import MetadataKey, SiteKeys

SOURCE = Path(__file__).resolve().parents[1]
TURNS = 5
BALANCER = """\
defaults
  timeout connect {{galera.suspect_timeout}}
backend galera
{{#members.galera}}
  server {{hostname}} {{address}}:3306 check maxconn {{galera.max_connections}}
{{/members.galera}}
"""
CONTROL = json.dumps({"services": {"haproxy.service": "reload"}})


def build_desired(count: int, connections: int) -> Desired:
    """The galera role of this site, on so many nodes."""
    cloud = {
        "cloud": "bench",
        "networks": {"rack": {"cidr": "10.64.0.0/16", "pool": "10.64.1.0-10.64.200.0"}},
        "roles": {"galera": {"count": count, "values": {"galera": {"max_connections": connections}}}},
    }
    role = SOURCE / "roles" / "galera.yaml"
    files = {"cloud.yaml": yaml.safe_dump(cloud), str(role): role.read_text()}
    return parse_desired("cloud.yaml", files, elements=read_elements(Settings(source_dir=SOURCE)))


def publish(catalogue: Catalogue, name: str, templates: dict[str, str]) -> None:
    with catalogue.workplace() as out:
        (out / TEMPLATES).write_text(json.dumps(templates))
        ident, files, sizes = describe_files(name, out)
        catalogue.publish(Image(id=ident, name=name, files=files, sizes=sizes), out, {"subject": ident})


def record_members(conductor: Conductor, store: Store, count: int) -> None:
    """Take nodes on record and apply the cloud; they become active without anybody doing anything."""
    with store.transaction():
        for number in range(count):
            low = f"{number >> 8:02x}:{number & 255:02x}"
            bmc = BmcAddress(address=f"127.77.{number >> 8}.{number & 255}", username="u", password=SecretRef(env="P"))
            properties: dict[str, int | str | bool] = {"memory_mib": 2048, "disk_gib": 8}
            spec = NodeSpec(name=f"n{number}", bmc=bmc, ports=(Port(mac=f"52:54:00:00:{low}"),), properties=properties)
            store.nodes.add(str(uuid.uuid4()), spec, "p", power=Power.ON, facts={}, pool=[], now=1.0)
    conductor.apply(conductor.plan(build_desired(count, 100)))
    with store.transaction():
        for deployment in store.deployments.live():
            node = store.nodes.get(deployment.placement.node)
            store.deployments.set_state(deployment.id, (DeploymentState.RUNNING,), DeploymentState.ACTIVE, now=1.0)
            store.nodes.move(node, NodeState.ACTIVE, now=1.0, deployment=deployment.id)


def longest_wait(conductor: Conductor, stop: threading.Event) -> list[float]:
    """Seconds that others wait for a small answer meanwhile, one entry for each that they asked for."""
    waits: list[float] = []

    def ask() -> None:
        while not stop.is_set():
            begun = time.monotonic()
            conductor.node("n0")
            waits.append(time.monotonic() - begun)
            time.sleep(0.01)

    threading.Thread(target=ask, daemon=True).start()
    return waits


def plan_row(folder: Path, count: int) -> Row:
    """Metadata and trees of ``count`` members, as they are and as they would be with another value."""
    folder.mkdir(exist_ok=True)
    keys = SiteKeys.ensure(folder / "keys")
    store = Store(f"sqlite:///{folder / 'records.db'}", keys)
    catalogue = Catalogue(folder / "images", keys)
    templates = read_templates(SOURCE / "templates" / "galera")
    publish(catalogue, "galera", templates | {"etc/haproxy.cfg": BALANCER, "etc/haproxy.cfg.control": CONTROL})
    publish(catalogue, "ramdisk", {})
    signer = MetadataKey.ensure(folder / "keys")
    conductor = Conductor(store, FakeBmcs(), catalogue, Settings(state_dir=folder), "", signer)
    record_members(conductor, store, count)
    say(f"{count} members are on record")
    stop = threading.Event()
    waits = longest_wait(conductor, stop)
    took = []
    for turn in range(TURNS):
        begun = time.monotonic()
        plan = conductor.plan(build_desired(count, 200 + turn))
        took.append(time.monotonic() - begun)
        touched = {file.path for action in plan.actions if isinstance(action, Configure) for file in action.files or ()}
        if len(plan.actions) != count or "/etc/haproxy.cfg" not in touched:
            raise SystemExit(f"the plan is wrong:\n{render_plan(plan)}")
    stop.set()
    say(render_plan(plan))
    store.close()
    others = f"others wait {max(waits):.2f} s at most"
    return Row(f"plan: metadata and trees of {count} nodes", statistics.median(took), 3, "s", others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-trees-") as name:
        row = plan_row(Path(name), given.nodes)
    show([row], None)
    sys.exit(0 if row.holds else 1)


if __name__ == "__main__":
    main()
