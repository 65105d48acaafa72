"""Disks and networks as a role lays them out: written in the ramdisk, seen from inside the booted instance."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rack import INSIDE, started_rack

PROBES = {
    "root on a RAID": ("findmnt -no SOURCE / | grep -c ^/dev/md", "1"),
    "two mirrors": ("grep -c '\\[UU\\]' /proc/mdstat", "2"),
    "both members": ("cat /sys/block/md*/md/raid_disks | sort -u", "2"),
    "efi on the other": ("findmnt -no FSTYPE,SOURCE /boot/efi | grep -c '^vfat */dev/md'", "1"),
    "xfs in a group": ("findmnt -no FSTYPE,OPTIONS /srv | grep -c '^xfs.*noatime'", "1"),
    "log filled": (
        "test -d /var/log/journal -o -e /var/log/dpkg.log -o -d /var/log/apt && ls -d /var/log | wc -l",
        "1",
    ),
    "log mounted": ("findmnt -no FSTYPE,LABEL /var/log | tr -s ' '", "ext4 logs"),
    "swap": ("swapon --noheadings | wc -l", "1"),
    "bond": ("wc -w </sys/class/net/bond0/bonding/slaves", "2"),
    "bridge": ("ip -br addr show br0 | tr -s ' ' | cut -d' ' -f3", "10.77.0.20/24"),
    "vlan": ("ip -br addr show vlan100 | tr -s ' ' | cut -d' ' -f3", "10.78.0.20/24"),
    "ipv6": ("ip -br -6 addr show br0 | grep -c fd00:77::20/64", "1"),
    "tagged": ("python3 -c \"import socket; socket.socket(2, 2).sendto(b'x', ('10.78.0.1', 9))\" && echo sent", "sent"),
    "boots": ("touch /srv/boot-$(cat /proc/sys/kernel/random/boot_id); ls /srv | grep -c ^boot-", "1"),
}
"""Name → (what is run in the instance, what it must print)."""
ROLE: dict[str, Any] = {
    "role": "stack",
    "image": {"elements": ["base", "storage"], "templates": ["base"]},
    "networks": ["rack", "six", "storage"],
    "network": {
        "links": {"bond0": {"bond": ["port0", "port1"]}, "br0": {"bridge": ["bond0"]}},
        "on": {"rack": "br0", "six": "br0", "storage": "br0"},
    },
    "storage": {
        "disks": {"mirror": {"serial": "mirror"}, "data": {"serial": "data"}},
        "groups": {"vg0": ["pv"]},
        "volumes": [
            {"name": "r1", "disk": "root", "size": "4GiB"},
            {"name": "swap", "disk": "root", "size": "256MiB", "filesystem": "swap"},
            {"name": "r2", "disk": "mirror", "size": "4GiB"},
            {"name": "root", "raid": ["r1", "r2"], "mount": "/"},
            {"name": "pv", "disk": "data"},
            {"name": "log", "group": "vg0", "size": "1GiB", "filesystem": "ext4", "mount": "/var/log", "label": "logs"},
            {
                "name": "srv",
                "group": "vg0",
                "filesystem": "xfs",
                "mount": "/srv",
                "options": "noatime",
                "keep": True,
            },
        ],
    },
    "config": {"values": {"base": {"authorized_keys": []}}},
}
CLOUD = {
    "cloud": "lab",
    "networks": {
        "rack": {"cidr": "10.77.0.0/24", "pool": "10.77.0.20-10.77.0.60", "gateway": "10.77.0.1"},
        "six": {"cidr": "fd00:77::/64", "pool": "fd00:77::20-fd00:77::60"},
        "storage": {"cidr": "10.78.0.0/24", "pool": "10.78.0.20-10.78.0.60", "vlan": 100, "mtu": 1400},
    },
    "roles": {"stack": {"count": 1}},
}


def more_parts(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
    """A second port, and three disks beside the first: the wrong one is smaller and is found before it.

    All that are written have sectors of 4096 bytes; the racks of other tests have 512.
    """
    lab["nodes"][0] |= {
        "sector": 4096,
        "more_macs": ["52:54:00:77:01:01"],
        "disks": [
            {"serial": "wrong", "gib": 5, "before": True},
            {"serial": "mirror", "gib": 6, "bus": "scsi", "sector": 4096},
            {"serial": "data", "gib": 4, "bus": "nvme", "sector": 4096},
        ],
    }
    hardware["nodes"][0]["ports"].append({"mac": "52:54:00:77:01:01"})
    hardware["nodes"][0]["root_disk"] = {"serial": "node1-root"}


def write_cloud(folder: Path, boots: str, start: str, **use: Any) -> Path:
    """The cloud file, its role beside it. :param boots: how often the kept volume must have been booted with."""
    (folder / "roles").mkdir(parents=True, exist_ok=True)
    probes = [
        {"name": name, "command": ["sh", "-c", command], "expect": boots if name == "boots" else expect}
        for name, (command, expect) in PROBES.items()
    ]
    (folder / "roles" / "stack.yaml").write_text(
        yaml.safe_dump(ROLE | {"start": start, "health": {"wait": 300, "node": probes}})
    )
    cloud = CLOUD | {"roles": {"stack": {"count": 1} | use}}
    (folder / "cloud.yaml").write_text(yaml.safe_dump(cloud))
    return folder / "cloud.yaml"


TAPS = ("tap00770001", "tap00770101")
LISTEN = """
import selectors, socket, struct, sys, time
AUXDATA, VLAN_VALID = 8, 16  # packet(7): what the kernel took out of a tagged frame
selector, end = selectors.DefaultSelector(), time.monotonic() + 1500
for name in sys.argv[1:]:
    door = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    door.bind((name, 3))
    door.setsockopt(263, AUXDATA, 1)
    selector.register(door, selectors.EVENT_READ)
