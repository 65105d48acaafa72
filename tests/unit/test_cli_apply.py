"""``plan`` and ``apply`` against a service with a fake conductor: exit codes, lines of progress, tables, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from served import FakeConductor, make_deploy, make_deployment, make_status, served

from provisioner.cli.main import main
from provisioner.cli.options import Options
from provisioner.cli.progress import LiveFace, PlainFace, phase_seconds
from provisioner.errors import DeployError
from provisioner.model.plan import Plan
from provisioner.system.clock import FakeClock

ROLE = """\
role: galera
image: {elements: [galera]}
networks: [main]
"""
CLOUD = """\
cloud: lab
networks:
  main: {cidr: 10.77.0.0/24, pool: 10.77.0.20-10.77.0.60}
roles:
  galera: {count: 1}
"""


class Bench:
    def __init__(self, conductor: FakeConductor, folder: Path) -> None:
        self.conductor = conductor
        self.folder = folder
        self.clock = FakeClock()
        self.config = folder / "provisioner.conf"
        self.config.write_text(f"[DEFAULT]\nrun_dir = {folder}\nstate_dir = {folder}\nsource_dir = {folder}\n")
        (folder / "roles").mkdir()
        (folder / "roles" / "galera.yaml").write_text(ROLE)
        self.cloud = folder / "cloud.yaml"
        self.cloud.write_text(CLOUD)

    def call(self, *words: str) -> Result:
        options = Options(clock=self.clock)
        return CliRunner().invoke(main, ["--config", str(self.config), *words], obj=options)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    conductor = FakeConductor()
    with served(conductor, tmp_path / "api.sock"):
        yield Bench(conductor, tmp_path)


def test_plan_ends_with_0_for_nothing_and_2_for_changes(bench: Bench) -> None:
    done = bench.call("plan", str(bench.cloud))
    assert done.exit_code == 0, done.output
    assert "Nothing to change" in done.stdout
    bench.conductor.actions = (make_deploy(),)
    done = bench.call("plan", str(bench.cloud))
    assert done.exit_code == 2
    assert "node1" in done.stdout and "1 to deploy" in done.stdout
    shown = json.loads(bench.call("plan", str(bench.cloud), "-o", "json").stdout)
    assert shown["actions"][0]["placement"]["node"] == "node1"
    assert bench.conductor.applied == []


def test_a_saved_plan_is_applied_exactly(bench: Bench) -> None:
    bench.conductor.actions = (make_deploy(),)
    saved = bench.folder / "friday.json"
    assert bench.call("plan", str(bench.cloud), "--out", str(saved)).exit_code == 2
    bench.conductor.actions = ()
    bench.cloud.unlink()
    done = bench.call("apply", str(saved))
    assert done.exit_code == 0, done.output
    assert bench.conductor.applied == [Plan.model_validate_json(saved.read_text())]
    assert bench.conductor.applied[0].actions == (make_deploy(),)


def test_a_file_that_is_no_plan(bench: Bench) -> None:
    path = bench.folder / "no.json"
    path.write_text('{"cloud": 5}')
    done = bench.call("apply", str(path))
    assert done.exit_code == 64
    assert str(path) in done.stderr and "plan CLOUD.yaml --out" in done.stderr


def test_bad_manifests_are_refused_with_file_and_line_before_the_service_hears_of_them(bench: Bench) -> None:
    bench.cloud.write_text(CLOUD.replace("galera:", "galerra:") + "memori: 1\n")
    done = bench.call("apply", str(bench.cloud))
    assert done.exit_code == 1
    assert "cloud.yaml:5" in done.stderr and "galerra" in done.stderr
    assert "cloud.yaml:6" in done.stderr and "memori" in done.stderr
    assert bench.conductor.applied == []
    done = bench.call("plan", str(bench.folder / "none.yaml"))
    assert done.exit_code == 64 and "none.yaml" in done.stderr


def test_roles_beside_the_cloud_file_come_first(bench: Bench) -> None:
    beside = bench.folder / "there"
    (beside / "roles").mkdir(parents=True)
    (beside / "roles" / "galera.yaml").write_text(ROLE + "description: the one beside\n")
    (beside / "cloud.yaml").write_text(CLOUD)
    shown = json.loads(bench.call("plan", str(beside / "cloud.yaml"), "-o", "json").stdout)
    assert shown["desired"]["roles"]["galera"]["description"] == "the one beside"


def writing(done: int) -> dict[str, object]:
    """With what the service notes for itself."""
    said: dict[str, object] = {"bytes": done, "total": 400_000_000, "rate": 30_000_000.0, "remaining": 10.0}
    return said | {"fetch": 185_000_000, "resumed": 1_795_393_481.5}


def test_progress_lines_and_the_closing_tables(bench: Bench) -> None:
    bench.conductor.actions = (make_deploy(),)
    bench.conductor.deployments["node1"] = make_deployment()
    bench.conductor.statuses = [
        make_status(step="hello"),
        make_status(step="hello"),
        *(make_status(step="write-image", detail=writing(30_000_000 * second)) for second in range(1, 14)),
        make_status(step="probe", waiting="the node's own probe"),
        make_status(ready=True, state="active", generation=1, applied=1, healthy=True),
    ]
    done = bench.call("apply", str(bench.cloud), "--wait")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if " s  node1" in line]
    assert [line.split()[4].rstrip(",") for line in lines] == ["hello", "write-image", "write-image", "probe", "active"]
    assert lines[1].endswith("30 of 400 MB, 30.0 MB/s, 10 s left")
    assert float(lines[2].split()[0]) - float(lines[1].split()[0]) == 10.0
    assert "waits: the node's own probe" in lines[3]
    table = done.stdout.splitlines()[-8:]
    assert any(line.startswith("node1") and "active" in line and "1 of 1" in line for line in table)
    phases = next(line for line in table if line.startswith("node1") and "active" not in line)
    assert phases.split() == ["node1", "10.0", "4.0", "2.0", "4.0", "4.0", "2.0", "2.0", "28.0"]
    assert table[-1].startswith("cloud lab is ready after ")


def test_nothing_to_change_says_so_and_ends_with_0(bench: Bench) -> None:
    done = bench.call("apply", str(bench.cloud))
    assert done.exit_code == 0
    assert "Nothing to change" in done.stdout
    assert done.stdout.splitlines()[-1] == "cloud lab is ready"


def test_a_failed_member_gives_cause_and_next_command(bench: Bench) -> None:
    failure = DeployError(
        "the disk holds something", where="node1", cause="vda: ext4", hint="add node1 to wipe in the cloud file"
    )
    bench.conductor.actions = (make_deploy(),)
    bench.conductor.statuses = [make_status(), make_status(failed=True, state="failed", failure=failure.to_dict())]
    done = bench.call("apply", str(bench.cloud))
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "error: the disk holds something",
        "where: node1",
        "why:   vda: ext4",
        "next:  add node1 to wipe in the cloud file",
    ]
    assert "cloud lab is failed after" in done.stdout


def test_a_deadline_that_passes_ends_with_3(bench: Bench) -> None:
    bench.conductor.actions = (make_deploy(),)
    bench.conductor.statuses = [make_status(step="hello")]
    done = bench.call("apply", str(bench.cloud), "--timeout", "30")
    assert done.exit_code == 3
    assert "not ready within 30 s" in done.stderr and "node1 hello" in done.stderr
    assert "next:  provisioner cloud status lab" in done.stderr


def test_a_member_that_somebody_takes_out_is_not_waited_for(bench: Bench) -> None:
    bench.conductor.actions = (make_deploy(),)
    gone = make_status().model_copy(update={"members": ()})
    bench.conductor.statuses = [make_status(step="hello"), gone]
    done = bench.call("apply", str(bench.cloud), "--wait")
    assert done.exit_code == 1
    assert "galera-0 was taken out of the cloud" in done.stderr and "where: node1" in done.stderr


def test_without_waiting(bench: Bench) -> None:
    bench.conductor.actions = (make_deploy(),)
    bench.conductor.statuses = [make_status(step="reserve")]
    done = bench.call("apply", str(bench.cloud), "--no-wait")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].endswith("provisioner cloud status lab")


def test_apply_as_json_keeps_progress_off_the_standard_output(bench: Bench) -> None:
    bench.conductor.actions = (make_deploy(),)
    bench.conductor.deployments["node1"] = make_deployment()
    bench.conductor.statuses = [make_status(step="hello"), make_status(ready=True, state="active")]
    done = bench.call("apply", str(bench.cloud), "-o", "json")
    data = json.loads(done.stdout)
    assert data["status"]["ready"] and data["plan"]["actions"][0]["kind"] == "deploy"
    assert data["phases"]["node1"]["image"] == 2.0
    assert "hello" in done.stderr


def test_a_service_that_goes_away_and_stays_away(tmp_path: Path) -> None:
    conductor = FakeConductor()
    conductor.actions = (make_deploy(),)
    conductor.statuses = [make_status(step="hello")]
    socket = tmp_path / "api.sock"
    with served(conductor, socket):
        bench = Bench(conductor, tmp_path)
        looks = iter(range(100))

        class Ending(FakeClock):
            def sleep(self, seconds: float) -> None:
                super().sleep(seconds)
                if next(looks) == 2:
                    socket.unlink()

        bench.clock = Ending()
        done = bench.call("apply", str(bench.cloud))
    assert done.exit_code == 1
    assert "error: the service does not answer" in done.stderr
    assert 15 <= bench.clock.now() - FakeClock().now() <= 25


def test_roles_are_said_when_they_change() -> None:
    said: list[str] = []
    face = PlainFace(said.append)
    waiting = make_status(state="active").model_copy(update={"roles": {"galera": "cluster size 2 of 3"}})
    face.show(waiting, 1.0)
    face.show(waiting, 2.0)
    face.show(waiting.model_copy(update={"roles": {"galera": "ready"}}), 3.0)
    assert [line.split("role ")[1] for line in said if "role" in line] == [
        "galera: cluster size 2 of 3",
        "galera: ready",
    ]


def test_the_live_face_shows_step_bytes_rate_and_rest() -> None:
    console = Console(record=True, width=150, force_terminal=True)
    face = LiveFace(console)
    face.show(make_status(step="write-image", detail=writing(30_000_000), seconds=7.25), 12.0)
    face.close()
    said = console.export_text()
    assert "write-image" in said and "30 of 400 MB, 30.0 MB/s, 10 s left" in said and "7.2" in said


def test_phases_that_are_not_over_are_left_out() -> None:
    deployment = make_deployment()
    begun = deployment.model_copy(update={"steps": deployment.steps[:6]})
    assert phase_seconds(begun) == {"boot": 10.0}
