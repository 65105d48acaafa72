"""An image boots after its switch of files was cut off: early boot takes it back before anything reads one of them.

The files under change are of services that start early, some of them without waiting for others. What is new in each
would be seen if the service had read it; what cannot be taken back lets no service start.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rack import PROGRAM, ROOT

from provisioner.images.catalogue import INDEX
from provisioner.images.whole import DiskPlan, make_disk
from provisioner.lab.machine import KVM, MACHINE, QEMU, TCG, kvm_works
from provisioner.model.image import ImageIndex
from provisioner.system.run import HostRunner
from provisioner_agent.instance import journal as journals
from provisioner_agent.instance import places
from provisioner_agent.instance.document import Document
from provisioner_agent.instance.host import FileState, LinuxHost
from provisioner_agent.instance.journal import Change, Journal

pytestmark = pytest.mark.integration

BOOT_SECONDS = 420.0
LATE = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/touch /run/{0}\n"
DEVICE = "[NetDev]\nName={0}\nKind=dummy\n"
FILES = {
    "/etc/ssh/sshd_config.d/95-cut.conf": ("# as it was\n", "NoSuchOption yes\n"),
    "/etc/sysctl.d/99-cut.conf": ("net.ipv4.ip_default_ttl = 33\n", "net.ipv4.ip_default_ttl = 44\n"),
    "/etc/systemd/network/80-cut.netdev": (DEVICE.format("before"), DEVICE.format("after")),
    "/etc/systemd/system/cut.service": (LATE.format("cut-before"), LATE.format("cut-after")),
    "/etc/cut/last.conf": ("as it was\n", "never written\n"),
}
"""What was there and what is new, by path. When the power failed, all but the last were new."""
LAST = "/etc/cut/last.conf"
WANTS = "/etc/systemd/system/multi-user.target.wants"
TELL = "/etc/systemd/system/cut-tell.service"
LINKS = {f"{WANTS}/cut.service": "/etc/systemd/system/cut.service", f"{WANTS}/cut-tell.service": TELL}
UNIT = "[Service]\nType=exec\nExecStart=/usr/bin/python3 /cut/tell.py\n"
PROGRAM_INSIDE = '''\
"""Waits until the boot is over, tells on the second serial port what came of it, and powers off."""

import json
import pathlib
import subprocess


def run(*argv):
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout.strip()


def read(path):
    return pathlib.Path(path).read_text() if pathlib.Path(path).exists() else None


run("timeout", "240", "systemctl", "is-system-running", "--wait")
settle = "provisioner-agent-settle.service"
found = {
    "failed": run("systemctl", "list-units", "--failed", "--plain", "--no-legend"),
    "settle": run("systemctl", "show", "-P", "Result", settle),
    "started": run("systemctl", "show", "-P", "ExecMainExitTimestampMonotonic", settle),
    "ssh": run("systemctl", "is-active", "ssh.service"),
    "ttl": read("/proc/sys/net/ipv4/ip_default_ttl").strip(),
    "devices": sorted(path.name for path in pathlib.Path("/sys/class/net").iterdir()),
    "run": sorted(path.name for path in pathlib.Path("/run").glob("cut-*")),
    "files": {path: read(path) for path in json.loads(read("/cut/paths.json"))},
    "journal": pathlib.Path("/var/lib/provisioner-agent/journal").exists(),
    "cycles": [line for line in run("journalctl", "-b", "-o", "cat").splitlines() if "ordering cycle" in line],
}
with open("/dev/ttyS1", "w") as port:
    port.write(json.dumps(found) + "\\n")
run("systemctl", "poweroff", "--force", "--force")
'''


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


def cut_off(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The files of an instance when the power failed in the middle of its switch."""
    host = LinuxHost(folder)
    changes = tuple(
        Change(path, FileState(old.encode()), FileState(new.encode())) for path, (old, new) in FILES.items()
    )
    journals.open_journal(host, Journal(Document(2, {"node": {}}), changes, tuple(FILES), {}))
    files = {path: new if path != LAST else old for path, (old, new) in FILES.items()}
    files |= {
        "/etc/hostname": "cut\n",
        "/etc/fstab": "LABEL=root / ext4 errors=remount-ro 0 1\n",
        "/cut/paths.json": json.dumps(list(FILES)),
        "/cut/tell.py": PROGRAM_INSIDE,
        "/etc/systemd/network/50-port.network": "[Match]\nName=en*\n[Network]\nDHCP=ipv4\n",
        TELL: UNIT,
    }
    journal = {
        f"/{path.relative_to(folder)}": (path.read_bytes(), 0o600)
        for path in (folder / places.JOURNAL.lstrip("/")).rglob("*")
        if path.is_file()
    }
    return journal | {path: (text.encode(), 0o644) for path, text in files.items()}


