"""The configuration of one ipmi_sim: a management controller for one virtual server (OpenIPMI)."""

from __future__ import annotations

from pathlib import Path

from provisioner.lab.machine import SERIAL_PORT, SYSTEM_PORT
from provisioner.lab.rack import Machine

EMULATION = """mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 1000 0x0a
mc_enable 0x20
"""


def controller_config(machine: Machine, *, username: str, password: str, chassis: str) -> str:
    """The text of ``lan.conf``. It holds the password: write it for its owner only.

    :param chassis: command line of the chassis-control program.
    """
    auths = "".join(
        f"    allowed_auths_{level} none md2 md5 straight\n" for level in ("callback", "user", "operator", "admin")
    )
    return (
        f'name "{machine.name}"\n'
        "set_working_mc 0x20\n"
        "  startlan 1\n"
        f"    addr {machine.bmc} 623\n"
        f"    priv_limit admin\n{auths}"
        f"    guid {machine.uuid.hex}\n"
        "  endlan\n"
        f'  chassis_control "{chassis}"\n'
        f"  serial 15 {machine.bmc} {SYSTEM_PORT} codec VM\n"
        f'  sol "telnet:{machine.bmc}:{SERIAL_PORT}" 115200\n'
        '  user 1 false "" "" user 10 none md2 md5 straight\n'
        f'  user 2 true "{username}" "{password}" admin 10 none md2 md5 straight\n'
    )


def controller_command(folder: Path) -> list[str]:
    return [
        "ipmi_sim", "-c", str(folder / "lan.conf"), "-f", str(folder / "emulation"), "-s", str(folder / "bmc"), "-n",
    ]  # fmt: skip
