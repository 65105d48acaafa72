"""The chassis-control program that ipmi_sim calls: ``chassis.py FOLDER get WORD…|set WORD VALUE``.

Runs for every power or boot command, so it imports the standard library only and nothing of ours. The folder holds
``machine.json`` with a command line for each boot order, and QEMU's pid file. ``boot`` in it is the order for the next
start only: a real controller's boot flags are consumed by the boot they apply to as well (IPMI 2.0, 28.13).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def running(folder: Path) -> int | None:
    """QEMU's process id, if it runs and is this machine's: the pid file outlives it, and its number is used again."""
    try:
        pid = int((folder / "qemu.pid").read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return pid if f"{folder}/".encode() in words else None


def power_on(folder: Path) -> None:
    if running(folder):
        return
    commands = json.loads((folder / "machine.json").read_text())
    order = folder / "boot"
    network_first = order.exists() and order.read_text() == "pxe"
    order.unlink(missing_ok=True)
    subprocess.run(commands["network" if network_first else "disk"], check=True, stdin=subprocess.DEVNULL)


def power_off(folder: Path) -> None:
    pid = running(folder)
    if pid is None:
        return
    os.kill(pid, signal.SIGKILL)
    for _ in range(500):
        if running(folder) is None:
            return
        time.sleep(0.01)


def press_power_button(folder: Path) -> None:
    """Ask the operating system to shut down (QEMU Machine Protocol, system_powerdown)."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(5)
        monitor.connect(str(folder / "qmp.sock"))
        for command in ("qmp_capabilities", "system_powerdown"):
            monitor.recv(65536)
            monitor.sendall(json.dumps({"execute": command}).encode() + b"\n")
        monitor.recv(65536)  # who hangs up before the answer may not have been heard


def answer(folder: Path, word: str) -> str:
    if word == "power":
        return f"power:{int(running(folder) is not None)}"
    order = folder / "boot"
    return f"boot:{order.read_text() if order.exists() else 'default'}"


def obey(folder: Path, word: str, value: str) -> None:
    if word == "boot":
        (folder / "boot").write_text(value)
    elif word == "power" and value == "1":
        power_on(folder)
    elif word in ("power", "reset"):
        power_off(folder)
        if word == "reset":
            power_on(folder)
    elif word == "shutdown" and running(folder):
        press_power_button(folder)


def main(argv: list[str]) -> int:
    folder, verb, words = Path(argv[0]), argv[1], argv[2:]
    if verb == "get":  # one word or more
        print("\n".join(answer(folder, word) for word in words if word in ("power", "boot")))
        return 0
    # ipmi_sim does not wait for one command before it takes the next; two at once must not start two machines.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        obey(folder, words[0], "".join(words[1:2]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