@contextmanager
def booted(image: Path, files: Mapping[str, tuple[bytes, int]], work: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A machine that starts from a disk of this image with these files in it."""
    runner, disk = HostRunner(), work / "disk.raw"
    (work / "parts").mkdir()
    index = ImageIndex.model_validate_json((image / INDEX).read_bytes())
    plan = DiskPlan("cut", 512, files, LINKS)
    make_disk(image / "root.zst", index, disk, plan, work=work / "parts", runner=runner)
    for name in ("console", "told"):
        (work / name).touch()
    words = [
        QEMU, "-machine", MACHINE, *(KVM if kvm_works(runner) else TCG), "-smp", "2", "-m", "1024", "-display", "none",
        "-nodefaults", "-no-reboot", "-device", "virtio-rng-pci",
        "-serial", f"file:{work / 'console'}", "-serial", f"file:{work / 'told'}",
        "-drive", f"if=virtio,format=raw,file={disk},cache=unsafe",
        "-nic", "user,restrict=on,ipv6=off,model=virtio-net-pci",
    ]  # fmt: skip
    machine = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        yield machine
    finally:
        machine.kill()
        machine.wait()


def test_no_service_reads_a_file_before_it_is_taken_back(image: Path, tmp_path: Path) -> None:
    with booted(image, cut_off(tmp_path / "root"), tmp_path) as machine:
        machine.wait(timeout=BOOT_SECONDS)
    console = (tmp_path / "console").read_text(errors="replace")
    lines = [line for line in (tmp_path / "told").read_text(errors="replace").splitlines() if line.startswith("{")]
    assert lines, console[-3000:]
    told: dict[str, Any] = json.loads(lines[-1])
    assert "the switch to generation 2 was cut off; all its 5 files were taken back" in console
    assert told["files"] == {path: old for path, (old, _) in FILES.items()}
    assert (told["settle"], told["failed"], told["cycles"], told["journal"]) == ("success", "", [], False)
    assert int(told["started"]) > 0, "it has run"
    assert (told["ssh"], told["ttl"], told["run"]) == ("active", "33", ["cut-before"])
    assert "before" in told["devices"] and "after" not in told["devices"]


def test_no_service_starts_on_what_cannot_be_taken_back(image: Path, tmp_path: Path) -> None:
    files = cut_off(tmp_path / "root")
    del files[LAST]
    files[f"{LAST}/in-the-way"] = (b"", 0o644)
    with booted(image, files, tmp_path) as machine:
        end = time.monotonic() + BOOT_SECONDS
        console = ""
        while "emergency mode" not in console:
            assert time.monotonic() < end and machine.poll() is None, console[-3000:]
            time.sleep(1)
            console = (tmp_path / "console").read_text(errors="replace")
    assert "no service is to start" in console and "Directory not empty" in console
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console)
    assert "[FAILED] Failed to start provision" in plain, plain[-3000:]
    begun = re.findall(r"\[  OK  \] (?:Started|Finished|Reached target) (\S+)", plain)
    assert "local-fs.target" in begun and "emergency.target" in begun
    early = ("ssh", "sysinit.target", "basic.target", "network-pre.target", "systemd-networkd", "systemd-sysctl", "cut")
    assert [unit for unit in begun if unit.startswith(early)] == []
