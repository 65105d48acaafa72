"""The virtual rack with its real parts: ipmi_sim, QEMU, both firmwares, its own network namespace. Needs root."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = str(Path(sys.executable).with_name("provisioner"))
NAMESPACE = "provisioner-labtest"
TEXT = f"""\
namespace: {NAMESPACE}
address: 10.78.0.1/24
bmc_address: 10.78.1.1/24
nodes:
  - {{name: efi, bmc: 10.78.1.11, mac: "52:54:00:78:00:01", memory_mib: 512, disk_gib: 1, firmware: uefi}}
  - {{name: old, bmc: 10.78.1.12, mac: "52:54:00:78:00:02", memory_mib: 512, disk_gib: 1, firmware: bios}}
"""


class Lab:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "lab.yaml").write_text(TEXT)
        (folder / "provisioner.conf").write_text(f"[DEFAULT]\nstate_dir = {folder}\nrun_dir = {folder}\n")

    def __call__(self, *words: str) -> Any:
        lab = [PROGRAM, "--config", str(self.folder / "provisioner.conf"), "lab", words[0]]
        lab += [*words[1:], *(() if words[0] in ("saves", "forget") else ("--file", str(self.folder / "lab.yaml")))]
        lab += [] if words[0] == "console" else ["-o", "json"]
        done = subprocess.run(lab, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout if words[0] == "console" else json.loads(done.stdout)

    def refuse(self, *words: str) -> str:
        lab = [PROGRAM, "--config", str(self.folder / "provisioner.conf"), "lab", *words]
        done = subprocess.run(
            [*lab, "--file", str(self.folder / "lab.yaml")], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1, done.stdout
        return done.stderr

    def ipmi(self, address: str, *words: str, password: Path | None = None) -> subprocess.CompletedProcess[str]:
        secret = password or self.folder / "lab" / "bmc-password"
        inside = ["ip", "netns", "exec", NAMESPACE, "ipmitool", "-I", "lanplus", "-C", "3", "-R", "1"]
        login = ["-H", address, "-U", "admin", "-f", str(secret)]
        return subprocess.run([*inside, *login, *words], capture_output=True, text=True, timeout=60)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    found = Lab(tmp_path)
    try:
        yield found
    finally:
        found("down")


@pytest.mark.integration
def test_a_rack_is_powered_over_ipmi_and_gone_afterwards(lab: Lab) -> None:
    rows = lab("up")
    assert [(row["name"], row["controller"], row["power"]) for row in rows] == [
        ("efi", True, False),
        ("old", True, False),
    ]
    wrong = lab.folder / "wrong"
    wrong.write_text("wrong")
    assert lab.ipmi("10.78.1.11", "power", "status", password=wrong).returncode != 0
    for address in ("10.78.1.11", "10.78.1.12"):
        assert "off" in lab.ipmi(address, "power", "status").stdout
        assert lab.ipmi(address, "chassis", "bootdev", "pxe").returncode == 0
        assert lab.ipmi(address, "power", "on").returncode == 0
    assert [row["power"] for row in lab("status")] == [True, True]
    assert [row["power"] for row in lab("up")] == [True, True]  # it runs on
    end = time.monotonic() + 45
    waiting = {"efi", "old"}
    while waiting and time.monotonic() < end:
        waiting = {name for name in waiting if "PXE" not in lab("console", name)}
        time.sleep(1)
    assert not waiting, lab("console", min(waiting))
    assert lab.ipmi("10.78.1.11", "power", "off").returncode == 0
    assert [row["power"] for row in lab("status")] == [False, True]
    assert lab("down")["removed"]
    assert not (lab.folder / "lab").exists()
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert NAMESPACE not in names
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(lab.folder) in _read(path)]
    assert not left
    assert not lab("down")["removed"]


COUNTER = bytes.fromhex(
    "31c9 41 89c8 bb0400 c1c004 50 240f 0461 baf803 ee 58 4b 75f0 b00a ee bf2000 31f6 4e 75fd 4f 75f8 ebda"
)
"""A boot sector that counts, and says each number on the first serial line, a letter from a to p for four bits."""


def counted(lab: Lab) -> list[int]:
    lines = re.findall("^([a-p]{4})\r?$", lab("console", "old"), re.MULTILINE)
    return [int("".join(f"{ord(letter) - ord('a'):x}" for letter in line), 16) for line in lines]


def wait_for_more(lab: Lab, than: int) -> None:
    end = time.monotonic() + 60
    while len(counted(lab)) <= than and time.monotonic() < end:
        time.sleep(0.5)
    assert len(counted(lab)) > than, lab("console", "old")


@pytest.mark.integration
def test_a_rack_that_is_put_back_goes_on_where_it_was(lab: Lab) -> None:
    lab("up")
    disk = lab.folder / "lab" / "old" / "disk.raw"
    with disk.open("r+b") as file:
        file.write(COUNTER.ljust(510, b"\0") + b"\x55\xaa")
        file.seek(1 << 20)
        file.write(b"as it was kept")
    assert "there is no such save" in lab.refuse("restore", "kept")
    assert lab.ipmi("10.78.1.12", "power", "on").returncode == 0
    wait_for_more(lab, 5)
    early = counted(lab)[-1]
    (kept,) = lab("save", "kept")
    assert kept["running"] == ["old"]
    before = counted(lab)
    assert "there is a save of that name" in lab.refuse("save", "kept")
    wait_for_more(lab, len(before) + 5)
    assert lab.ipmi("10.78.1.12", "power", "off").returncode == 0
    with disk.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"it was changed")
    password = (lab.folder / "lab" / "bmc-password").read_text()
    lab("down")
    (row,) = [row for row in lab("saves") if row["name"] == "kept"]
    assert row == kept
    lab("restore", "kept")
    assert [row["power"] for row in lab("status")] == [False, True]
    assert (lab.folder / "lab" / "bmc-password").read_text() == password
    wait_for_more(lab, 5)
    after = counted(lab)
    assert early <= after[1] <= before[-1] + 1, "not from the beginning"
    assert after[1:] == list(range(after[1], after[-1] + 1))
    with disk.open("rb") as file:
        file.seek(1 << 20)
        assert file.read(14) == b"as it was kept"
    assert "PXE" not in lab("console", "old")
    (lab.folder / "lab.yaml").write_text(TEXT.replace("memory_mib: 512", "memory_mib: 256"))
    assert "a rack that was another one" in lab.refuse("restore", "kept")
    (lab.folder / "lab.yaml").write_text(TEXT)
    lab("forget", "kept")
    assert lab("saves") == [] and not list((lab.folder / "lab-saves").iterdir())


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