while time.monotonic() < end:
    for key, _ in selector.select(1):
        frame, aux, _, _ = key.fileobj.recvmsg(2048, 64)
        if frame[12:14] == b"\\x81\\x00" and struct.unpack_from("!H", frame, 14)[0] & 4095 == 100:
            sys.exit(0)
        for level, kind, data in aux:
            status, _, _, _, _, tag, _ = struct.unpack("IIIHHHH", data[:20])
            if status & VLAN_VALID and tag & 4095 == 100:
                sys.exit(0)
sys.exit(1)
"""
"""Ends well when a frame with the tag 100 comes out of a port of the node."""


@pytest.mark.rack
def test_a_layout_and_what_is_kept_of_it(tmp_path: Path) -> None:
    cloud = write_cloud(tmp_path / "stack", "1", "power")
    with started_rack(tmp_path, 1, cloud=cloud, change=more_parts) as rack:
        rack.run("node", "enroll", str(tmp_path / "hardware.yaml"))
        listener = subprocess.Popen([*INSIDE, "python3", "-c", LISTEN, *TAPS], stdin=subprocess.DEVNULL)
        try:
            rack.run("node", "inspect", "node1", "--stay")
            rack.run("apply", str(cloud), "--wait")
            assert listener.wait(timeout=60) == 0, "frames of the storage network carry its tag"
        finally:
            listener.kill()
            listener.wait()
        steps = {step["name"]: step for step in rack.json("node", "show", "node1")["deployment"]["steps"]}
        assert steps["power"]["detail"]["adopted"] is True, "the ramdisk of the inspection was taken on"
        assert steps["choose-disk"]["detail"]["disks"].keys() == {"root", "mirror", "data"}
        assert set(steps["storage"]["detail"]["made"]) == {"efi", "swap", "log", "srv"}
        untouched = (rack.state / "lab" / "node1" / "disk-wrong.raw").stat()
        assert untouched.st_blocks == 0, "the disk that nobody chose was not written"

        rack.run("node", "release", "node1")
        cloud = write_cloud(tmp_path / "stack", "2", "kexec", wipe=["node1"])
        rack.run("apply", str(cloud), "--wait")
        steps = {step["name"]: step for step in rack.json("node", "show", "node1")["deployment"]["steps"]}
        assert set(steps["storage"]["detail"]["made"]) == {"efi", "swap", "log"}, "srv is kept"
        assert steps["restart"]["detail"]["how"] == "kexec", "the firmware was started once"


RAIDS = {"five": (5, 3, "ext4"), "six": (6, 4, "xfs"), "ten": (10, 4, "ext4"), "zero": (0, 2, "ext4")}
"""Name → (level, members, file system)."""
MEMBERS = [(f"{name[0]}{number}", name) for name, (_, count, _) in RAIDS.items() for number in range(count)]
SPARES = ("a", "b", "c", "d")
"""Disks beside the root's, each with a member of each array that is so wide."""


