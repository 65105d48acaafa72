"""``config render NODE`` and ``config diff`` against a service with a fake conductor."""

from __future__ import annotations

import json

from test_cli_apply import Bench, bench  # noqa: F401  the fixture

from provisioner.model.config import ConfigDiff, FileDiff, InstanceFile, InstanceFiles, MemberName, MembersDiff
from provisioner.model.plan import FileChange

CHANGE = FileChange(path="/etc/a", services={"a.service": "reload"}, confirm=True)
DIFF = ConfigDiff(
    before="generation 3, in force",
    after="generation 4",
    changes=(
        MembersDiff(
            members=(MemberName(node="node1", hostname="galera-0"),),
            files=(
                FileDiff(change=CHANGE, lines=("--- /etc/a", "+++ /etc/a", "@@ -1 +1 @@", "-x", "+y\x1b[31m")),
                FileDiff(change=FileChange(path="/etc/key"), sensitive=True),
            ),
        ),
    ),
    notes=("a note",),
)


def test_the_files_of_a_node(bench: Bench) -> None:  # noqa: F811
    shown = {"path": "/etc/a", "mode": "0640", "owner": "root", "group": "mysql"}
    files = (
        InstanceFile(**shown, services={"a.service": "reload"}, content="x\x1b\n"),  # type: ignore[arg-type]
        InstanceFile(**shown | {"path": "/etc/key"}),  # type: ignore[arg-type]
    )
    bench.conductor.files = InstanceFiles(
        node="node1", hostname="galera-0", image="galera-1", generation=4, files=files
    )
    done = bench.call("config", "render", "node1")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "galera-0 on node1: generation 4, templates of galera-1",
        "",
        "== /etc/a  0640 root:mysql  (a.service: reload)",
        "x\N{REPLACEMENT CHARACTER}",
        "",
        "== /etc/key  0640 root:mysql",
        "(not shown: sensitive)",
    ]
    found = json.loads(bench.call("config", "render", "node1", "-o", "json").stdout)
    assert [file["content"] for file in found["files"]] == ["x\x1b\n", None]
    done = bench.call("config", "render", "node9")
    assert done.exit_code == 1 and "no such node" in done.stderr


def test_a_cloud_file_without_a_member_is_no_node(bench: Bench) -> None:  # noqa: F811
    done = bench.call("config", "render", str(bench.cloud))
    assert done.exit_code == 64 and "MEMBER-OR-ROLE" in done.stderr


def test_a_diff_ends_with_2_and_without_one_with_0(bench: Bench) -> None:  # noqa: F811
    done = bench.call("config", "diff", "node1")
    assert (done.exit_code, done.stdout) == (0, "No file differs.\n")
    bench.conductor.diff = DIFF.model_copy(update={"changes": ()})
    done = bench.call("config", "diff", "node1")
    assert (done.exit_code, done.stdout) == (2, "note: a note\n"), "nobody can say that nothing changes"
    bench.conductor.diff = DIFF
    done = bench.call("config", "diff", "node1")
    assert done.exit_code == 2
    assert done.stdout.splitlines() == [
        "from: generation 3, in force; to: generation 4",
        "",
        "== galera-0 on node1",
        "writes /etc/a; reloads a.service; taken back unless the server is heard again",
        "--- /etc/a",
        "+++ /etc/a",
        "@@ -1 +1 @@",
        "-x",
        "+y\N{REPLACEMENT CHARACTER}[31m",
        "writes /etc/key",
        "(not shown: sensitive)",
        "note: a note",
    ]
    assert ConfigDiff.model_validate_json(bench.call("config", "diff", "node1", "-o", "json").stdout) == DIFF


def test_a_diff_of_a_cloud_file_of_all_and_of_one(bench: Bench) -> None:  # noqa: F811
    many = tuple(MemberName(node=f"node{n}", hostname=f"galera-{n}") for n in range(5))
    left_out = FileDiff(change=FileChange(path="/etc/b"), left_out=True)
    bench.conductor.diff = DIFF.model_copy(update={"changes": (MembersDiff(members=many, files=(left_out,)),)})
    done = bench.call("config", "diff", str(bench.cloud))
    assert done.exit_code == 2
    assert "== galera-0 … galera-4 (5)" in done.stdout and "name one member to see it" in done.stdout
    bench.call("config", "diff", str(bench.cloud), "galera-1")
    assert bench.conductor.diffed == [("lab", None), ("lab", "galera-1")]
    done = bench.call("config", "diff", "node1", "galera-1")
    assert done.exit_code == 64 and "CLOUD.yaml MEMBER" in done.stderr
