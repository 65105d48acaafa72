"""A member is looked at from the ramdisk by SSH, and is as it was afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from rack import INSIDE, started_rack

SSH = (
    "ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
    "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=20",
)  # fmt: skip


LOOK = """
mkdir -p /mnt/look
for device in $(blkid -t TYPE=ext4 -o device); do
    mount -o ro $device /mnt/look && cat /mnt/look/etc/hostname && umount /mnt/look
done
"""


def ssh(key: Path, address: str, command: str) -> subprocess.CompletedProcess[str]:
    words = [*INSIDE, *SSH, "-i", str(key), f"root@{address}", command]
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def made_key(folder: Path, name: str) -> Path:
    key = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=60)
    return key


@pytest.mark.rack
def test_a_member_is_rescued_by_ssh_and_comes_back(tmp_path: Path) -> None:
    key, other = made_key(tmp_path, "key"), made_key(tmp_path, "other")
    with started_rack(tmp_path, 1, network="prove_by_bmc = true") as rack:
        rack.run("node", "enroll", f"{tmp_path}/hardware.yaml")
        rack.run("apply", str(rack.cloud(count=1)), "--wait")
        assert any(event["kind"] == "ramdisk.proved" for event in rack.json("events"))
        before = rack.json("node", "show", "node1")["node"]
        said = rack.run("node", "rescue", "node1", "--key", f"{key}.pub")
        assert "ssh root@" in said and "SHA256:" in said
        address = said.partition("root@")[2].split(",")[0].split()[0]
        looked = ssh(key, address, LOOK)
        assert looked.returncode == 0, looked.stderr
        assert "galera-0" in looked.stdout, "it sees what is on the disk"
        fingerprint = said.partition("SHA256:")[2].split()[0]
        scanned = subprocess.run([*INSIDE, "ssh-keyscan", "-t", "ed25519", address], capture_output=True, timeout=60)
        known = subprocess.run(["ssh-keygen", "-lf", "-"], input=scanned.stdout, capture_output=True, timeout=60)
        assert fingerprint.encode() in known.stdout
        assert ssh(other, address, "true").returncode == 255, "nobody else is let in"
        rack.run("node", "rescue", "node1", "--off")
        rack.wait("its instance is healthy", lambda: rack.json("node", "list")[0]["healthy"] is True, 400)
        after = rack.json("node", "show", "node1")["node"]
        assert (after["deployment"], after["generation"]) == (before["deployment"], before["generation"])
        assert "Nothing to change" in rack.run("plan", str(rack.cloud(count=1)))
