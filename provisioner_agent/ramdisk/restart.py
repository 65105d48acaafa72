"""The order ``restart``: the instance's kernel is loaded beside the ramdisk's, which then gives way to it (kexec(8)).

The firmware is not started a second time, which takes minutes on many servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provisioner_agent.ramdisk.disks import mounted
from provisioner_agent.ramdisk.host import Host, run_checked
from provisioner_agent.ramdisk.loader import INITRD, KERNEL
from provisioner_agent.ramdisk.seed import resolve_below
from provisioner_agent.ramdisk.stack import close_stacks, open_stacks


def do_restart(host: Host, order: Mapping[str, Any]) -> dict[str, Any]:
    """Load the kernel; the agent jumps to it when the server has heard that it is there.

    :raises OrderFailed: this kernel or this machine does not allow it.
    """
    if order["stacked"]:
        open_stacks(host, order["raids"])
    with mounted(host, str(order["root"]), read_only=True) as folder:
        kernel, initrd = (resolve_below(host, folder, path.split("/"), make=False) for path in (KERNEL, INITRD))
        argv = ["kexec", "--kexec-syscall-auto", "--load", kernel, f"--initrd={initrd}"]
        argv.append(f"--command-line={order['cmdline']}")
        run_checked(host, argv, "the instance's kernel cannot be loaded")
    if order["stacked"]:
        close_stacks(host)
    return {}
