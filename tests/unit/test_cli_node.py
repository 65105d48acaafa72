"""``provisioner node``, ``cloud`` and ``events`` against a service with a fake conductor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from served import FakeConductor, make_deploy, make_deployment, make_event, make_node, make_status, served

from provisioner.cli.main import main
from provisioner.cli.options import Options
from provisioner.errors import BmcSilent
from provisioner.model.deployment import STEPS, Deployment, EraseLevel, Node, Step, StepName, StepState, build_cleaning
from provisioner.model.hardware import (
    Disk,
    Firmware,
    HardwarePart,
    HardwareReport,
    HardwareTest,
    Nic,
    Power,
    SecretRef,
    Verdict,
)
from provisioner.model.states import NodeState
from provisioner.model.status import (
    AuditFinding,
    AuditResult,
    MemberPosition,
    NodeView,
    RecoveryStatus,
    ScanResult,
    SweepResult,
)
from provisioner.system.clock import FakeClock

HARDWARE = """\
nodes:
  - name: {name}
    bmc: {{address: {address}, username: admin, password: {password}}}
    ports: [{{mac: "{mac}"}}]
"""


class Bench:
    def __init__(self, conductor: FakeConductor, folder: Path) -> None:
        self.conductor = conductor
        self.folder = folder
        self.config = folder / "provisioner.conf"
        self.config.write_text(f"[DEFAULT]\nrun_dir = {folder}\nstate_dir = {folder}\n")

    def call(self, *words: str, env: dict[str, str] | None = None) -> Result:
        options = Options(clock=FakeClock())
        return CliRunner().invoke(main, ["--config", str(self.config), *words], env=env, obj=options)

    def hardware(self, number: int, password: str) -> str:
        path = self.folder / f"node{number}.yaml"
        text = HARDWARE.format(
            name=f"node{number}", address=f"10.77.1.1{number}", mac=f"52:54:00:77:00:0{number}", password=password
        )
        path.write_text(text)
        return str(path)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    conductor = FakeConductor()
    with served(conductor, tmp_path / "api.sock"):
        yield Bench(conductor, tmp_path)


def test_enroll_reads_passwords_here_and_shows_each_node(bench: Bench) -> None:
    secret = bench.folder / "secret"
    secret.write_text("from-file\n")
    secret.chmod(0o600)
    files = [bench.hardware(1, f"{{file: {secret}}}"), bench.hardware(2, "{env: RACK_PASSWORD}")]
    done = bench.call("node", "enroll", *files, env={"RACK_PASSWORD": "from-env"})
    assert done.exit_code == 0, done.output
    assert {item.spec.name: item.password for item in bench.conductor.enrolled} == {
        "node1": "from-file",
        "node2": "from-env",
    }
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["node1", "enrolled", "0.5", "s"],
        ["node2", "enrolled", "0.5", "s"],
    ]
    assert "from-" not in done.output


def test_a_password_can_be_put_into_the_services_records(bench: Bench) -> None:
    secret = bench.folder / "secret"
    secret.write_text("for-the-record\n")
    secret.chmod(0o600)
    files = [bench.hardware(1, "{stored: true}"), bench.hardware(2, "{env: RACK_PASSWORD}")]
    done = bench.call("node", "enroll", *files, "--password-file", str(secret), env={"RACK_PASSWORD": "from-env"})
    assert done.exit_code == 0, done.output
    sent = {item.spec.name: (item.password, item.spec.bmc.password) for item in bench.conductor.enrolled}
    assert sent["node1"] == ("for-the-record", SecretRef(stored=True)) and sent["node2"][0] == "from-env"
    assert bench.call("node", "enroll", *files, "--username", "x").exit_code == 64


def test_a_node_that_fails_makes_the_exit_code_1(bench: Bench) -> None:
    bench.conductor.wrong_passwords = {"node1"}
    files = [bench.hardware(1, "{env: P}"), bench.hardware(2, "{env: P}")]
    done = bench.call("node", "enroll", *files, env={"P": "x"})
    assert done.exit_code == 1
    assert "node2            enrolled" in done.stdout
    assert "error: it refuses the password" in done.stdout and "where: 10.77.1.11" in done.stdout
    done = bench.call("node", "enroll", *files, "-o", "json", env={"P": "x"})
    assert done.exit_code == 1
    assert [result["result"] for result in json.loads(done.stdout)] == ["failed", "enrolled"]


def test_passwords_that_cannot_be_read_are_all_named_and_nothing_is_sent(bench: Bench) -> None:
    world = bench.folder / "world"
    world.write_text("hunter2")
    world.chmod(0o644)
    files = [bench.hardware(1, f"{{file: {world}}}"), bench.hardware(2, "{env: NOT_SET}")]
    done = bench.call("node", "enroll", *files, env={"NOT_SET": None})  # type: ignore[dict-item]
    assert done.exit_code == 1
    assert "node node1" in done.stderr and f"chmod 0600 {world}" in done.stderr
    assert "node node2" in done.stderr and "NOT_SET" in done.stderr
    assert "hunter2" not in done.output
    assert bench.conductor.enrolled == []


def test_list_and_its_json(bench: Bench) -> None:
    failure = BmcSilent("the BMC is silent", where="10.77.1.12", hint="provisioner node retry node2").to_dict()
    bench.conductor.node_list = [
        make_node("node1", NodeState.ACTIVE, power=Power.ON, generation=3, applied=2, healthy=True),
        make_node("node2", NodeState.FAILED, failure=failure),
    ]
    done = bench.call("node", "list")
    assert done.exit_code == 0
    first = next(line for line in done.stdout.splitlines() if line.startswith("node1"))
    assert first.split()[:4] == ["node1", "active", "on", "yes"]
    assert "2 of 3" in first and "release" in first
    assert "next:  provisioner node retry node2" in done.stderr
    shown = json.loads(bench.call("node", "list", "-o", "json").stdout)
    assert [(node["spec"]["name"], node["state"]) for node in shown] == [("node1", "active"), ("node2", "failed")]


def test_show_prints_the_timeline_with_seconds(bench: Bench) -> None:
    deployment = make_deployment()
    running = Step(
        name=StepName.WRITE_IMAGE,
        state=StepState.RUNNING,
        started=deployment.created + 14,
        detail={"bytes": 120_000_000, "total": 400_000_000, "rate": 35_000_000.0, "remaining": 8.0},
        attempts=2,
    )
    steps = tuple(running if step.name is StepName.WRITE_IMAGE else step for step in deployment.steps)
    bench.conductor.deployments["node1"] = deployment.model_copy(update={"steps": steps})
    done = bench.call("node", "show", "node1")
    assert done.exit_code == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert all(step in rows for step in STEPS)
    assert rows["reserve"].split() == ["reserve", "done", "+0.0", "2.0"]
    assert "120 of 400 MB, 35.0 MB/s, 8 s left" in rows["write-image"] and "attempt 2" in rows["write-image"]
    shown = json.loads(bench.call("node", "show", "node1", "-o", "json").stdout)
    assert [step["seconds"] for step in shown["deployment"]["steps"][:2]] == [2.0, 2.0]
    assert shown["deployment"]["steps"][7]["seconds"] is None


def test_show_hardware(bench: Bench) -> None:
    disk = Disk(name="vda", size=8 << 30, signatures=("gpt",))
    report = HardwareReport(
        cpus=2,
        memory_mib=2048,
        firmware=Firmware.UEFI,
        disks=(disk,),
        nics=(Nic(name="eth0", mac="52:54:00:77:00:01"),),
    )
    bench.conductor.node_list = [make_node(hardware=report)]
    said = bench.call("node", "show", "node1", "--hardware").stdout
    assert "2048 MiB" in said and "gpt" in said and "8.0" in said and "eth0" in said
    assert "vda" not in bench.call("node", "show", "node1").stdout
    bench.conductor.node_list = [make_node()]
    assert "not known yet" in bench.call("node", "show", "node1", "--hardware").stdout


def test_a_node_that_is_not_there(bench: Bench) -> None:
    done = bench.call("node", "show", "node9")
    assert done.exit_code == 1
    assert "where: node9" in done.stderr and "next:  provisioner node list" in done.stderr


def test_power(bench: Bench) -> None:
    assert bench.call("node", "power", "node1").stdout == "node1 is off\n"
    assert json.loads(bench.call("node", "power", "node1", "on", "-o", "json").stdout)["power"] == "on"
    assert bench.conductor.powers == [("node1", None), ("node1", "on")]
    assert bench.call("node", "power", "node1", "up").exit_code == 64


def test_verbs_and_what_a_state_does_not_offer(bench: Bench) -> None:
    assert bench.call("node", "forget", "node1").stdout == "node1: forget\n"
    done = bench.call("node", "release", "node1")
    assert done.exit_code == 1
    assert "release is not offered for a node that is available" in done.stderr
    assert "forget" in done.stderr.splitlines()[-1]


def test_hardware_tests_are_shown_and_a_bad_one_is_an_error(bench: Bench) -> None:
    well = HardwareTest(verdict=Verdict.PASSED, summary="all well", at=1.0)
    bench.conductor.node_list = [make_node("node1", tests={HardwarePart.CPU: well})]
    done = bench.call("node", "test", "node1", "--only", "cpu", "--burn-seconds", "5")
    assert done.exit_code == 0 and "passed" in done.stdout and "all well" in done.stdout
    assert bench.conductor.tested == [("node1", (HardwarePart.CPU,), 5.0)]
    bad = HardwareTest(verdict=Verdict.DEGRADED, summary="sda: \x1b8 sectors", at=1.0)
    bench.conductor.node_list = [make_node("node1", tests={HardwarePart.DISK: bad})]
    assert bench.call("node", "test", "node1").exit_code == 1
    assert bench.call("node", "test", "node1", "--no-wait").exit_code == 0
    (view,) = json.loads(bench.call("node", "test", "node1", "-o", "json").stdout)
    assert view["node"]["tests"]["disk"]["verdict"] == "degraded"
    shown = bench.call("node", "show", "node1").stdout
    assert "degraded" in shown and "8 sectors" in shown and "\x1b" not in shown
    assert bench.call("node", "test", "node1", "--only", "fans").exit_code == 64
    bench.conductor.stayed.clear()
    bench.call("node", "test", "node1", "--stay")
    assert bench.call("node", "inspect", "node1", "--stay", "--no-wait").exit_code == 0
    bench.call("node", "inspect", "node1")
    assert bench.conductor.stayed == [("node1", True), ("node1", True), ("node1", False)]
    assert bench.call("node", "test").exit_code == 64


def test_a_release_stays_until_the_node_is_clean(bench: Bench) -> None:
    active = make_node(state=NodeState.ACTIVE)
    bench.conductor.node_list = [active]
    looks: list[NodeState] = []

    def verb(name: str, word: str) -> Node:
        bench.conductor.node_list = [active.model_copy(update={"state": NodeState.CLEANING})]
        return bench.conductor.node_list[0]

    def look(name: str) -> NodeView:
        looks.append(NodeState.CLEANING)
        state = NodeState.AVAILABLE if len(looks) > 2 else NodeState.CLEANING
        return NodeView(node=active.model_copy(update={"state": state}))

    bench.conductor.verb, bench.conductor.node = verb, look  # type: ignore[method-assign]
    assert "node1 is available" in bench.call("node", "release", "node1").stdout
    assert len(looks) == 3
    assert "node1 is cleaning" in bench.call("node", "release", "node1", "--no-wait").stdout


def test_what_was_done_to_each_disk_is_said(bench: Bench) -> None:
    cleaned = build_cleaning("node1", EraseLevel.QUICK, False)
    erased = Step(name=StepName.ERASE, state=StepState.DONE, detail={"disks": {"sda": "discarded\x1b[2J"}})
    bench.conductor.node_list = [make_node(state=NodeState.ACTIVE)]
    bench.conductor.deployments["node1"] = Deployment(id="e1", placement=cleaned, created=1.0, steps=(erased,))
    said = bench.call("node", "release", "node1", "--erase", "quick")
    assert said.stdout.splitlines()[0].startswith("node1: sda: discarded") and "\x1b" not in said.stdout
    bench.conductor.node_list = [make_node(state=NodeState.AVAILABLE)]
    assert bench.call("node", "erase", "node1", "--level", "secure", "--stay").exit_code == 0
    assert bench.call("node", "erase", "node1", "--no-wait", "-o", "json").exit_code == 0
    assert bench.call("node", "erase", "node1", "--level", "thorough").exit_code == 64
    levels = [("node1", EraseLevel.QUICK, False), ("node1", EraseLevel.SECURE, True)]
    assert bench.conductor.erased == [*levels, ("node1", EraseLevel.METADATA, False)]


def test_a_role_that_was_down_as_a_whole(bench: Bench) -> None:
    assert "no member of galera waits" in bench.call("cloud", "recover", "lab", "galera").stdout
    said = [MemberPosition(hostname="galera-0", node="node1", history="a1", sequence=17),
            MemberPosition(hostname="galera-1", node="node2")]  # fmt: skip
    found = RecoveryStatus(
        role="galera", begun=1.7e9, why="not known yet how far galera-1 had come", members=tuple(said)
    )
    bench.conductor.statuses = [make_status().model_copy(update={"recoveries": {"galera": found}})]
    for words in (("status", "lab"), ("recover", "lab", "galera")):
        shown = bench.call("cloud", *words).stdout
        assert "a1:17" in shown and "not known yet how far galera-1 had come" in shown
    shown = bench.call("cloud", "recover", "lab", "galera", "--without", "node2", "--without", "node3").stdout
    assert "node2" in shown and "node3" in shown and "given up" in shown and "lab goes on" in shown
    assert (
        json.loads(bench.call("cloud", "recover", "lab", "galera", "-o", "json").stdout)["members"][0]["sequence"] == 17
    )


def test_a_replacement_is_shown_and_done(bench: Bench) -> None:
    bench.conductor.actions = (make_deploy(),)
    done = bench.call("cloud", "replace", "lab", "galera-0", "--plan")
    assert done.exit_code == 2 and "1 to deploy" in done.stdout and bench.conductor.applied == []
    done = bench.call("cloud", "replace", "lab", "galera-0", "--with", "node1")
    assert done.exit_code == 0 and "1 to deploy" in done.stdout and "cloud lab is ready" in done.stdout
    assert len(bench.conductor.applied) == 1
    assert bench.conductor.replaced == [("galera-0", None), ("galera-0", "node1")]


def test_cloud_status_and_secret(bench: Bench) -> None:
    bench.conductor.statuses = [make_status(step="hello", waiting="the ramdisk", addresses=("10.77.0.20/24",))]
    said = bench.call("cloud", "status", "lab").stdout
    assert "galera-0" in said and "10.77.0.20/24" in said and "the ramdisk" in said
    assert "cloud lab is not ready yet" in said
    assert json.loads(bench.call("cloud", "status", "lab", "-o", "json").stdout)["members"][0]["step"] == "hello"
    assert bench.call("cloud", "secret", "lab", "galera_app_password").stdout == "s3cret\n"
    assert bench.call("cloud", "secret", "lab", "other").exit_code == 1


@pytest.mark.parametrize(
    ("member", "why"),
    [
        ({"state": "active", "generation": 3, "applied": 3}, None),
        ({"state": "active", "generation": 3, "heard": 3, "applied": 2}, "it is at it"),
        ({"state": "active", "generation": 3, "heard": 2, "applied": 2}, "it has not fetched it"),
        (
            {"state": "active", "generation": 3, "applied": 2, "waiting": "galera-1 changes"},
            "it waits: galera-1 changes",
        ),
        (
            {"state": "active", "generation": 3, "applied": 2, "failure": {"summary": "it rolled back"}},
            "it rolled back",
        ),
        ({"state": "deploying", "step": "storage"}, "it is deploying, at storage"),
    ],
)
def test_who_has_the_newest_generation_and_why_others_have_not(bench: Bench, member: Any, why: str | None) -> None:
    bench.conductor.statuses = [make_status(**member)]
    said = bench.call("config", "status", "lab").stdout
    assert said.startswith(f"{int(why is None)} of 1 have their newest generation in force\n")
    assert (why or "") in said
    found = json.loads(bench.call("config", "status", "lab", "-o", "json").stdout)
    assert [entry["why"] for entry in found["behind"]] == ([why] if why else [])


def test_events(bench: Bench) -> None:
    bench.conductor.event_list = [make_event(1, "it answers\x1b[2J", "node1"), make_event(2, "lab is ready")]
    lines = bench.call("events").stdout.splitlines()
    assert len(lines) == 2
    assert "node1" in lines[0] and "it answers" in lines[0] and "\x1b" not in lines[0]
    assert [event["id"] for event in json.loads(bench.call("events", "--since", "1", "-o", "json").stdout)] == [2]


def test_sweep_names_drift_and_the_dead(bench: Bench) -> None:
    bench.conductor.seen = [
        SweepResult(node="node2", power=Power.UNKNOWN, error=BmcSilent("no answer", where="10.77.1.12").to_dict()),
        SweepResult(node="node1", power=Power.OFF, drift={"expected": "on", "since": 1.0}),
    ]
    done = bench.call("node", "sweep")
    assert done.exit_code == 1
    assert "it was left on" in done.stdout and done.stdout.index("node1") < done.stdout.index("node2")
    assert "10.77.1.12" in done.stderr and "no answer" in done.stderr
    done = bench.call("node", "sweep", "-o", "json")
    assert done.exit_code == 1 and [row["node"] for row in json.loads(done.stdout)] == ["node1", "node2"]


def test_list_names_drift_and_controllers_that_do_not_answer(bench: Bench) -> None:
    error = BmcSilent("no answer", where="10.77.1.12").to_dict()
    bench.conductor.node_list = [
        make_node("node1", power=Power.OFF, drift={"expected": "on", "since": 1.0}),
        make_node("node2", power=Power.ON, bmc_error=error),
    ]
    done = bench.call("node", "list")
    assert "off (was left on)" in done.stdout and "on (no answer now)" in done.stdout
    assert "no answer" in done.stderr


def test_a_controllers_other_verbs(bench: Bench) -> None:
    conductor = bench.conductor
    assert "the next time" in bench.call("node", "boot-device", "node1", "pxe").stdout
    assert "from now on" in bench.call("node", "boot-device", "node1", "disk", "--persistent").stdout
    assert "for 60 s" in bench.call("node", "identify", "node1", "--seconds", "60").stdout
    assert "is off" in bench.call("node", "identify", "node1", "--off").stdout
    assert bench.call("node", "identify", "node1").exit_code == 0
    assert bench.call("node", "power", "node1", "soft").exit_code == 0
    assert conductor.powers == [
        ("node1", "boot pxe False"), ("node1", "boot disk True"), ("node1", "light 60"), ("node1", "light 0"),
        ("node1", "light None"), ("node1", "soft"),
    ]  # fmt: skip


def test_what_a_controller_reads_is_shown(bench: Bench) -> None:
    bench.conductor.readings = {
        "sensors": [{"name": "CPU", "kind": "temperature", "value": 41, "unit": "C", "health": "ok"}],
        "log": [],
        "inventory": {"System": {"Serial": "ABC\x1b[2J"}},
    }
    assert "CPU" in bench.call("node", "sensors", "node1").stdout
    assert "has no log" in bench.call("node", "log", "node1").stdout
    shown = bench.call("node", "inventory", "node1").stdout
    assert "ABC" in shown and "\x1b" not in shown
    assert json.loads(bench.call("node", "sensors", "node1", "-o", "json").stdout)[0]["value"] == 41


def test_credentials_are_rotated_one_by_one_and_failures_named(bench: Bench) -> None:
    done = bench.call("node", "rotate-credentials", "node1", "nobody")
    assert done.exit_code == 1
    assert "node1: a new password" in done.stdout and "nobody" in done.stderr
    assert bench.call("node", "rotate-credentials", "--all", "-o", "json").exit_code == 0
    assert bench.call("node", "rotate-credentials").exit_code == 64


def test_an_audit_names_risk_reason_and_what_mends_it(bench: Bench) -> None:
    finding = AuditFinding(check="cipher-zero", risk="high", summary="anyone", cause="tried", mend="ipmitool lan set")
    bench.conductor.audits = [AuditResult(node="node1", findings=(finding,)), AuditResult(node="node2")]
    done = bench.call("node", "audit")
    assert done.exit_code == 1
    assert "node1: high: anyone [cipher-zero]" in done.stdout and "mend: ipmitool lan set" in done.stdout
    assert "node2: nothing found" in done.stdout
    assert bench.call("node", "audit", "node2").exit_code == 0
    assert json.loads(bench.call("node", "audit", "-o", "json").stdout)[0]["findings"][0]["check"] == "cipher-zero"


def test_a_scan_writes_a_hardware_file_of_what_is_new_and_enrolls_it(bench: Bench) -> None:
    secret, target = bench.folder / "secret", bench.folder / "rack-b.yaml"
    secret.write_text("S3cret\n")
    secret.chmod(0o600)
    bench.conductor.scans = [
        ScanResult(address="10.0.4.11", drivers=("redfish", "ipmi")),
        ScanResult(address="10.0.4.12", drivers=("ipmi",), node="node1"),
    ]
    words = ("node", "enroll", "--scan", "10.0.4.0/24", "--username", "admin", "--password-file", str(secret))
    done = bench.call(*words, "--to", str(target))
    assert done.exit_code == 0, done.output
    assert "10.0.4.12" in done.stderr and "is node1" in done.stderr
    (item,) = bench.conductor.enrolled
    assert (item.spec.name, item.spec.bmc.driver, item.spec.ports) == ("bmc-10-0-4-11", "redfish", ())
    assert "S3cret" not in target.read_text() + done.output
    assert bench.call(*words, "--to", str(target)).exit_code == 64
    bench.conductor.scans = []
    nothing = bench.call(*words, "--to", str(bench.folder / "other.yaml"))
    assert nothing.exit_code == 1 and "nothing answered" in nothing.stderr
    assert bench.call("node", "enroll", "--scan", "10.0.4.0/24").exit_code == 64
    assert bench.call("node", "enroll").exit_code == 64


def test_rebuild_and_maintenance(bench: Bench) -> None:
    bench.conductor.node_list = [make_node(state=NodeState.ACTIVE)]
    assert bench.call("node", "rebuild", "node1", "--image", "web-1").stdout == "node1 is active\n"
    assert bench.conductor.rebuilt == [("node1", "web-1")]
    said = bench.call("node", "maintenance", "node1", "--reason", "a fan")
    assert said.stdout == "node1 is active and in maintenance\n"
    assert bench.call("node", "maintenance", "node1", "--off").stdout == "node1 is active\n"
    assert bench.conductor.maintained == [("node1", "a fan"), ("node1", None)]
    assert bench.call("node", "maintenance", "node1").exit_code == 64
    assert bench.call("node", "maintenance", "node1", "--off", "--reason", "x").exit_code == 64
    maintenance = {"reason": "a fan", "since": 1.0}
    bench.conductor.node_list = [make_node(state=NodeState.ACTIVE, maintenance=maintenance)]
    assert "active (maintenance)" in bench.call("node", "list").stdout
    assert "a fan" in bench.call("node", "show", "node1").stdout


def test_a_report_names_the_step_that_is_out_of_line(bench: Bench) -> None:
    bench.conductor.node_list = [make_node()]
    said = bench.call("deployment", "report", "node1").stdout
    assert "write-image" in said and "3.0 ×" in said and "out of line" in said
    assert "node1: it is slow" in said and "\x1b" not in said
    assert json.loads(bench.call("deployment", "report", "node1", "-o", "json").stdout)["siblings"] == 3


def test_rescue_and_back(bench: Bench, tmp_path: Path) -> None:
    key = tmp_path / "key.pub"
    key.write_text("ssh-ed25519 AAAA me@desk\n\n")
    bench.conductor.node_list = [make_node(state=NodeState.ACTIVE)]
    assert bench.call("node", "rescue", "node1", "--key", str(key), "--no-wait").exit_code == 0
    assert bench.call("node", "rescue", "node1", "--off", "--no-wait").stdout == "node1 is active\n"
    assert bench.conductor.rescued == [("node1", ("ssh-ed25519 AAAA me@desk",)), ("node1", None)]
    wrong = bench.call("node", "rescue", "node1", "--off", "--key", str(key))
    assert wrong.exit_code == 64 and "--off takes no --key" in wrong.stderr
