"""What is stacked on partitions: software RAIDs (mdadm(8)) and volume groups (lvm(8))."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provisioner_agent.ramdisk.host import Host, run_checked

LVM_CONFIG = (
    "activation {udev_sync=0 udev_rules=0 verify_udev_operations=1} "
    "devices {obtain_device_list_from_udev=0 use_devicesfile=0} backup {backup=0 archive=0}"
)
"""There is no udev in the ramdisk, and nothing of the instance may be remembered there."""
SECONDS = 300.0
STACKED = ("md", "dm-")
"""Names of such devices in the kernel."""


def close_stacks(host: Host) -> None:
    """Let go of all volume groups and RAIDs, so that their disks can be written, or the power taken away."""
    if not any(name.startswith(STACKED) for name in host.names("/sys/block")):
        return
    host.run(lvm("vgchange", "--activate", "n"))
    host.run(["mdadm", "--stop", "--scan"])
    host.run(["rm", "-rf", "/dev/md"])  # without udev the names stay, and the next array of a name gets another one


def open_stacks(host: Host, raids: Mapping[str, str]) -> None:
    """Find again what :func:`close_stacks` let go of. :param raids: UUIDs by name."""
    for name, uuid in raids.items():
        host.run(["mdadm", "--assemble", "--run", f"/dev/md/{name}", f"--uuid={uuid}"])
    host.run(lvm("vgchange", "--activate", "y"))


def lvm(command: str, *arguments: str) -> list[str]:
    return ["lvm", command, "--config", LVM_CONFIG, *arguments]


def make_raids(host: Host, raids: Sequence[Mapping[str, Any]], paths: Mapping[str, str]) -> dict[str, str]:
    """:returns: devices by name. :raises OrderFailed:"""
    found = {}
    for raid in raids:
        device, members = f"/dev/md/{raid['name']}", [paths[member] for member in raid["members"]]
        host.run(["modprobe", "-q", "raid10" if raid["level"] == 10 else "raid456" if raid["level"] in (5, 6) else
                  f"raid{raid['level']}"])  # fmt: skip
        assembled = raid["keep"] and host.run(["mdadm", "--assemble", "--run", device, *members]).code == 0
        if not assembled:
            host.say(f"{device}: RAID {raid['level']} of {', '.join(members)}")
            argv = ["mdadm", "--create", device, "--run", "--force", f"--level={raid['level']}"]
            argv += [f"--raid-devices={len(members)}", f"--metadata={raid['metadata']}", f"--uuid={raid['uuid']}"]
            argv += ["--homehost=any", f"--name={raid['name']}", *members]
            run_checked(host, argv, f"the RAID {device} cannot be made", limit=SECONDS)
            run_checked(host, ["wipefs", "--all", "--force", device], f"{device} cannot be wiped")
        found[str(raid["name"])] = device
    return found


def make_groups(host: Host, groups: Sequence[Mapping[str, Any]], paths: Mapping[str, str]) -> None:
    """:raises OrderFailed:"""
    if groups:
        host.run(["modprobe", "-q", "dm_mod"])
    for group in groups:
        name, members = str(group["name"]), [paths[member] for member in group["members"]]
        if group["keep"] and host.run(lvm("vgchange", "--activate", "y", name)).code == 0:
            continue
        host.say(f"{name}: volume group of {', '.join(members)}")
        for member in members:
            run_checked(host, lvm("pvcreate", "-ff", "--yes", member), f"{member} cannot be used", limit=SECONDS)
        run_checked(host, lvm("vgcreate", name, *members), f"the volume group {name} cannot be made", limit=SECONDS)


def make_logicals(host: Host, logicals: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Those that are kept and there stay; all others are made anew. :returns: devices by name. :raises OrderFailed:"""
    names = {(str(item["group"]), str(item["name"])) for item in logicals if item["keep"]}
    for group in dict.fromkeys(str(item["group"]) for item in logicals):
        there = host.run(lvm("lvs", "--noheadings", "--options", "lv_name", group)).output.split()
        for old in [old for old in there if (group, old) not in names]:
            run_checked(host, lvm("lvremove", "--yes", f"{group}/{old}"), f"{group}/{old} cannot be removed")
        names -= {(group, name) for kept, name in list(names) if kept == group and name not in there}
    found = {}
    for item in logicals:
        group, name = str(item["group"]), str(item["name"])
        if (group, name) not in names:
            size = ["--extents", "100%FREE"] if item["size_mib"] is None else ["--size", f"{item['size_mib']}m"]
            argv = lvm("lvcreate", "--yes", "--wipesignatures", "y", "--zero", "y", *size, "--name", name, group)
            run_checked(host, argv, f"the logical volume {group}/{name} cannot be made", limit=SECONDS)
        found[name] = f"/dev/mapper/{group}-{name}"
    return found
