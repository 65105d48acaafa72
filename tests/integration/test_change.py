"""The real agent under the real systemd: a change restarts what it is about, and what cuts the node off comes back.

An image boots in a virtual machine; the agent's server runs beside it (``change_inside.py``) on an address that one of
the changes takes away.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rack import PROGRAM, ROOT

from provisioner.images.catalogue import INDEX
from provisioner.images.whole import DiskPlan, make_disk
from provisioner.lab.machine import KVM, MACHINE, QEMU, TCG, kvm_works
from provisioner.model.image import ImageIndex
from provisioner.system.run import HostRunner
from provisioner_agent.instance import places
from provisioner_agent.protocol import messages

pytestmark = pytest.mark.integration

SECONDS = 1200.0
ADDRESS, PORT = "198.51.100.1", 8000
"""Of the server, on the instance's own loopback (RFC 5737)."""
CONFIRM = 15
INSIDE = "/change"
UNIT = "/etc/systemd/system/change.service"
LINKS = {"/etc/systemd/system/multi-user.target.wants/change.service": UNIT}
WEB = "grep -q bad /etc/web.conf && echo no such port && exit 3; systemd-notify --ready; exec sleep infinity"
CUT = f"grep -q yes /etc/cut.conf && act=del || act=replace; ip addr $act {ADDRESS}/32 dev lo"
UNITS = {
    "change": f"[Service]\nType=exec\nExecStart=/usr/bin/python3 {INSIDE}/change_inside.py\n",
    "web": f"[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c '{WEB}'\n",
    "other": "[Service]\nExecStart=/usr/bin/sleep infinity\n",
    "cut": f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c '{CUT}'\n",
}
TEMPLATES: dict[str, tuple[str, dict[str, Any]]] = {
    "/etc/web.conf": ("port={{port}} {{secrets.key}}\n", {"services": {"web.service": "restart"}}),
    "/etc/other.conf": ("as ever\n", {"services": {"other.service": "restart"}}),
    "/etc/ssh/sshd_config.d/95-change.conf": (
        "# {{banner}}\n",
        {"services": {"ssh.service": "reload"}, "confirm": True},
    ),
    "/etc/systemd/system/web.service.d/change.conf": (
        "[Service]\nEnvironment=COLOUR={{colour}}\n",
        {"services": {"web.service": "restart"}},
    ),
    "/etc/cut.conf": ("{{cut}}\n", {"services": {"cut.service": "restart"}, "confirm": True}),
    "/etc/systemd/system/provisioner-agent.service.d/change.conf": (
        "[Service]\nEnvironment=OWN={{own}}\nExecStart=\nExecStart={{start}}\n",
        {"services": {"provisioner-agent.service": "restart"}, "confirm": True},
    ),
}
METADATA = {
    "cloud": {"name": "lab"},
    "role": {"name": "base", "count": 1, "confirm": CONFIRM},
    "node": {"name": "node", "hostname": "change"},
    "members": {},
    "values": {
        "base": {"authorized_keys": []},
        "port": "80",
        "banner": "one",
        "colour": "red",
        "cut": "no",
        "own": "one",
        "start": "/usr/local/bin/provisioner-agent run",
    },
    "secrets": {"key": "hush-hush"},
    "health": {
        "node": [{"name": "web", "command": ["systemctl", "is-active", "web.service"], "expect": "active"}],
        "role": [],
        "wait": 60,
    },
}


def instance_files() -> dict[str, tuple[bytes, int]]:
    """What makes the image an instance, with the server and the units and templates of the changes."""
    agent = {"url": f"http://{ADDRESS}:{PORT}", "token": "agent-1.the-secret-of-agent-1", "node": "node"}
    files = {
        "/etc/hostname": "change\n",
        "/etc/fstab": "LABEL=root / ext4 errors=remount-ro 0 1\n",
        "/etc/systemd/network/50-port.network": "[Match]\nName=en*\n[Network]\nDHCP=ipv4\n",
        messages.AGENT_CONFIG: json.dumps(agent | {"hostname": "change"}),
        f"{INSIDE}/given.json": json.dumps({"address": ADDRESS, "port": PORT, "metadata": METADATA}),
        f"{INSIDE}/change_inside.py": (ROOT / "tests/integration/change_inside.py").read_text(),
        f"{INSIDE}/agent_server.py": (ROOT / "tests/unit/agent_server.py").read_text(),
    }
    files |= {f"/etc/systemd/system/{name}.service": text for name, text in UNITS.items()}
    for path, (template, control) in TEMPLATES.items():
        files |= {f"{places.TEMPLATES}{path}": template, f"{places.TEMPLATES}{path}.control": json.dumps(control)}
    return {path: (text.encode(), 0o644) for path, text in files.items()}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image ``base``, as the other tests build it."""
    folder = tmp_path_factory.mktemp("site")
    state = ROOT / ".tox" / "rack"
    config = folder / "provisioner.conf"
    config.write_text(f"[DEFAULT]\nstate_dir = {state}\nrun_dir = {folder / 'run'}\nsource_dir = {ROOT}\n")
    words = [PROGRAM, "--config", str(config), "image", "build", "base", "--no-test"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return state / "images" / (state / "images" / "base.newest").read_text().strip()


@pytest.fixture(scope="module")
def told(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the instance told of all changes."""
    runner, work = HostRunner(), tmp_path_factory.mktemp("machine")
    disk = work / "disk.raw"
    (work / "parts").mkdir()
    index = ImageIndex.model_validate_json((image / INDEX).read_bytes())
    plan = DiskPlan("change", 512, instance_files(), LINKS)
    make_disk(image / "root.zst", index, disk, plan, work=work / "parts", runner=runner)
    words = [
        QEMU, "-machine", MACHINE, *(KVM if kvm_works(runner) else TCG), "-smp", "2", "-m", "1024", "-display", "none",
        "-nodefaults", "-no-reboot", "-device", "virtio-rng-pci",
        "-serial", f"file:{work / 'console'}", "-serial", f"file:{work / 'told'}",
        "-drive", f"if=virtio,format=raw,file={disk},cache=unsafe",
        "-nic", "user,restrict=on,ipv6=off,model=virtio-net-pci",
    ]  # fmt: skip
    subprocess.run(words, stdin=subprocess.DEVNULL, check=True, timeout=SECONDS)
    disk.unlink()
    lines = [line for line in (work / "told").read_text(errors="replace").splitlines() if line.startswith("{")]
    assert lines, (work / "console").read_text(errors="replace")[-2000:]
    found = json.loads(lines[-1])
    assert "error" not in found, found["error"] + found["log"]
    yield found


