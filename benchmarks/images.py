"""How fast images are built and booted, beside what stock diskimage-builder and a plain Debian take, in one run.

``tox -e bench-images``. Ratios count: both sides run on the same machine, from the same mirror, one after the other. It
needs root, the package mirror, 12 GB of free memory and 15 GB of disk space, and takes half an hour on two processors.
"""

from __future__ import annotations

import argparse
import http.server
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from table import Row, say, show

from provisioner.images.debian import PACKAGES, RELEASE
from provisioner.images.elements import MACHINERY, find_elements, shipped_elements
from provisioner.images.pool import bootstrap_options
from provisioner.images.sources import Source
from provisioner.images.workshop import Workshop, read_sources
from provisioner.lab.machine import KVM, MACHINE, QEMU, TCG, kvm_works
from provisioner.manifest.cloud import parse_roles
from provisioner.system.run import HostRunner
from provisioner_agent.protocol import messages

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PARTS = ("elements", "templates", "roles", "provisioner_agent", "images.lock")
MAC = "52:54:00:7e:57:01"
SHELL = b"(initramfs)"
LIMIT = 3600.0
BOOT_LIMIT = 300.0
POLL = 0.02


def timed(argv: list[str], log: Path, env: dict[str, str] | None = None, codes: tuple[int, ...] = (0,)) -> float:
    """Seconds that a program takes; what it says goes to ``log``. Ends this run on another exit code."""
    start = time.monotonic()
    with log.open("wb") as out:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, timeout=LIMIT, check=False
        )
    seconds = time.monotonic() - start
    if done.returncode not in codes:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise SystemExit(f"{argv[0]} ended with code {done.returncode}; {log}:\n{tail}")
    return seconds


class Ours:
    """A copy of the source tree, with a state of its own."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.source = work / "source"
        for part in PARTS:
            origin = ROOT / part
            if origin.is_dir():
                shutil.copytree(origin, self.source / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(origin, self.source / part)
        self.config = work / "provisioner.conf"
        lines = (f"state_dir = {work / 'state'}", f"run_dir = {work / 'run'}", f"source_dir = {self.source}")
        self.config.write_text("\n".join(("[DEFAULT]", *lines, "")))

    def build(self, label: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> float:
        words = [str(BIN / "provisioner"), "--config", str(self.config), "image", "build", *arguments]
        seconds = timed(words, self.work / f"{label}.log", codes=codes)
        say(f"{label}: {seconds:.1f} s")
        return seconds

    def change(self, name: str) -> None:
        """Add a comment to a file."""
        with (self.source / name).open("a") as file:
            file.write(f"# {time.time_ns()}\n")

    def newest(self, name: str) -> Path:
        images = self.work / "state" / "images"
        return images / (images / f"{name}.newest").read_text().strip()


def stock_build(work: Path, sources: tuple[Source, ...]) -> float:
    """Stock diskimage-builder, with its usual settings, builds an image with the controller's packages."""
    element = work / "elements" / "bench-controller"
    element.mkdir(parents=True)
    roles = parse_roles({str(path): path.read_text() for path in (ROOT / "roles").glob("*.yaml")})
    # In one transaction with chrony, which nova brings, there is no room for another time daemon.
    packages: dict[str, object] = dict.fromkeys(set(PACKAGES) - {"systemd-timesyncd"})
    for folder in find_elements(roles["controller"].image.elements, (ROOT / "elements",)).values():
        listed = folder / "package-installs.yaml"
        packages |= yaml.safe_load(listed.read_text()) if listed.is_file() else {}
    (element / "package-installs.yaml").write_text(yaml.safe_dump(packages))
    (element / "element-deps").write_text("package-installs\n")
    main = next(source for source in sources if source.suite == RELEASE)
    lines = [f"source{number}:{source.line()}" for number, source in enumerate(sources)]
    env = {
        "PATH": f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(work),
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(work),
        "ELEMENTS_PATH": str(work / "elements"),
        "DIB_RELEASE": RELEASE,
        "DIB_DISTRIBUTION_MIRROR": main.uri,
        "DIB_APT_SOURCES_CONF": "\n".join(lines),
        "DIB_IMAGE_CACHE": str(work / "cache"),
        **{name: os.environ[name] for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ},
    }
    words = ["disk-image-create", "-t", "tar", "-o", str(work / "controller"), "debian-minimal", "bench-controller"]
    seconds = timed([str(BIN / words[0]), *words[1:]], work / "stock.log", env)
    say(f"stock: {seconds:.1f} s")
    (work / "controller.tar").unlink()
    return seconds


