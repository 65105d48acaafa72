"""The node's own management controller, asked from inside: which address it has on the network.

Numbers are those of the IPMI specification 2.0, revision 1.1.
"""

from __future__ import annotations

import ipaddress

from provisioner_agent.ramdisk.host import Host

MODULES = ("ipmi_si", "ipmi_devintf")
APPLICATION, STORAGE, TRANSPORT = 0x06, 0x0A, 0x0C
ADD_RECORD = 0x44
CHANNEL_INFO, LAN_PARAMETERS = 0x42, 0x02
CHANNELS = range(1, 12)
LAN, ADDRESS = 0x04, 3
"""The medium of table 6-3, and the parameter of table 23-4."""


def _load(host: Host) -> None:
    for module in MODULES:
        host.run(["modprobe", "-q", module])


def write_record(host: Host, record: bytes) -> int | str:
    """Add a record to the event log (31.6).

    :param record: kind and 13 bytes. :returns: its number, or why there is none.
    """
    _load(host)
    said = host.ask_bmc(STORAGE, ADD_RECORD, bytes(2) + record)
    if said is None:
        return "the server has no controller that answers from inside"
    if said[0] or len(said) < 3:
        return f"its controller takes no record into its event log (completion code {said[0]:#04x})"
    return int.from_bytes(said[1:3], "little")


def read_bmc_address(host: Host) -> str:
    """The IPv4 address of the first network channel that has one; empty when there is no controller, or it has none."""
    _load(host)
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
