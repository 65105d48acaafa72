"""The whole way, as an operator walks it: a rack of powered-off nodes becomes a running cluster.

``test_one_node`` (marker ``integration``) goes it with one node, and with a service that is killed while the image
is being written; ``test_cluster`` (marker ``rack``) with three.
"""

from __future__ import annotations

import json
import socket
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from rack import INSIDE, PROGRAM, Rack, started_rack

STEPS = [
    "reserve", "boot-files", "boot-device", "power", "hello", "choose-disk", "storage", "write-image",
    "seed-instance", "boot-loader", "boot-disk", "restart", "configure", "probe",
]  # fmt: skip


def apply_in_background(rack: Rack, cloud: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [PROGRAM, "--config", str(rack.config), "apply", str(cloud), "--wait"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def writing(rack: Rack, node: str) -> bool:
    steps = {step["name"]: step for step in (rack.json("node", "show", node)["deployment"] or {"steps": ()})["steps"]}
    step = steps.get("write-image")
    return bool(step and step["state"] == "running" and step["detail"].get("bytes", 0) > 0)


def check_timeline(rack: Rack, node: str) -> None:
    shown = rack.json("node", "show", node)
    assert [step["name"] for step in shown["deployment"]["steps"]] == STEPS
    for step in shown["deployment"]["steps"]:
        assert step["state"] == "done"
        assert step["ended"] >= step["started"]
    text = rack.run("node", "show", node)
    assert all(step in text for step in STEPS)


def check_operator_socket(rack: Rack) -> None:
    path = rack.folder / "run" / "api.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def check_password_is_nowhere(rack: Rack) -> None:
    """Not in the log, in answers, events, records, nor in the arguments and environments of what runs."""
    password = (rack.state / "lab" / "bmc-password").read_text().strip()
    assert password
    shown = rack.run("node", "show", "node1", "-o", "json") + rack.run("events") + rack.log()
    assert password not in shown
    assert password.encode() not in (rack.state / "provisioner.db").read_bytes()
    for process in (place for name in ("cmdline", "environ") for place in Path("/proc").glob(f"[0-9]*/{name}")):
        try:
            assert password.encode() not in process.read_bytes(), process
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue


def check_bad_input(rack: Rack) -> None:
    """Refused before anything is touched, with file and line."""
    before = rack.json("cloud", "status", "lab") if rack.json("node", "list")[0]["deployment"] else None
    bad = rack.folder / "bad.yaml"
    good = yaml.safe_load((rack.folder / "cloud.yaml").read_text())
    cases = {
        "galerra": good | {"roles": {"galerra": good["roles"]["galera"]}},
        "memori": good | {"memori": 1},
        "max_conections": good | {"roles": {"galera": {"count": 1, "values": {"galera": {"max_conections": 5}}}}},
        "three": good | {"roles": {"galera": {"count": "three"}}},
    }
    for word, cloud in cases.items():
        bad.write_text(yaml.safe_dump(cloud))
        said = rack.run("plan", str(bad), codes=(1,))
        assert word in said and "bad.yaml:" in said, said
    bad.write_text(yaml.safe_dump(good | {"roles": {"galera": good["roles"]["galera"] | {"count": 9}}}))
    assert "9" in rack.run("plan", str(bad), codes=(1,))
    hardware = yaml.safe_load((rack.folder / "hardware.yaml").read_text())
    twin = hardware["nodes"][0] | {"name": "twin"}
    bad.write_text(yaml.safe_dump(hardware | {"nodes": [hardware["nodes"][0], twin]}))
    said = rack.run("node", "enroll", str(bad), codes=(1,))
    assert hardware["nodes"][0]["ports"][0]["mac"] in said and "bad.yaml:" in said
    if before is not None:
        assert [m["state"] for m in rack.json("cloud", "status", "lab")["members"]] == [
            m["state"] for m in before["members"]
        ]


def check_bad_controllers(rack: Rack) -> None:
    """A wrong password and a silent controller are each named, and the good node is enrolled all the same."""
    hardware = yaml.safe_load((rack.folder / "hardware.yaml").read_text())
    first = hardware["nodes"][0]
    wrong_password = rack.folder / "wrong"
    wrong_password.write_text("not-the-password")
    wrong_password.chmod(0o600)
    defaults = hardware.get("defaults", {}).get("bmc", {})
    other = first["bmc"] | {"password": {"file": str(wrong_password)}, "address": "10.77.1.1"}
    silent = {
        "name": "silent",
        "bmc": defaults | other | {"address": "10.77.1.99"},
        "ports": [{"mac": "52:54:00:77:00:99"}],
    }
    lying = first | {"bmc": first["bmc"] | {"password": {"file": str(wrong_password)}}}
    bad = rack.folder / "controllers.yaml"
    bad.write_text(yaml.safe_dump(hardware | {"nodes": [lying, silent]}))
    said = rack.run("node", "enroll", str(bad), codes=(1,))
    assert "10.77.1.99" in said and first["bmc"]["address"] in said
    assert "not-the-password" not in said
    assert "silent" not in [node["spec"]["name"] for node in rack.json("node", "list")]
    rack.run("node", "enroll", str(rack.folder / "hardware.yaml"))


def check_stranger_gets_no_address(rack: Rack) -> None:
    """A MAC that is not on record asks for an address on the rack's wire and gets no answer."""
    program = (
        "import os,socket,struct,sys\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
        "s.setsockopt(socket.SOL_SOCKET,socket.SO_BROADCAST,1)\n"
        "s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n"
        "s.setsockopt(socket.SOL_SOCKET,25,b'stranger1\\0')\n"
        "s.bind(('',68)); s.settimeout(4)\n"
        "mac=bytes.fromhex(sys.argv[1])\n"
        "p=struct.pack('!BBBBIHHIIII',1,1,6,0,0x1234,0,0x8000,0,0,0,0)+mac+bytes(10+64+128)\n"
        "p+=bytes.fromhex('63825363')+bytes([53,1,1,255])\n"
        "s.sendto(p.ljust(300,b'\\0'),('255.255.255.255',67))\n"
        "try: print('answered',s.recv(1500)[16:20].hex())\n"
        "except TimeoutError: print('silence')\n"
    )
    link = ["ip", "link", "add", "stranger0", "type", "veth", "peer", "name", "stranger1"]
    subprocess.run([*INSIDE, *link], check=True)
    try:
        for words in ("stranger0 master rack0 up", "stranger1 up"):
            subprocess.run([*INSIDE, "ip", "link", "set", *words.split()], check=True)
        done = subprocess.run(
            [*INSIDE, "python3", "-c", program, "525400abcdef"], capture_output=True, text=True, timeout=30
        )
        assert done.stdout.strip() == "silence", done
    finally:
        subprocess.run([*INSIDE, "ip", "link", "del", "stranger0"], check=True)


def change_a_value(rack: Rack, count: int) -> None:
    """A changed value is shown exactly and reaches the running instances without a new deployment."""
    deployments = {node["spec"]["name"]: node["deployment"] for node in rack.json("node", "list")}
    cloud = rack.cloud(count=count, values={"galera": {"max_connections": 321}})
    plan = rack.json("plan", str(cloud), codes=(2,))
    assert {action["kind"] for action in plan["actions"]} == {"configure"}
    assert [change["path"] for change in plan["actions"][0]["changes"]] == ["galera.max_connections"]
    assert [change["new"] for change in plan["actions"][0]["changes"]] == [321]
    assert len(plan["actions"]) == count
    rack.run("apply", str(cloud), "--wait")
    for index in range(count):
        address = rack.member(f"galera-{index}")["addresses"][0].partition("/")[0]
        assert rack.sql(address, "SELECT @@max_connections") == "321"
    assert {node["spec"]["name"]: node["deployment"] for node in rack.json("node", "list")} == deployments
    assert "Nothing to change" in rack.run("plan", str(cloud))


def check_firewall(address: str) -> None:
    """The database answers, a port that the role does not name is silent: without a firewall it would be refused."""
    program = "import socket,sys\nsocket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)"
    asked = {
        port: subprocess.run([*INSIDE, "python3", "-c", program, address, port], capture_output=True, text=True)
        for port in ("3306", "4999")
    }
    assert asked["3306"].returncode == 0, asked["3306"].stderr
    assert "TimeoutError" in asked["4999"].stderr, asked["4999"].stderr


LLDP = """
import socket, sys, time
tlv = lambda kind, value: (kind << 9 | len(value)).to_bytes(2, "big") + value
frame = bytes.fromhex("0180c200000e02000000000188cc")
frame += tlv(1, b"\\4" + bytes(6)) + tlv(2, b"\\5eth1/7") + tlv(3, b"\\0x") + tlv(5, b"leaf1") + tlv(0, b"")
door = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
door.bind((sys.argv[1], 0))
for _ in range(600):
    try:
        door.send(frame.ljust(60, b"\\0"))
    except OSError:
        pass  # the node is off
    time.sleep(1)
"""
"""A switch that tells of itself at the other end of a node's cable."""


def inspect_a_node(rack: Rack, node: str) -> None:
    """Booted once, known in every part, found to differ where it does, and off again."""
    hardware = yaml.safe_load((rack.folder / "hardware.yaml").read_text())
    mac = hardware["nodes"][0]["ports"][0]["mac"]
    hardware["nodes"][0]["ports"][0]["plugged"] = {"switch": "leaf2", "port": "eth1/7"}
    plugged = rack.folder / "plugged.yaml"
    plugged.write_text(yaml.safe_dump(hardware))
    assert "plugged" in rack.run("node", "enroll", str(plugged))
    tap = f"tap{mac.replace(':', '')[-8:]}"
    switch = subprocess.Popen([*INSIDE, "python3", "-c", LLDP, tap], stdin=subprocess.DEVNULL)
    try:
        (view,) = rack.json("node", "inspect", node)
    finally:
        switch.kill()
        switch.wait()
    assert view["node"]["state"] == "available" and rack.json("node", "power", node)["power"] == "off"
    seen = view["node"]["hardware"]
    assert seen["cpus"] == 1 and sum(module["size_mib"] for module in seen["memory"]) == 2048
    assert [nic["mac"] for nic in seen["nics"]] == [mac]
    assert seen["nics"][0]["driver"] == "virtio_net"
    assert seen["nics"][0]["neighbour"] == {"switch": "leaf1", "port": "eth1/7"}
    assert seen["processor"] and seen["bios"] and seen["disks"][0]["signatures"] == []
    assert seen["bmc_address"] == hardware["nodes"][0]["bmc"]["address"]
    assert seen["kvm"] is True, "QEMU's emulated processor has nested SVM, which works"
    assert view["differences"] == [
        f"port {mac} ({seen['nics'][0]['name']}): plugged into leaf1 eth1/7, not leaf2 eth1/7"
    ]
    shown = rack.run("node", "show", node, "--hardware")
    assert "leaf1 eth1/7" in shown and "differs: port" in shown and "and it works" in shown
    kept = rack.run("node", "console", node, "--last")
    assert "ramdisk: order done: inspect" in kept
    assert "provisioner.token=" not in kept.replace("provisioner.token=***", "")
    rack.run("node", "enroll", str(rack.folder / "hardware.yaml"))


def prove_its_hardware(rack: Rack, node: str) -> None:
    """What passes says so, and the node is off again; memory takes an emulated processor too long here."""
    (view,) = rack.json(
        "node", "test", node, "--only", "network", "--only", "disk", "--only", "cpu", "--burn-seconds", "5"
    )
    assert {part: test["verdict"] for part, test in view["node"]["tests"].items()} == dict.fromkeys(
        ("network", "disk", "cpu"), "passed"
    )
    assert "vda: reads at" in view["node"]["tests"]["disk"]["summary"]
    assert view["node"]["state"] == "available" and rack.json("node", "power", node)["power"] == "off"


def find_out_ports(rack: Rack, node: str) -> None:
    """The hardware file says nothing of its ports: a window, a boot, and the node is known by its UUID."""
    hardware = yaml.safe_load((rack.folder / "hardware.yaml").read_text())
    (port,) = hardware["nodes"][0].pop("ports")
    unknown = rack.folder / "unknown.yaml"
    unknown.write_text(yaml.safe_dump(hardware))
    rack.run("node", "forget", node)
    rack.run("node", "enroll", str(unknown))
    assert rack.json("node", "list")[0]["state"] == "enrolled"
    (view,) = rack.json("node", "inspect", node)
    assert view["node"]["state"] == "available"
    assert [known["mac"] for known in view["node"]["spec"]["ports"]] == [port["mac"]]
    assert any(event["kind"] == "window.recognised" for event in rack.json("events"))


@pytest.mark.integration
def test_one_node(tmp_path: Path) -> None:
    with started_rack(tmp_path, 1) as rack:
        rack.run("node", "enroll", str(tmp_path / "hardware.yaml"))
        assert rack.json("node", "list")[0]["state"] == "available"
        assert rack.json("node", "power", "node1")["power"] == "off"
        check_operator_socket(rack)
        cloud = rack.cloud(count=1)
        check_bad_input(rack)
        check_bad_controllers(rack)
        check_stranger_gets_no_address(rack)
        inspect_a_node(rack, "node1")
        prove_its_hardware(rack, "node1")
        find_out_ports(rack, "node1")
        assert "1 to deploy" in rack.run("plan", str(cloud), codes=(2,))
        applying = apply_in_background(rack, cloud)
        rack.wait("the image is being written", lambda: writing(rack, "node1"), 600)
        check_password_is_nowhere(rack)
        rack.kill()
        applying.communicate(timeout=60)
        rack.start()
        rack.run("apply", str(cloud), "--wait")
        assert rack.json("node", "list")[0]["state"] == "active"
        check_timeline(rack, "node1")
        check_password_is_nowhere(rack)
        assert "Nothing to change" in rack.run("plan", str(cloud))
        change_a_value(rack, 1)
        check_firewall(rack.member("galera-0")["addresses"][0].partition("/")[0])


@pytest.mark.rack
def test_cluster(tmp_path: Path) -> None:
    with started_rack(tmp_path, 3) as rack:
        rack.run("node", "enroll", str(tmp_path / "hardware.yaml"))
        cloud = rack.cloud(count=3)
        rack.run("apply", str(cloud), "--wait")
        assert [node["state"] for node in rack.json("node", "list")] == ["active"] * 3
        assert rack.json("cloud", "status", "lab")["ready"]
        addresses = [rack.member(f"galera-{index}")["addresses"][0].partition("/")[0] for index in range(3)]
        rack.sql(addresses[0], "CREATE DATABASE IF NOT EXISTS app; CREATE TABLE app.light (word VARCHAR(40))")
        rack.sql(addresses[0], f"INSERT INTO app.light VALUES ('{socket.gethostname()[:8]}-first')")
        for address in addresses[1:]:
            assert rack.sql(address, "SELECT word FROM app.light").endswith("-first")
            assert rack.sql(address, "SHOW STATUS LIKE 'wsrep_cluster_size'").split() == ["wsrep_cluster_size", "3"]
        change_a_value(rack, 3)
        for address in addresses:
            check_firewall(address)
        last = rack.json("cloud", "status", "lab")["members"][-1]
        rack.run("node", "release", last["node"])
        again = rack.cloud(count=3, values={"galera": {"max_connections": 321}}, wipe=[last["node"]])
        rack.run("apply", str(again), "--wait")
        assert rack.sql(addresses[0], "SHOW STATUS LIKE 'wsrep_cluster_size'").split()[1] == "3"
        assert json.dumps(rack.json("cloud", "status", "lab")["ready"]) == "true"