class Web:
    """Files over HTTP on the loopback interface; ``hello``: when a ramdisk said hello."""

    def __init__(self, folder: Path) -> None:
        self.hello: float | None = None
        web = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

            def do_POST(self) -> None:
                if self.path == messages.HELLO:
                    web.hello = web.hello or time.monotonic()
                self.send_error(503)

            def log_message(self, format: str, *arguments: object) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://10.0.2.2:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def boot(script: str, folder: Path, there: Callable[[], bool], kvm: bool) -> float:
    """Seconds from power-on until ``there``, of a machine that boots over its network by an iPXE script."""
    (folder / "boot.ipxe").write_text(f"#!ipxe\n{script}\nboot\n")
    console = folder / "console.log"
    console.write_bytes(b"")
    words = [
        QEMU, "-machine", MACHINE, *(KVM if kvm else TCG), "-smp", "2", "-m", "1024", "-display", "none", "-nodefaults",
        "-no-reboot", "-device", "virtio-rng-pci", "-serial", f"file:{console}",
        "-netdev", f"user,id=net0,ipv6=off,tftp={folder},bootfile=boot.ipxe",
        "-device", f"virtio-net-pci,netdev=net0,mac={MAC},bootindex=1",
    ]  # fmt: skip
    start = time.monotonic()
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as machine:
        try:
            while not there():
                if time.monotonic() - start > BOOT_LIMIT or machine.poll() is not None:
                    raise SystemExit(f"the machine did not get there; see {console}")
                time.sleep(POLL)
            return time.monotonic() - start
        finally:
            machine.kill()


def plain_initramfs(folder: Path, sources: tuple[Source, ...], pool: Path) -> None:
    """Kernel and initramfs as Debian makes them, with its own defaults."""
    tar = folder / "plain.tar"
    words = ["mmdebstrap", "--variant=minbase", "--include=initramfs-tools,linux-image-amd64,zstd"]
    words += [*bootstrap_options(pool), RELEASE, str(tar), "-"]
    text = "\n".join(source.line() for source in sources) + "\n"
    subprocess.run(words, input=text.encode(), stderr=subprocess.DEVNULL, check=True, timeout=LIMIT)
    subprocess.run(
        ["tar", "-C", folder, "-xf", tar, "--wildcards", "./boot/vmlinuz-*", "./boot/initrd.img-*"], check=True
    )
    tar.unlink()
    next((folder / "boot").glob("vmlinuz-*")).rename(folder / "plain.kernel")
    next((folder / "boot").glob("initrd.img-*")).rename(folder / "plain.initramfs")


