"""The rack's networks: a namespace with a bridge, a tap for each machine, and a wire for the controllers."""

from __future__ import annotations

from provisioner.lab.machine import tap_name
from provisioner.lab.rack import Rack
from provisioner.system.run import Runner

BRIDGE = "rack0"
CONTROLLERS = "bmc0"


def ensure_network(rack: Rack, runner: Runner) -> None:
    """Make what is missing; what is there stays as it is."""
    if rack.namespace not in namespaces(runner):
        runner.run(["ip", "netns", "add", rack.namespace])
    present = links(rack, runner)

    def inside(*words: str) -> None:
        runner.run(["ip", "-n", rack.namespace, *words])

    inside("link", "set", "lo", "up")
    if BRIDGE not in present:
        # No spanning tree and no forward delay: a port that learns first would eat the first DHCP requests.
        inside("link", "add", BRIDGE, "type", "bridge", "forward_delay", "0", "stp_state", "0")
    if CONTROLLERS not in present:
        # A bridge without ports, as not every kernel has dummy links: who is not there is silent, as on a real wire.
        inside("link", "add", CONTROLLERS, "type", "bridge")
    for device, address in ((BRIDGE, rack.address), (CONTROLLERS, rack.bmc_address)):
        inside("addr", "replace", address, "dev", device)
        inside("link", "set", device, "up")
    for machine in rack.nodes:
        inside("addr", "replace", f"{machine.bmc}/32", "dev", CONTROLLERS)
        for tap in map(tap_name, machine.macs):
            if tap not in present:
                inside("tuntap", "add", tap, "mode", "tap")
            inside("link", "set", tap, "master", BRIDGE, "up")


def remove_network(rack: Rack, runner: Runner) -> None:
    if rack.namespace in namespaces(runner):
        runner.run(["ip", "netns", "del", rack.namespace])


def namespaces(runner: Runner) -> set[str]:
    return {line.split()[0] for line in runner.run(["ip", "netns", "list"]).stdout.splitlines() if line.strip()}


def links(rack: Rack, runner: Runner) -> set[str]:
    shown = runner.run(["ip", "-n", rack.namespace, "-o", "link", "show"]).stdout.splitlines()
    return {line.split(":")[1].strip().partition("@")[0] for line in shown}
