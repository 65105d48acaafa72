"""Who a controller is, from the answers that all IPMI drivers get. Pure; IPMI specification 2.0, revision 1.1."""

from __future__ import annotations

from typing import Any

from provisioner.bmc.trouble import Failed


def parse_device_id(data: bytes) -> dict[str, Any]:
    """The answer to Get Device ID (table 20-2), without its completion code.

    :raises Failed: it is cut short.
    """
    if len(data) < 11:
        raise Failed("the controller's device id is cut short", f"{len(data)} bytes instead of 11 or 15")
    return {
        "device_id": data[0],
        "revision": data[1] & 0x0F,
        "firmware": f"{data[2] & 0x7F}.{data[3]:02x}",
        "ipmi_version": f"{data[4] & 0x0F}.{data[4] >> 4}",
        "manufacturer_id": int.from_bytes(data[6:9], "little"),
        "product_id": int.from_bytes(data[9:11], "little"),
    }
