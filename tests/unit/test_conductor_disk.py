"""Which disk is written, and the files of an instance."""

from __future__ import annotations

import json
from typing import Any

import pytest

from provisioner.conductor.disk import GIB, MIB, choose_disk, disk_guid, esp_guid, root_guid
from provisioner.conductor.instance import build_files
from provisioner.errors import DeployError
from provisioner.model.deployment import Address, Interface, InterfaceKind, Placement
from provisioner.model.hardware import Disk, Firmware, HardwareReport

# ironic-lib reaches pyparsing by names that pyparsing is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def disk(name: str, gib: float, **more: Any) -> Disk:
    return Disk(name=name, size=int(gib * GIB), **more)


def choose(*disks: Disk, hints: dict[str, Any] | None = None, wipe: bool = False, own: tuple[str, ...] = ()) -> str:
    hardware = HardwareReport(cpus=1, memory_mib=1024, firmware=Firmware.UEFI, disks=disks)
    found = choose_disk("node1", hardware, hints or {}, needed=2 * GIB + 136 * MIB, wipe=wipe, own_tables=set(own))
    return found.name


def test_without_hints_the_smallest_that_is_large_enough() -> None:
    assert choose(disk("sda", 100), disk("sdb", 1), disk("sdc", 3), disk("sdd", 8)) == "sdd"
    assert choose(disk("sdb", 8), disk("sda", 8)) == "sda"


@pytest.mark.parametrize(
    ("hints", "name"),
    [
        ({"size": 100}, "sda"),
        ({"size": ">= 50"}, "sda"),
        ({"model": "<in> nvme"}, "nvme0n1"),
        ({"serial": "s== ABC"}, "sdb"),
        ({"name": "/dev/sdb"}, "sdb"),
        ({"rotational": True}, "sdb"),
        ({"vendor": "<or> acme <or> other"}, "sda"),
        ({"size": "< 50", "rotational": False}, "nvme0n1"),
    ],
)
def test_the_hints_of_ironic_lib(hints: dict[str, Any], name: str) -> None:
    disks = (
        disk("sda", 100, vendor="acme"),
        disk("sdb", 30, serial="ABC", rotational=True),
        disk("nvme0n1", 40, model="fast nvme disk"),
    )
    assert choose(*disks, hints=hints) == name


@pytest.mark.parametrize(
    ("hints", "word"),
    [({"size": 7}, "no disk matches"), ({"colour": "red"}, "cannot be understood"), ({"size": 1}, "large enough")],
)
def test_hints_that_lead_nowhere_say_what_was_found(hints: dict[str, Any], word: str) -> None:
    with pytest.raises(DeployError) as caught:
        choose(disk("sda", 8), disk("sdb", 1), hints=hints)
    assert word in caught.value.summary and "root_disk" in str(caught.value.hint)


def test_no_disk_at_all() -> None:
    with pytest.raises(DeployError):
        choose()


def test_a_disk_that_holds_something_is_not_overwritten() -> None:
    held = disk("sda", 8, signatures=("gpt", "ext4"), gpt_uuid="11111111-2222-3333-4444-555555555555")
    with pytest.raises(DeployError) as caught:
        choose(held)
    assert "gpt, ext4" in str(caught.value.cause) and "wipe" in str(caught.value.hint)
    assert choose(held, wipe=True) == "sda"
    assert choose(held, own=("11111111-2222-3333-4444-555555555555",)) == "sda"
    with pytest.raises(DeployError):
        choose(held, own=(disk_guid("another"),))
    with pytest.raises(DeployError):
        choose(disk("sda", 8, signatures=("LVM2_member",)), own=(disk_guid("another"),))


def test_an_empty_larger_disk_is_no_way_round_the_guard() -> None:
    with pytest.raises(DeployError):
        choose(disk("sda", 8, signatures=("ext4",)), disk("sdb", 100))


def test_guids_belong_to_the_deployment() -> None:
    guids = {disk_guid("a"), esp_guid("a"), root_guid("a"), disk_guid("b")}
    assert len(guids) == 4 and disk_guid("a") == disk_guid("a")


def placement(index: int, **more: Any) -> Placement:
    address = Address(network="main", address=f"10.0.0.{20 + index}/24", mac=f"52:54:00:00:00:0{index}", **more)
    return Placement(
        cloud="lab",
        role="web",
        index=index,
        hostname=f"web-{index}",
        node=f"node{index}",
        image="web-000000000000",
        addresses=(address,),
        interfaces=(Interface(name="port0", kind=InterfaceKind.PORT, mac=address.mac, mtu=address.mtu),),
    )


def files() -> dict[str, tuple[int, str]]:
    built = build_files(
        placement(1, gateway="10.0.0.1", dns=("10.0.0.2", "10.0.0.3"), mtu=1400),
        [placement(2), placement(1)],
        fstab="PARTUUID=root / ext4 defaults 0 1\n",
        agent={"url": "https://10.0.0.1:8081", "ca": "PEM", "token": "0011.secret"},
    )
    assert len({file["path"] for file in built}) == len(built)
    return {file["path"]: (file["mode"], file["content"]) for file in built}


def test_an_instance_gets_its_identity_its_network_and_its_token() -> None:
    found = files()
    assert found["/etc/hostname"] == (0o644, "web-1\n")
    assert "10.0.0.21 web-1\n10.0.0.22 web-2\n" in found["/etc/hosts"][1]
    assert found["/etc/machine-id"][1] == "" and found["/etc/fstab"][1].startswith("PARTUUID=root / ")
    assert found["/etc/resolv.conf"][1] == "nameserver 10.0.0.2\nnameserver 10.0.0.3\n"
    mode, text = found["/etc/provisioner-agent/agent.json"]
    assert mode == 0o600
    assert json.loads(text) == {
        "url": "https://10.0.0.1:8081", "ca": "PEM", "token": "0011.secret", "node": "node1", "hostname": "web-1",
    }  # fmt: skip
    unit = found["/etc/systemd/network/10-port0.network"][1]
    for line in ("PermanentMACAddress=52:54:00:00:00:01", "Address=10.0.0.21/24", "Gateway=10.0.0.1", "MTUBytes=1400"):
        assert line in unit.splitlines()
    assert [mode for path, (mode, _) in found.items() if "secret" in found[path][1]] == [0o600]
