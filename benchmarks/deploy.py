"""How fast the deploy ramdisk writes an image and reads it back, beside the pipeline of programs that a person would
write, in the same booted machine and on the same data; and what one deployment in the virtual rack takes, step by
step. ``tox -e bench-deploy`` (root, as the integration tests).

The ramdisk of the catalogue is booted in QEMU with one more archive behind its own, which brings curl, the core
utilities and ``deploy_inside.py``, which takes turns between both ways. What is written is an image of the catalogue.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from table import Row, say, show

from provisioner.images.catalogue import INDEX
from provisioner.images.cpio import write_cpio
from provisioner.lab.machine import KVM, MACHINE, QEMU, TCG, kvm_works
from provisioner.system.run import HostRunner

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "integration"))
from rack import started_rack  # noqa: E402  the rack of the integration tests

RACK_IMAGES = ROOT / ".tox" / "rack" / "images"
SHOWN_SECONDS = 0.5
PROGRAMS = ("bash", "curl", "dd", "sha256sum", "tee", "cat", "cut", "head", "tail")
MEMORY_MIB, CPUS, DISK_GIB = 2048, 2, 8
BOOT_SECONDS = 3600.0
INSIDE = Path(__file__).with_name("deploy_inside.py")
INIT = """#!/bin/busybox sh
export PATH=/bench/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
ln -s /proc/self/fd /dev/fd
mount -t tmpfs tmpfs /tmp
modprobe -a -q virtio_blk virtio_net virtio_pci crc32c-intel crc32c_generic
sleep 1
ip link set lo up
for path in /sys/class/net/e*; do ip link set "${path##*/}" up; ip addr add 10.0.2.15/24 dev "${path##*/}"; done
sleep 1
python3 /bench/deploy_inside.py ROUNDS http://10.0.2.2:PORT IMAGE DIGEST || echo "bench: it failed"
poweroff -f
"""


def deploy_in_a_rack() -> list[str]:
    """One node, switched off, to a member whose probe is green: seconds of each step and of all."""
    say("one node of a virtual rack is deployed")
    with tempfile.TemporaryDirectory() as work, started_rack(Path(work), 1) as rack:
        rack.run("node", "enroll", f"{work}/hardware.yaml")
        rack.run("apply", str(rack.cloud(count=1)), "--wait")
        steps = rack.json("node", "show", "node1")["deployment"]["steps"]
    lines = [f"{step['seconds']:8.2f} s    {step['name']}" for step in steps if step["seconds"] >= SHOWN_SECONDS]
    total = steps[-1]["ended"] - steps[0]["started"]
    return [f"{total:8.2f} s    power-on → service answers, one node, of which", *lines]


class Files(SimpleHTTPRequestHandler):
    """The files of an image, all or a range."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        size, header = path.stat().st_size, self.headers.get("Range")
        first, last = 0, size - 1
        if header:
            begin, _, end = header.removeprefix("bytes=").partition("-")
            first, last = int(begin), int(end or size - 1)
        self.send_response(206 if header else 200)
        self.send_header("Content-Length", str(last - first + 1))
        if header:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        with path.open("rb") as file:
            file.seek(first)
            left = last - first + 1
            while left:
                data = file.read(min(left, 1 << 20))
                self.wfile.write(data)
                left -= len(data)

    def log_message(self, format: str, *arguments: object) -> None:
        """The figures are said at the end."""


def build_archive(folder: Path, image: Path, rounds: int, port: int) -> Path:
    """The second initramfs: programs of this host with their libraries, and what is run instead of the agent."""
    stage = folder / "stage"
    (stage / "bench/bin").mkdir(parents=True)
    libraries = set()
    for name in PROGRAMS:
        found = shutil.which(name)
        assert found, f"{name} is not installed"
        shutil.copy2(Path(found).resolve(), stage / "bench/bin" / name)
        listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=False).stdout
        libraries |= {word for line in listed.splitlines() for word in line.split() if word.startswith("/")}
    # At the places where their loader looks, over the ramdisk's own, which are of the same Debian release.
    place = stage / "usr/lib/x86_64-linux-gnu"
    place.mkdir(parents=True)
    for library in sorted(libraries):
        shutil.copy2(Path(library).resolve(), place / Path(library).name)
    shutil.copy2(INSIDE, stage / "bench" / INSIDE.name)
    manifest = json.loads((image / "manifest.json").read_text())
    words = {"ROUNDS": rounds, "PORT": port, "IMAGE": image.name, "DIGEST": manifest["files"][INDEX]}
    text = INIT
    for word, value in words.items():
        text = text.replace(word, str(value))
    (stage / "init").write_text(text)
    (stage / "init").chmod(0o755)
    archive = folder / "more.cpio"
    with archive.open("wb") as file:
        write_cpio(stage, file)
    return archive