def scripts(step: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(one["phase"], one["script"], one["code"]) for one in step["report"]["phases"]]


def test_only_what_changed_is_restarted(told: dict[str, Any]) -> None:
    before, after = told["first"]["pids"], told["port"]["pids"]
    assert {unit for unit in before if before[unit] != after[unit]} == {"web.service"}
    assert scripts(told["port"]) == [
        ("services", "reload-or-restart ssh.service", 0),
        ("services", "restart web.service", 0),
    ]
    assert told["port"]["report"]["services"]["other.service"] == "active"


def test_a_service_that_does_not_start_takes_the_change_back(told: dict[str, Any]) -> None:
    report = told["bad"]["report"]
    assert (report["generation"], report["applied"], report["healthy"]) == (3, 2, True)
    assert report["error"]["summary"] == "systemctl restart web.service ended with code 1"
    assert "no such port" in report["error"]["cause"]
    assert report["services"]["web.service"] == "active"


def test_a_drop_in_is_read(told: dict[str, Any]) -> None:
    assert told["drop-in"]["env"] == "COLOUR=blue"
    assert scripts(told["drop-in"]) == [("services", "daemon-reload", 0), ("services", "restart web.service", 0)]


def test_what_cuts_the_server_off_is_taken_back(told: dict[str, Any]) -> None:
    report = told["cut"]["report"]
    assert (report["generation"], report["applied"], report["healthy"]) == (5, 4, True)
    assert "not heard over a new connection" in report["error"]["summary"]
    assert report["seconds"]["confirm"] >= CONFIRM
    assert told["cut"]["pids"] == told["drop-in"]["pids"], "nothing else was touched"


def test_the_agent_restarts_itself_once(told: dict[str, Any]) -> None:
    before, after = told["cut"]["pids"], told["own"]["pids"]
    assert {unit for unit in before if before[unit] != after[unit]} == {"provisioner-agent.service"}
    assert told["own"]["stops"] == 2, "in the first generation, and in this one"


def test_an_agent_that_is_killed_before_the_word_comes_back_to_the_previous_files(told: dict[str, Any]) -> None:
    report = told["killed"]["report"]
    assert (report["generation"], report["applied"], report["healthy"]) == (7, 6, True)
    assert told["killed"]["cut"] == "no\n"


def test_an_agent_that_cannot_start_any_more_comes_back_by_itself(told: dict[str, Any]) -> None:
    report = told["no-start"]["report"]
    assert (report["generation"], report["applied"], report["healthy"]) == (8, 6, True)
    assert "provisioner-agent-watch.service took it back" in report["error"]["summary"]
    assert "status=1/FAILURE" in report["error"]["cause"]
    before, after = told["killed"]["pids"], told["no-start"]["pids"]
    assert {unit for unit in before if before[unit] != after[unit]} == {"provisioner-agent.service"}
    assert "/bin/false" not in told["no-start"]["unit"] and "OWN=two" in told["no-start"]["unit"]


def test_the_watch_ends_with_the_change(told: dict[str, Any]) -> None:
    assert [told[step]["watch"] for step in ("own", "killed", "no-start")] == ["inactive success"] * 3
    assert told["watch log"].count("the change is over") >= 3, "it was told each time that nothing was left to do"
    assert told["watch log"].count("is taken back, and the agent started") == 1


def test_no_secret_is_told(told: dict[str, Any]) -> None:
    assert "port=80 (secret)" in told["log"] and "hush-hush" not in json.dumps(told)
