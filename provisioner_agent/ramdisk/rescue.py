"""Lets an operator in: shells on the consoles, SSH for whoever has one of the keys. Nothing on the disks is touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provisioner_agent.ramdisk.host import Host
from provisioner_agent.ramdisk.problem import OrderFailed

CONSOLES = ("ttyS0", "tty0")
HOST_KEY = "/etc/dropbear/dropbear_ed25519_host_key"
ROOT = b"root:x:0:0:root:/root:/bin/sh\n"
"""dropbear lets in nobody whose shell is not there, and the ramdisk has no other."""
AUTHORIZED = "/root/.ssh/authorized_keys"


def do_rescue(host: Host, order: Mapping[str, Any]) -> dict[str, Any]:
    """:returns: ``consoles``, and the ``fingerprint`` of the host's key if SSH was opened.

    :raises OrderFailed: SSH cannot be opened.
    """
    found: dict[str, Any] = {"consoles": [name for name in CONSOLES if host.exists(f"/dev/{name}")]}
    for name in found["consoles"]:
        _start(host, f"while :; do setsid -c /bin/busybox sh -l </dev/{name} >/dev/{name} 2>&1; sleep 1; done")
    keys = [str(key) for key in order["keys"]]
    if not keys:
        return found
    for folder in ("/root/.ssh", "/etc/dropbear"):
        if not host.exists(folder):
            host.ensure_folder(folder)
    host.write_file("/etc/passwd", ROOT, 0o644)
    host.write_file(AUTHORIZED, "".join(f"{key}\n" for key in keys).encode(), 0o600)
    if not host.exists(HOST_KEY):
        _must(host, ["dropbearkey", "-t", "ed25519", "-f", HOST_KEY])
    said = _must(host, ["dropbearkey", "-y", "-f", HOST_KEY])
    _must(host, ["dropbear", "-s", "-j", "-k", "-r", HOST_KEY])  # keys only, no forwarding; it goes to the background
    lines = (line.partition("Fingerprint:")[2].strip() for line in said.splitlines())
    return found | {"fingerprint": next((line for line in lines if line), "")}


def _start(host: Host, script: str) -> None:
    """In the background, with no hold on what this program waits for."""
    host.run(["/bin/busybox", "sh", "-c", f"setsid -f /bin/busybox sh -c '{script}' </dev/null >/dev/null 2>&1"])


def _must(host: Host, argv: list[str]) -> str:
    done = host.run(argv)
    if done.code:
        raise OrderFailed(f"{argv[0]} does not do what it is to", done.said)
    return done.output