def boot_rows(ramdisk: Path, work: Path, sources: tuple[Source, ...], pool: Path, rounds: int) -> list[Row]:
    folder = work / "boot"
    folder.mkdir()
    say("a plain Debian initramfs is made")
    plain_initramfs(folder, sources, pool)
    for name in ("kernel", "initramfs"):
        shutil.copy2(ramdisk / name, folder / f"ramdisk.{name}")
    web, kvm, console = Web(folder), kvm_works(HostRunner()), folder / "console.log"
    token = f"{'0' * 16}.{'0' * 43}"
    arguments = {
        "ramdisk": f"provisioner.url={web.url} provisioner.token={token} provisioner.mac={MAC} "
        "provisioner.address=10.0.2.15/24",
        "plain": "break=premount",
    }
    taken: dict[str, list[float]] = {"ramdisk": [], "plain": []}
    for _ in range(rounds):
        for name, seconds in taken.items():
            web.hello = None
            script = (
                f"kernel {web.url}/{name}.kernel initrd=initramfs console=ttyS0,115200 {arguments[name]}\n"
                f"initrd --name initramfs {web.url}/{name}.initramfs"
            )
            there = (lambda: web.hello is not None) if name == "ramdisk" else (lambda: SHELL in console.read_bytes())
            seconds.append(boot(script, folder, there, kvm))
            say(f"{name}: {seconds[-1]:.1f} s from power-on")
    web.server.shutdown()
    hello, shell = (statistics.median(seconds) for seconds in taken.values())
    size = sum((folder / f"ramdisk.{name}").stat().st_size for name in ("kernel", "initramfs")) / 1e6
    detail = f"medians of {rounds}: {hello:.1f} s ÷ {shell:.1f} s, {'KVM' if kvm else 'emulated'}"
    return [
        Row("ramdisk size, kernel and initramfs", size, 80, "MB", ""),
        Row("power-on → ramdisk hello ÷ power-on → shell of a plain Debian initramfs", hello / shell, 1.5, "", detail),
    ]


def build_rows(ours: Ours, stock: float, rounds: int) -> list[Row]:
    cold = ours.build("cold", "--no-test")
    hook, template, nothing = [], [], []
    for number in range(rounds):
        ours.change("elements/galera/install.d/70-galera")
        hook.append(ours.build(f"hook{number}", "--no-test"))
        ours.change("templates/galera/etc/mysql/mariadb.conf.d/90-galera.cnf")
        template.append(ours.build(f"template{number}", "--no-test"))
        nothing.append(ours.build(f"nothing{number}", "--no-test"))

    def ratio(work: str, seconds: list[float], bar: float) -> Row:
        median = statistics.median(seconds)
        detail = f"{'median of ' + str(len(seconds)) + ': ' if len(seconds) > 1 else ''}{median:.1f} s ÷ {stock:.1f} s"
        return Row(work, median / stock, bar, "", detail)

    return [
        ratio("cold build of all images ÷ stock build of the controller alone", [cold], 1.3),
        ratio("a hook of the galera element changed ÷ same", hook, 0.15),
        ratio("only a template changed ÷ same", template, 0.06),
        Row("nothing changed", statistics.median(nothing), 1.0, "s", f"median of {len(nothing)}"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each small measurement is repeated")
    parser.add_argument("--stock-seconds", type=float, help="what stock took in another run, instead of building it")
    parser.add_argument("--results", type=Path, help="also write the table there, as JSON")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()), help="a folder to work in is made there"
    )
    given = parser.parse_args()
    missing = {"debian-minimal", *MACHINERY} - shipped_elements()
    if missing:
        raise SystemExit(f"diskimage-builder lacks {', '.join(sorted(missing))}")
    with tempfile.TemporaryDirectory(dir=given.work, prefix="bench-images.") as folder:
        work = Path(folder)
        for name in ("ours", "stock"):
            (work / name).mkdir()
        ours = Ours(work / "ours")
        sources = read_sources(Workshop.apt)
        stock = given.stock_seconds or stock_build(work / "stock", sources)
        rows = build_rows(ours, stock, given.rounds)
        pool = work / "ours" / "state" / "build" / "pool"
        rows += boot_rows(ours.newest("ramdisk"), work, sources, pool, given.rounds)
        say("two cold builds of galera are compared")
        ours.build("check", "--check", "galera", codes=(0, 1))
        said = (work / "ours" / "check.log").read_text().strip().splitlines()
        different = 0 if said[-1].endswith("identical") else 1
        rows.append(Row("of two cold builds of galera those that differ", different, 0, "", said[-1]))
    show(rows, given.results)


if __name__ == "__main__":
    main()