def boot(ramdisk: Path, archive: Path, folder: Path) -> dict[str, Any]:
    initramfs, disk = folder / "initramfs", folder / "disk.raw"
    subprocess.run(["zstd", "-q", "-3", archive, "-o", folder / "more.zst"], check=True)
    initramfs.write_bytes((ramdisk / "initramfs").read_bytes() + (folder / "more.zst").read_bytes())
    with disk.open("wb") as file:
        file.truncate(DISK_GIB << 30)
    accelerator = KVM if kvm_works(HostRunner()) else TCG
    words: Sequence[str] = [
        QEMU, "-machine", MACHINE, *accelerator, "-smp", str(CPUS), "-m", str(MEMORY_MIB), "-display", "none",
        "-nodefaults", "-no-reboot", "-kernel", str(ramdisk / "kernel"), "-initrd", str(initramfs),
        "-append", "console=ttyS0,115200 quiet",
        "-serial", f"file:{folder / 'console.log'}", "-serial", f"file:{folder / 'result.json'}",
        "-drive", f"if=none,id=disk0,format=raw,file={disk},cache=writeback,discard=unmap",
        "-device", "virtio-blk-pci,drive=disk0",
        "-nic", "user,ipv6=off,model=virtio-net-pci", "-device", "virtio-rng-pci",
    ]  # fmt: skip
    subprocess.run(words, check=True, timeout=BOOT_SECONDS, stdin=subprocess.DEVNULL)
    lines = [line for line in (folder / "result.json").read_text().splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"no result; its console said:\n{(folder / 'console.log').read_text()[-3000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def rows(found: dict[str, Any]) -> list[Row]:
    def compared(work: str, name: str, bar: float) -> Row:
        ours, theirs = median(found[name]), median(found[f"programs_{name}"])
        speeds = f"{found['mapped'] / ours:.1f} and {found['mapped'] / theirs:.1f} MiB/s"
        speeds += f" of {found['mapped']:.0f} MiB in {found['extents']} extents"
        return Row(work, ours / theirs, bar, "", speeds)

    return [
        compared("time to write an image ÷ curl | tee >(sha256sum) | zstd | dd", "write", 1 / 0.95),
        compared("time to read it back and compare ÷ dd | sha256sum", "read", 1.1),
        Row("memory of the agent while it writes, zstd and all", found["peak"], 64, "MiB", "proportional set size"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="a catalogue, STATE_DIR/images; then no rack is built")
    parser.add_argument("--image", default="galera", help="whose data is written; the newest of that name")
    parser.add_argument("--rounds", type=int, default=3, help="how often both ways take turns")
    parser.add_argument("--results", type=Path, help="also write the table there, as JSON")
    arguments = parser.parse_args()
    phases = [] if arguments.images else deploy_in_a_rack()
    images = arguments.images or RACK_IMAGES
    ramdisk, image = (
        max(images.glob(f"{name}-*"), key=lambda path: path.stat().st_mtime) for name in ("ramdisk", arguments.image)
    )
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "served").mkdir()
        (folder / "served" / "images").symlink_to(images.resolve())
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder / "served")))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        say(f"{ramdisk.name} writes {image.name}, {arguments.rounds} times beside programs")
        archive = build_archive(folder, image, arguments.rounds, server.server_address[1])
        found = boot(ramdisk, archive, folder)
        server.shutdown()
    show(rows(found), arguments.results)
    for line in phases:
        print(line)


if __name__ == "__main__":
    main()
