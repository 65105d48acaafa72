"""Real builds: an image that boots as a disk and as a squashfs; builds that fail, are killed, or run out of disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rack import PROGRAM, ROOT

from provisioner.lab.machine import KVM, MACHINE, QEMU, TCG, kvm_works
from provisioner.system.run import HostRunner

PARTS = ("elements", "templates", "roles", "provisioner_agent", "images.lock")


class Site:
    """A copy of the source tree that a test may change; layers and packages come from ``state``."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder, self.state, self.source = folder, state, folder / "source"
        for part in PARTS:
            copy: Callable[..., Any] = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            copy(ROOT / part, self.source / part)
        self.config = folder / "provisioner.conf"
        run = folder / "run"
        self.config.write_text(f"[DEFAULT]\nstate_dir = {state}\nrun_dir = {run}\nsource_dir = {self.source}\n")

    def role(self, name: str, **image: Any) -> None:
        """A role like ``base`` with another image."""
        role = yaml.safe_load((ROOT / "roles/base.yaml").read_text()) | {"role": name}
        role["image"] |= image
        (self.source / "roles" / f"{name}.yaml").write_text(yaml.safe_dump(role))

    def element(self, name: str, path: str, text: str) -> None:
        file = self.source / "elements" / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        (self.source / "elements" / name / "element-deps").write_text("base\n")

    def words(self, *words: str) -> list[str]:
        return [PROGRAM, "--config", str(self.config), *words]

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command of the program; what it said, on both outputs."""
        done = subprocess.run(self.words(*words), capture_output=True, text=True, timeout=1800)
        assert done.returncode == code, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def newest(self, name: str) -> Path:
        return self.state / "images" / (self.state / "images" / f"{name}.newest").read_text().strip()

    def forget(self, name: str) -> None:
        """Remove the images of a name, so that the test can run again."""
        for path in (self.state / "images").glob(f"{name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def leftovers(self) -> list[str]:
        """Mounts and processes that a build left behind."""
        found = [
            line for line in Path("/proc/self/mounts").read_text().splitlines() if str(self.state / "build") in line
        ]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                text = (process / "cmdline").read_text() + str((process / "cwd").readlink())
                if str(self.state / "build") in text + str((process / "root").readlink()):
                    found.append(text)
            except OSError:
                continue
        return found

    def half_made(self) -> list[Path]:
        """Folders of images that are not published."""
        return list((self.state / "images").glob(".*"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, ROOT / ".tox" / "rack")


def test_an_image_is_built_tested_and_boots_as_a_file(site: Site, tmp_path: Path) -> None:
    site.run("image", "build", "base")
    (built,) = json.loads(site.run("image", "build", "base", "-o", "json").partition("\n]")[0] + "\n]")
    assert (built["rebuilt"], built["reason"]) == (False, "nothing changed")
    assert json.loads((site.newest("base") / "manifest.json").read_text())["test"] == "passed"
    assert "boot test passed (bios; boot, sshd)" in site.run("image", "test", "base", "--firmware", "bios")
    for name in ("base.raw", "base.qcow2"):
        site.run("image", "export", "base", str(tmp_path / name))
    subprocess.run(["qemu-img", "compare", tmp_path / "base.raw", tmp_path / "base.qcow2"], check=True)
    assert "is there already" in site.run("image", "export", "base", str(tmp_path / "base.raw"), code=1)


def test_an_image_that_boots_but_is_not_healthy_is_not_published(site: Site) -> None:
    site.role("sick", checks=[{"name": "impossible", "command": ["false"], "timeout": 5}])
    role = site.source / "roles/sick.yaml"
    role.write_text(role.read_text().replace("wait: 300", "wait: 20"))
    said = site.run("image", "build", "sick", code=1)
    assert "the image sick boots, but is not healthy" in said and "the probe impossible" in said
    assert not (site.state / "images" / "sick.newest").exists() and site.leftovers() == []


def test_kernel_initramfs_and_squashfs_boot(site: Site, tmp_path: Path) -> None:
    site.role("live", squashfs=True)
    site.run("image", "build", "live", "--no-test")
    image, console = site.newest("live"), tmp_path / "console.log"
    console.touch()
    words = [
        QEMU, "-machine", MACHINE, *(KVM if kvm_works(HostRunner()) else TCG), "-smp", "2", "-m", "1024",
        "-display", "none", "-nodefaults", "-no-reboot", "-serial", f"file:{console}",
        "-kernel", image / "kernel", "-initrd", image / "initramfs",
        "-append", "console=ttyS0,115200 root=/dev/vda rootfstype=squashfs provisioner.overlay",
        "-drive", f"if=virtio,format=raw,readonly=on,file={image / 'root.squashfs'}",
    ]  # fmt: skip
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as machine:
        try:
            end = time.monotonic() + 300
            while b"login:" not in console.read_bytes():
                assert time.monotonic() < end and machine.poll() is None, console.read_text(errors="replace")[-3000:]
                time.sleep(0.5)
        finally:
            machine.kill()


def test_a_hook_that_fails_is_named_and_leaves_nothing(site: Site) -> None:
    site.role("broken", elements=["broken"])
    site.element("broken", "install.d/60-broken", "#!/bin/sh\necho about to fail\nexit 7\n")
    said = site.run("image", "build", "broken", code=1)
    assert "where: install.d/60-broken" in said and "about to fail" in said
    log = site.state / "build/logs/broken.log"
    assert str(log) in said and "about to fail" in log.read_text()
    assert site.leftovers() == site.half_made() == [] and not (site.state / "images" / "broken.newest").exists()
    site.element("broken", "install.d/60-broken", "#!/bin/sh\n")
    site.run("image", "build", "broken", "--no-test")
    site.forget("broken")


def test_a_package_that_does_not_exist_is_named(site: Site) -> None:
    site.role("missing", elements=["missing"])
    site.element("missing", "package-installs.yaml", "no-such-package:\n")
    said = site.run("image", "build", "missing", code=1)
    assert "Unable to locate package no-such-package" in said and "layer-missing.log" in said
    assert site.leftovers() == []


def test_elements_may_map_names_and_stand_for_each_other(site: Site) -> None:
    """Names of packages and services by family (``pkg-map``, ``svc-map``); ``element-provides`` leaves one out."""
    maps = {"family": {"debian": {"the_editor": "ed"}}, "default": {"the_editor": "no-such-editor"}}
    site.role("maps", elements=["maps"])
    site.element("maps", "package-installs.yaml", "the_editor:\n")
    site.element("maps", "pkg-map", json.dumps(maps))
    site.element("maps", "svc-map", "the-daemon:\n  default: wrong\n  debian: cron\n")
    site.element("maps", "install.d/70-maps", '#!/bin/sh\nset -e\ntest "$(svc-map the-daemon)" = cron\nwhich ed\n')
    site.element("stands-in", "element-provides", "left-out\n")
    site.element("left-out", "install.d/60-left-out", "#!/bin/sh\nexit 7\n")
    deps = site.source / "elements" / "maps" / "element-deps"
    deps.write_text("base\npkg-map\nsvc-map\nstands-in\nleft-out\n")
    site.run("image", "build", "maps", "--no-test")
    assert "ed" in json.loads((site.newest("maps") / "manifest.json").read_text())["packages"]
    deps.write_text(deps.read_text().replace("stands-in\n", ""))
    assert "where: install.d/60-left-out" in site.run("image", "build", "maps", "--no-test", code=1)
    site.forget("maps")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_ended_leaves_nothing_running_or_mounted(site: Site, number: signal.Signals) -> None:
    site.role("slow", elements=["slow"])
    site.element("slow", "install.d/60-slow", "#!/bin/sh\necho slowly now\nexec sleep 600\n")
    log = site.state / "build/logs/slow.log"
    log.unlink(missing_ok=True)
    # Whoever runs the tests in the background has made them, and all below them, deaf to SIGINT.
    words = ["env", "--default-signal=INT", *site.words("image", "build", "slow")]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as build:
        try:
            end = time.monotonic() + 300
            while not (log.exists() and "slowly now" in log.read_text()):
                assert time.monotonic() < end and build.poll() is None
                time.sleep(0.2)
            build.send_signal(number)
            assert build.wait(timeout=60) != 0
        finally:
            build.kill()
    end = time.monotonic() + 30
    while site.leftovers() and time.monotonic() < end:
        time.sleep(0.2)
    assert site.leftovers() == []
    assert not (site.state / "images" / "slow.newest").exists()
    site.element("slow", "install.d/60-slow", "#!/bin/sh\n")
    site.run("image", "build", "slow", "--no-test")
    assert site.half_made() == [] and list((site.state / "build/work").glob("*/*")) == []
    site.forget("slow")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150m", "small", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_is_said_and_the_next_build_works(site: Site, small_disk: Path) -> None:
    full = Site(site.folder / "full", small_disk)
    said = full.run("image", "build", "ramdisk", "--no-test", code=1)
    assert "No space left on device" in said and "df -h" in said
    assert full.leftovers() == []
    subprocess.run(["mount", "-o", "remount,size=2g", small_disk], check=True)
    full.run("image", "build", "ramdisk", "--no-test")


def test_our_elements_work_with_diskimage_builder_alone(site: Site, tmp_path: Path) -> None:
    site.run("image", "build", "base", "--no-test")
    layers = json.loads((site.newest("base") / "manifest.json").read_text())["layers"]
    env = {
        "PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "ELEMENTS_PATH": str(ROOT / "elements"),
        "PROVISIONER_AGENT_SOURCE": str(ROOT / "provisioner_agent"),
        "PROVISIONER_LAYER": str(site.state / "build" / "layers" / f"{layers[-1]}.tar.zst"),
    }
    words = ["disk-image-create", "-t", "tar", "-o", str(tmp_path / "out"), "provisioner-layer", "base"]
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with tarfile.open(tmp_path / "out.tar") as tar:
        names = {name.removeprefix("./") for name in tar.getnames()}
    assert {"usr/sbin/sshd", "usr/local/bin/provisioner-agent"} <= names
