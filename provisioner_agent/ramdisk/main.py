"""The program of the deploy ramdisk: ``python3 -m provisioner_agent.ramdisk.main``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from provisioner_agent.protocol.auth import AuthError
from provisioner_agent.protocol.link import HttpLink
from provisioner_agent.protocol.messages import (
    RAMDISK_CA_ARGUMENT,
    RAMDISK_CLOCK_ARGUMENT,
    RAMDISK_MAC_ARGUMENT,
    RAMDISK_PROVE_ARGUMENT,
    RAMDISK_TOKEN_ARGUMENT,
    RAMDISK_TRIAL_ARGUMENT,
    RAMDISK_URL_ARGUMENT,
)
from provisioner_agent.protocol.servers import Servers, read_authority
from provisioner_agent.ramdisk.agent import Agent, Work, correct_clock
from provisioner_agent.ramdisk.burnin import do_test_cpu, do_test_memory
from provisioner_agent.ramdisk.disktest import do_test_disk
from provisioner_agent.ramdisk.download import HttpSource, Source
from provisioner_agent.ramdisk.erase import do_erase
from provisioner_agent.ramdisk.hardware import read_hardware
from provisioner_agent.ramdisk.host import Host, LinuxHost
from provisioner_agent.ramdisk.image import do_write_image
from provisioner_agent.ramdisk.inspect import do_inspect
from provisioner_agent.ramdisk.loader import do_boot_loader
from provisioner_agent.ramdisk.nettest import do_test_network
from provisioner_agent.ramdisk.progress import NoMeter
from provisioner_agent.ramdisk.rescue import do_rescue
from provisioner_agent.ramdisk.restart import do_restart
from provisioner_agent.ramdisk.seed import do_seed
from provisioner_agent.ramdisk.storage import do_storage
from provisioner_agent.ramdisk.whole import do_check_disk, do_clear_disk, do_seed_disk

CMDLINE = "/proc/cmdline"
CLOCK_SLACK = 600.0
"""Seconds that a node's clock may be off for certificates; the server says the time better with its first answer."""


def main() -> None:
    sys.exit(run(LinuxHost()))


def run(host: Host) -> int:
    """Serve until the node is to be off; in a boot test only say what hardware there is, and test its disks.

    :returns: the exit code; 1 when the kernel's arguments say no server.
    """
    arguments = parse_cmdline(host.read_text(CMDLINE))
    if place := arguments.get(RAMDISK_TRIAL_ARGUMENT):
        found = read_hardware(host) | {"disk_test": do_test_disk(host, NoMeter())}
        host.run(["tee", place], stdin=json.dumps(found) + "\n")
        return 0
    missing = [name for name in (RAMDISK_URL_ARGUMENT, RAMDISK_TOKEN_ARGUMENT) if not arguments.get(name)]
    if missing:
        host.say(f"the kernel's arguments lack {' and '.join(missing)}; boot this ramdisk by the server's boot script")
        return 1
    url = arguments[RAMDISK_URL_ARGUMENT]
    set_clock(host, arguments.get(RAMDISK_CLOCK_ARGUMENT, ""))
    try:
        servers = Servers(url, read_authority(arguments.get(RAMDISK_CA_ARGUMENT, "")))
        link = HttpLink(servers, arguments[RAMDISK_TOKEN_ARGUMENT])
    except (AuthError, ValueError) as error:
        host.say(f"the kernel's arguments are not those of a boot script: {error}")
        return 1
    host.say(f"the server is {url}; this node boots by {arguments.get(RAMDISK_MAC_ARGUMENT, 'an unknown port')}")
    mac = arguments.get(RAMDISK_MAC_ARGUMENT, "")

    def hardware() -> Mapping[str, Any]:
        return read_hardware(host) | {"boot_mac": mac}

    proves = bool(arguments.get(RAMDISK_PROVE_ARGUMENT))
    Agent(host, link, build_works(host, HttpSource(servers), hardware), hardware, proves).run()
    return 0


def set_clock(host: Host, served: str) -> None:
    """Before a certificate is looked at: by a clock that is years off none is valid.

    :param served: when the boot script was, in seconds since the epoch; since then the firmware has loaded the kernel.
    """
    if served.isdigit():
        correct_clock(host, float(served), CLOCK_SLACK)


def build_works(host: Host, source: Source, hardware: Callable[[], Mapping[str, Any]]) -> dict[str, Work]:
    """What is done for each step that the server may order. :param hardware: reads the report."""
    return {
        "hello": lambda order, meter: {"hardware": hardware()},
        "inspect": lambda order, meter: do_inspect(host, order),
        "test-cpu": lambda order, meter: do_test_cpu(host, order),
        "test-memory": lambda order, meter: do_test_memory(host, meter),
        "test-disk": lambda order, meter: do_test_disk(host, meter),
        "test-network": lambda order, meter: do_test_network(host, source, order, meter),
        "rescue": lambda order, meter: do_rescue(host, order),
        "erase": lambda order, meter: do_erase(host, order, meter, hardware),
        "storage": lambda order, meter: do_storage(host, order),
        "write-image": lambda order, meter: do_write_image(host, source, order, meter),
        "seed-instance": lambda order, meter: do_seed(host, order),
        "restart": lambda order, meter: do_restart(host, order),
        "boot-loader": lambda order, meter: do_boot_loader(host, order),
        "clear-disk": lambda order, meter: do_clear_disk(host, order),
        "seed-disk": lambda order, meter: do_seed_disk(host, order),
        "check-disk": lambda order, meter: do_check_disk(host, order),
    }


def parse_cmdline(text: str) -> dict[str, str]:
    """``name=value`` words of the kernel's command line; the last of a name counts."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


if __name__ == "__main__":
    main()
