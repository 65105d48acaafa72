"""An instance's network as files of systemd-networkd (systemd.netdev(5), systemd.network(5)). Pure.

They are on the disk before the first boot, so the instance does not depend on DHCP.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from provisioner.model.deployment import Address, Interface, InterfaceKind, Placement

NETWORKS = "/etc/systemd/network"
MONITOR_MS = 100
"""How often a bond looks whether its ports still have a link."""
LACP = "802.3ad"


def build_networks(placement: Placement) -> dict[str, str]:
    """Text by path: for each interface what it is, unless it is a port, and what lies on it."""
    files = {}
    for interface in placement.interfaces:
        base = f"{NETWORKS}/10-{interface.name}"
        if interface.kind is not InterfaceKind.PORT:
            files[f"{base}.netdev"] = "\n".join(_netdev(interface)) + "\n"
        files[f"{base}.network"] = "\n".join(_network(interface, placement)) + "\n"
    return files


def _netdev(interface: Interface) -> Iterator[str]:
    yield from ("[NetDev]", f"Name={interface.name}", f"Kind={interface.kind}", f"MTUBytes={interface.mtu}")
    yield f"MACAddress={interface.mac}"
    if interface.kind is InterfaceKind.BOND:
        yield from ("", "[Bond]", f"Mode={interface.mode}", f"MIIMonitorSec={MONITOR_MS}ms")
        if interface.mode == LACP:
            yield from ("TransmitHashPolicy=layer3+4", "LACPTransmitRate=fast")
    elif interface.kind is InterfaceKind.BRIDGE:
        yield from ("", "[Bridge]", "STP=no", "ForwardDelaySec=0")
    else:
        yield from ("", "[VLAN]", f"Id={interface.vlan}")


def _network(interface: Interface, placement: Placement) -> Iterator[str]:
    addresses = [address for address in placement.addresses if address.interface == interface.name]
    port = interface.kind is InterfaceKind.PORT
    # Bonds, bridges and VLANs have the same address as their port, but none of them as their permanent one.
    yield from ("[Match]", f"PermanentMACAddress={interface.mac}" if port else f"Name={interface.name}", "")
    needed = "yes" if addresses else "no"
    yield from ("[Link]", f"MTUBytes={interface.mtu}", f"RequiredForOnline={needed}", "", "[Network]")
    for other in placement.interfaces:
        if interface.name in other.over:
            key = {InterfaceKind.BOND: "Bond", InterfaceKind.BRIDGE: "Bridge"}.get(other.kind, "VLAN")
            yield f"{key}={other.name}"
    six = any(ipaddress.ip_interface(address.address).version == 6 for address in addresses)
    yield from ("DHCP=no", "IPv6AcceptRA=no", f"LinkLocalAddressing={'ipv6' if six else 'no'}")
    yield from _addresses(addresses)


def _addresses(addresses: Sequence[Address]) -> Iterator[str]:
    for address in addresses:
        yield f"Address={address.address}"
        if address.gateway:
            yield f"Gateway={address.gateway}"
    yield from dict.fromkeys(f"DNS={server}" for address in addresses for server in address.dns)
    yield from dict.fromkeys(f"NTP={server}" for address in addresses for server in address.ntp)
    for address in addresses:
        for route in address.routes:
            yield from ("", "[Route]", f"Destination={route.to}", f"Gateway={route.via}")