def other_raids() -> dict[str, Any]:
    """RAIDs of every other level on four disks, and a root behind an MBR."""
    volumes: list[dict[str, Any]] = [{"name": "root", "disk": "root", "mount": "/"}]
    for member, _ in MEMBERS:
        volumes.append({"name": member, "disk": SPARES[int(member[1])], "size": "192MiB"})
    for name, (level, count, filesystem) in RAIDS.items():
        members = [f"{name[0]}{number}" for number in range(count)]
        raid = {"name": name, "raid": members, "level": level, "filesystem": filesystem, "mount": f"/srv/{name}"}
        volumes.append(raid)
    return {"table": "mbr", "disks": {name: {"serial": name} for name in SPARES}, "volumes": volumes}


def four_spares(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
    spares = [{"serial": name, "gib": 1, "bus": "sata"} for name in SPARES]
    lab["nodes"][0] |= {"firmware": "bios", "disk_gib": 5, "disks": spares}
    hardware["nodes"][0] |= {"firmware": "bios", "root_disk": {"serial": "node1-root"}}


@pytest.mark.rack
def test_raids_of_every_other_level_and_a_root_behind_an_mbr(tmp_path: Path) -> None:
    levels = " ".join(sorted(f"raid{level}" for level, _, _ in RAIDS.values()))
    probes = {
        "levels": ("cat /sys/block/md*/md/level | sort | xargs", levels),
        "whole": ("cat /sys/block/md*/md/degraded 2>/dev/null | sort -u", "0"),
        "mounted": ("findmnt -rno SOURCE,TARGET | grep -c '^/dev/md.* /srv/'", str(len(RAIDS))),
        "table": ("lsblk -no PTTYPE $(findmnt -no SOURCE /)", "dos"),
    }
    node = [{"name": name, "command": ["sh", "-c", said], "expect": expect} for name, (said, expect) in probes.items()]
    folder = tmp_path / "stack"
    (folder / "roles").mkdir(parents=True)
    role = ROLE | {"networks": ["rack"], "network": {}, "storage": other_raids(), "health": {"wait": 300, "node": node}}
    (folder / "roles" / "stack.yaml").write_text(yaml.safe_dump(role))
    cloud = folder / "cloud.yaml"
    cloud.write_text(yaml.safe_dump(CLOUD | {"roles": {"stack": {"count": 1}}}))
    with started_rack(tmp_path, 1, cloud=cloud, change=four_spares) as rack:
        rack.run("node", "enroll", str(tmp_path / "hardware.yaml"))
        rack.run("apply", str(cloud), "--wait")
        root = next(s for s in rack.json("node", "show", "node1")["deployment"]["steps"] if s["name"] == "configure")
        assert root["detail"]["root"].endswith("-01"), "the first partition of an MBR"

        said = rack.run("node", "release", "node1", "--erase", "secure", "--stay")
        assert said.count("overwritten with zeros") == 1 + len(SPARES)
        rack.run("apply", str(cloud), "--wait")
        steps = {step["name"]: step for step in rack.json("node", "show", "node1")["deployment"]["steps"]}
        assert steps["power"]["detail"]["adopted"] is True, "from the ramdisk that erased it"
