"""The node's own management controller, asked from inside: which address it has on the network.

Numbers are those of the IPMI specification 2.0, revision 1.1.
"""

from __future__ import annotations

import ipaddress

from provisioner_agent.ramdisk.host import Host

MODULES = ("ipmi_si", "ipmi_devintf")
APPLICATION, TRANSPORT = 0x06, 0x0C
CHANNEL_INFO, LAN_PARAMETERS = 0x42, 0x02
CHANNELS = range(1, 12)
LAN, ADDRESS = 0x04, 3
"""The medium of table 6-3, and the parameter of table 23-4."""


def read_bmc_address(host: Host) -> str:
    """The IPv4 address of the first network channel that has one; empty when there is no controller, or it has none."""
    for module in MODULES:
        host.run(["modprobe", "-q", module])
    for channel in CHANNELS:
        info = host.ask_bmc(APPLICATION, CHANNEL_INFO, bytes((channel,)))
        if info is None:
            return ""
        if len(info) < 3 or info[0] or info[2] & 0x7F != LAN:
            continue
        said = host.ask_bmc(TRANSPORT, LAN_PARAMETERS, bytes((channel, ADDRESS, 0, 0)))
        if said is not None and len(said) >= 6 and not said[0] and any(said[2:6]):
            return str(ipaddress.IPv4Address(said[2:6]))
    return ""
