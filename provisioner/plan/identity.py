"""Whether a server that booted is the one behind a management controller. Pure."""

from __future__ import annotations

import uuid

NOBODY = ("0" * 32, "f" * 32)
"""What controllers say that were never told their number."""


def same_machine(guid: str | None, smbios: str) -> bool | None:
    """Compare a controller's GUID with the system's UUID; None when one of them says nothing.

    Controllers send the same number in three orders: as it is written, with its first three parts turned round as in
    SMBIOS, and wholly turned round (IPMI 2.0, 20.8; DSP0134, 7.2.1).

    :param guid: 32 hex digits in the order sent. :param smbios: as the kernel writes it, with dashes.
    """
    try:
        system = uuid.UUID(smbios)
        sent = bytes.fromhex(guid or "")
    except ValueError:
        return None
    if len(sent) != 16 or sent.hex() in NOBODY or system.hex in NOBODY:
        return None
    orders = (system.bytes, system.bytes_le)
    return sent in (*orders, *(order[::-1] for order in orders))
