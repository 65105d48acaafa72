"""An image that somebody brings as a whole disk: the real cloud-init makes it an instance, in which our agent stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rack import ROOT, Rack, started_rack
from shell import Shell

ADDRESS = "10.77.0.20"
PROBES = {
    "hostname": ("hostname", "web-0"),
    "address": ("ip -br addr show port0 | tr -s ' ' | cut -d' ' -f3", f"{ADDRESS}/24"),
    "names": ("getent hosts web-0 | tr -s ' '", f"{ADDRESS} web-0"),
    "gateway": ("ip route show default | cut -d' ' -f3", "10.77.0.1"),
    "root has grown": ("test $(findmnt -bno SIZE /) -gt 4000000000 && echo yes", "yes"),
    "file of the values": ("cat /etc/motd", "from the cloud file"),
    "command of the values": ("cat /var/lib/told", "told"),
    "no agent of the image": ("ls -d /usr/lib/python3/dist-packages/provisioner_agent 2>/dev/null | wc -l", "0"),
    "units": (
        "systemctl is-enabled provisioner-agent provisioner-agent-settle provisioner-agent-watch | sort -u",
        "enabled",
    ),
    "unit": ("systemctl show -p SubState --value whole-web.service", "running"),
}
"""Name → (what is run in the instance, what it must print)."""
NETWORKS = {"rack": {"cidr": "10.77.0.0/24", "pool": f"{ADDRESS}-10.77.0.60", "gateway": "10.77.0.1"}}
ORIGIN = {"role": "origin", "image": {"elements": ["cloud-init"]}, "networks": ["rack"]}
TEMPLATES = {
    "etc/whole/web.conf": "{{web.text}} on {{node.hostname}} ({{cloud.name}})\n",
    "etc/whole/web.conf.control": json.dumps(
        {"validate": ["grep", "-v", "bad", "{path}"], "services": {"whole-web.service": "restart"}}
    ),
    "etc/whole/secret": "{{secrets.whole_word}}\n",
    "etc/whole/secret.control": '{"mode": "0600", "sensitive": true}',
    "etc/systemd/system/whole-web.service": "[Service]\nExecStart=/usr/bin/sleep infinity\n",
    "etc/systemd/system/whole-web.service.control": '{"services": {"whole-web.service": "restart"}}',
}


def write_role(key: str) -> dict[str, Any]:
    """:param key: of SSH, public."""
    config = {
        "write_files": [{"path": "/etc/motd", "content": "from the role"}],
        "runcmd": [["sh", "-c", "echo told >/var/lib/told"]],
        "disable_root": False,
        "ssh_authorized_keys": [key],
    }
    return {
        "role": "web",
        "image": {"disk": "brought", "elements": ["whole-web"], "templates": ["whole-web"]},
        "networks": ["rack"],
        "config": {"values": {"web": {"text": "one"}, "cloud_config": config}},
        "secrets": ["whole_word"],
        "health": {
            "wait": 300,
            "node": [
                {"name": name, "command": ["sh", "-c", command], "expect": expect}
                for name, (command, expect) in PROBES.items()
            ],
            "role": [{"name": "size", "command": ["echo", "1"], "expect": "{count}"}],
        },
    }


def write_cloud(folder: Path, role: dict[str, Any], **values: Any) -> Path:
    """A cloud file that uses a role, which is beside it."""
    (folder / "roles").mkdir(parents=True, exist_ok=True)
    name = str(role["role"])
    (folder / "roles" / f"{name}.yaml").write_text(yaml.safe_dump(role))
    path = folder / f"{name}.yaml"
    cloud = {"cloud": "lab", "networks": NETWORKS, "roles": {name: {"count": 1, "values": values}}}
    path.write_text(yaml.safe_dump(cloud))
    return path


def write_source(folder: Path) -> Path:
    """A source folder like ours, with one more template tree."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name != "templates" and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    (folder / "templates").mkdir()
    for name, text in TEMPLATES.items():
        path = folder / "templates" / "whole-web" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def larger_first(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
    """A larger disk that is found before the right one."""
    lab["nodes"][0]["disks"] = [{"serial": "wrong", "gib": 40, "before": True}]


@pytest.mark.integration
@pytest.mark.rack
@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_a_disk_that_somebody_brought(tmp_path: Path, firmware: str) -> None:
    origin, shell = write_cloud(tmp_path / "clouds", ORIGIN), Shell(tmp_path, ADDRESS)
    role = write_role(shell.public)
    config = {"cloud_config": {"write_files": [{"path": "/etc/motd", "content": "from the cloud file"}]}}
    cloud = write_cloud(tmp_path / "clouds", role, **config)

    def change(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
        larger_first(lab, hardware)
        lab["nodes"][0]["firmware"] = hardware["nodes"][0]["firmware"] = firmware

    with started_rack(tmp_path, 1, cloud=origin, change=change) as rack:
        source = write_source(tmp_path / "source")
        rack.config.write_text(rack.config.read_text().replace(f"source_dir = {ROOT}\n", f"source_dir = {source}\n"))
        rack.run("image", "export", "origin", str(tmp_path / "brought.qcow2"))
        rack.run("image", "import", str(tmp_path / "brought.qcow2"), "--name", "brought")
        rack.run("image", "build", "--cloud", str(cloud), "--no-test")
        rack.run("node", "enroll", str(tmp_path / "hardware.yaml"))
        rack.run("apply", str(cloud), "--wait")
        view = rack.json("node", "show", "node1")
        steps = {step["name"]: step["detail"] for step in view["deployment"]["steps"]}
        booted = steps["configure"]["root"].removeprefix("PARTUUID=")
        assert booted in steps["boot-loader"]["partitions"], "what runs is what was written"
        assert (rack.state / "lab" / "node1" / "disk-wrong.raw").stat().st_blocks == 0
        assert json.loads(rack.run("plan", str(cloud), "-o", "json"))["actions"] == []
        assert shell.run("cat /etc/whole/web.conf /var/lib/whole/seen") == "\n".join(["one on web-0 (lab)"] * 2)
        assert shell.run("stat -c %a /etc/whole/secret") == "600"
        assert shell.run("cat /etc/whole/secret") == rack.run("cloud", "secret", "lab", "whole_word").strip()

        change_a_value(rack, shell, write_cloud(tmp_path / "clouds", role, web={"text": "two"}, **config))
        refuse_a_value(rack, shell, write_cloud(tmp_path / "clouds", role, web={"text": "bad"}, **config))
        cloud = write_cloud(tmp_path / "clouds", role, web={"text": "three"}, **config)
        rack.run("apply", str(cloud), "--wait")
        tell_of_drift(rack, shell)
        come_back(rack, shell, cloud)

        rack.run("node", "release", "node1")
        failed = rack.run("apply", str(cloud), "--wait", codes=(1,))
        assert "holds something and is not overwritten" in failed


def change_a_value(rack: Rack, shell: Shell, cloud: Path) -> None:
    """Without a deployment; the plan has named file and unit."""
    before, boot = (
        rack.json("node", "show", "node1")["deployment"]["id"],
        shell.run("cat /proc/sys/kernel/random/boot_id"),
    )
    began = shell.run("systemctl show -p ExecMainStartTimestampMonotonic --value whole-web.service")
    planned = rack.run("plan", str(cloud), codes=(2,))
    assert "writes /etc/whole/web.conf; restarts whole-web.service" in planned
    assert "+two on web-0 (lab)" in rack.run("config", "diff", str(cloud), "web-0", codes=(2,))
    rack.run("apply", str(cloud), "--wait")
    assert shell.run("cat /var/lib/whole/seen") == "two on web-0 (lab)"
    assert "two on web-0 (lab)" in rack.run("config", "render", "node1")
    assert rack.json("node", "show", "node1")["deployment"]["id"] == before
    assert shell.run("cat /proc/sys/kernel/random/boot_id") == boot
    assert shell.run("systemctl show -p ExecMainStartTimestampMonotonic --value whole-web.service") != began


def refuse_a_value(rack: Rack, shell: Shell, cloud: Path) -> None:
    """The file's own validator says no: nothing is changed, and it is told why."""
    said = rack.run("apply", str(cloud), "--wait", codes=(1,))
    assert "grep -v bad" in said, said
    assert shell.run("cat /etc/whole/web.conf") == "two on web-0 (lab)"


def tell_of_drift(rack: Rack, shell: Shell) -> None:
    shell.run("echo by hand >>/etc/whole/web.conf")
    shell.run("systemctl restart provisioner-agent")  # it looks when it starts, and every five minutes

    def told() -> bool:
        found = [event["message"] for event in rack.json("events") if event["kind"] == "instance.drift"]
        return found == ["changed by hand: /etc/whole/web.conf"]

    rack.wait("the change by hand is told", told, 300)
    assert "-by hand" in shell.run("provisioner-agent why /etc/whole/web.conf", codes=(2,))
    shell.run("sed -i '/by hand/d' /etc/whole/web.conf")


def come_back(rack: Rack, shell: Shell, cloud: Path) -> None:
    """After another boot the agent is there, also with a change that it gets then."""
    boot = shell.run("cat /proc/sys/kernel/random/boot_id")
    shell.run("systemctl --no-block reboot", codes=(0, 255))

    def back() -> bool:
        found = shell.run("cat /proc/sys/kernel/random/boot_id", codes=(0, 255))
        return bool(found) and found != boot

    rack.wait("the instance is back", back, 900)
    rack.wait(
        "the agent is back", lambda: shell.run("systemctl is-active provisioner-agent", (0, 3, 255)) == "active", 300
    )
    text = yaml.safe_load(cloud.read_text())
    text["roles"]["web"]["values"]["web"]["text"] = "four"
    cloud.write_text(yaml.safe_dump(text))
    rack.run("apply", str(cloud), "--wait")
    assert shell.run("cat /etc/whole/web.conf") == "four on web-0 (lab)"
    kib = shell.run("ps -o rss= -C python3 --sort -rss | head -n 1")
    print(f"the agent at rest: {kib} KiB")
