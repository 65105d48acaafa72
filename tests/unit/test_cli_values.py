"""``config explain`` and ``cloud secret --set-file``, and what they say to wrong words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from served import FakeConductor, make_node, served

from provisioner.cli.main import main
from provisioner.cli.options import Options

VALUES = """properties:
  db:
    properties:
      connections: {type: integer, default: 100, description: client connections}
      keys: {type: array, default: [a], x-merge: append}
      password: {type: string}
"""
CLOUD = """cloud: lab
networks: {main: {cidr: 10.0.0.0/24, pool: 10.0.0.20-10.0.0.60}}
roles:
  db:
    count: 2
    nodes: [n1, n2]
    values: {db: {password: {secret: word}}}
nodes:
  n1:
    values:
      db: {keys: [c]}
"""


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cloud = folder / "cloud.yaml"
        self.config = folder / "provisioner.conf"
        self.config.write_text(f"[DEFAULT]\nrun_dir = {folder}\nstate_dir = {folder}\nsource_dir = {folder}\n")
        for path, text in {
            "cloud.yaml": CLOUD,
            "roles/db.yaml": "role: db\nimage: {elements: [db], templates: [db]}\nnetworks: [main]\nsecrets: [word]\n",
            "zones/east.yaml": "zone: east\nvalues:\n  db: {connections: 200, keys: [b]}\n",
            "elements/db/values.yaml": VALUES,
            "templates/db/etc/db": "{{db.connections}} {{db.password}}\n",
        }.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)

    def call(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["--config", str(self.config), *words], obj=Options())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def conductor(bench: Bench) -> Iterator[FakeConductor]:
    conductor = FakeConductor()
    conductor.node_list = [make_node()]
    with served(conductor, bench.folder / "api.sock"):
        yield conductor


def test_every_layer_of_a_value_is_named(bench: Bench) -> None:
    done = bench.call("config", "explain", str(bench.cloud), "db-0", "--zone", "east")
    assert done.exit_code == 0, done.output
    here = bench.folder
    assert done.stdout == (
        "db-0 on n1 in zone east: role db of cloud lab\n"
        "\n"
        "db.connections = 200  # client connections\n"
        f"    element db  {here}/elements/db/values.yaml:4  100\n"
        f"  * zone east   {here}/zones/east.yaml:3  200\n"
        "\n"
        'db.keys = ["a", "b", "c"]\n'
        f'  * element db  {here}/elements/db/values.yaml:5  ["a"]\n'
        f'  * zone east   {here}/zones/east.yaml:3  ["b"]\n'
        f'  * node n1     {here}/cloud.yaml:11  ["c"]\n'
        "    the layers of this list come together by: append\n"
        "\n"
        "db.password = (secret word)\n"
        f"  * cloud, role db  {here}/cloud.yaml:7  (secret word)\n"
    )
    other = bench.call("config", "explain", str(bench.cloud), "db-1", "db.keys", "-o", "json")
    shown = json.loads(other.stdout)
    assert (shown["node"], shown["zone"]) == ("n2", "")
    assert [(one["key"], one["value"], one["strategy"]) for one in shown["values"]] == [("db.keys", ["a"], "append")]


def test_what_is_not_there_is_said_with_what_is(bench: Bench) -> None:
    for words, said in (
        (("db-0", "db.conections"), "did you mean 'db.connections'?"),
        (("db-7",), "write one of: db, db-0, db-1"),
        (("db-0", "--zone", "aest"), "did you mean 'east'?"),
    ):
        done = bench.call("config", "explain", str(bench.cloud), *words)
        assert done.exit_code == 1 and said in done.stderr, done.output
    for words in ((str(bench.cloud),), (str(bench.cloud), "a", "b", "c"), ("n1", "a", "b"), ("n1", "--zone", "east")):
        assert bench.call("config", "explain", *words).exit_code == 64


def test_a_wrong_value_is_refused_before_any_service_hears_of_it(bench: Bench) -> None:
    bench.cloud.write_text(CLOUD.replace("{keys: [c]}", "{connections: many}"))
    for words in (("plan", str(bench.cloud)), ("config", "render", str(bench.cloud), "db-0")):
        done = bench.call(*words)
        assert done.exit_code == 1
        assert f'{bench.cloud}:11: nodes.n1.values.db.connections is "many", not a whole number\n' in done.stderr
        assert "the element db wants a whole number; by default 100" in done.stderr


def test_render_puts_a_placeholder_where_a_secret_goes(bench: Bench) -> None:
    done = bench.call("config", "render", str(bench.cloud), "db-1")
    assert done.exit_code == 0 and "100 (secret word)\n" in done.stdout


def test_a_role_may_lie_on_its_nodes_ports_in_any_way(bench: Bench) -> None:
    (bench.folder / "roles" / "db.yaml").write_text(
        "role: db\nimage: {elements: [db], templates: [db]}\nsecrets: [word]\nnetworks: [main, back, far]\n"
        "network:\n  links: {bond0: {bond: [fabric]}, br0: {bridge: [port4]}}\n  on: {main: bond0, far: br0}\n"
    )
    networks = CLOUD.replace(
        "{main: {", "{back: {cidr: 10.1.0.0/24, pool: 10.1.0.20-10.1.0.60}, "
        "far: {cidr: 10.2.0.0/24, pool: 10.2.0.20-10.2.0.60}, main: {"
    )  # fmt: skip
    bench.cloud.write_text(networks)
    for words in (("config", "explain"), ("config", "render")):
        done = bench.call(*words, str(bench.cloud), "db-1")
        assert done.exit_code == 0, done.output


def test_each_role_gets_the_nodes_that_were_thought_for_it(bench: Bench) -> None:
    """A role that asks for little does not take the node of one that asks for much."""
    for name, memory in (("small", 512), ("able", 4096)):
        needs = f"match: {{properties: {{memory_mib: {memory}}}}}\n"
        text = f"role: {name}\nimage: {{elements: [e]}}\nnetworks: [main]\n{needs}"
        (bench.folder / "roles" / f"{name}.yaml").write_text(text)
    bench.cloud.write_text("\n".join(CLOUD.splitlines()[:2]) + "\nroles: {small: {count: 1}, able: {count: 1}}\n")
    for member in ("small-0", "able-0"):
        done = bench.call("config", "explain", str(bench.cloud), member)
        assert done.exit_code == 0, done.output


def test_a_value_that_is_required_and_given_by_nobody(bench: Bench) -> None:
    values = bench.folder / "elements" / "db" / "values.yaml"
    values.write_text(VALUES.replace("  db:\n", "  db:\n    required: [password]\n"))
    assert bench.call("config", "render", str(bench.cloud), "db-1").exit_code == 0
    bench.cloud.write_text(CLOUD.replace("    values: {db: {password: {secret: word}}}\n", ""))
    done = bench.call("config", "render", str(bench.cloud), "db-1")
    assert done.exit_code == 1
    assert "cloud.yaml:4: db needs a value db.password\n" in done.stderr
    assert "write it under roles.db.values" in done.stderr


def test_a_value_that_is_for_one_member_alone(bench: Bench) -> None:
    values = bench.folder / "elements" / "db" / "values.yaml"
    values.write_text(VALUES + "      shared: {type: boolean, default: false, x-alone: [false]}\n")
    done = bench.call("config", "render", str(bench.cloud), "db-0")
    assert done.exit_code == 1
    said = f"{bench.cloud}:5: db has 2 members, and db.shared is false, which is for one\n"
    assert said in done.stderr and "write another under roles.db.values, or count: 1" in done.stderr
    for text in (
        CLOUD.replace("count: 2", "count: 1"),
        CLOUD.replace("{password: {secret: word}}", "{shared: true, password: {secret: word}}"),
    ):
        bench.cloud.write_text(text)
        done = bench.call("config", "render", str(bench.cloud), "db-0")
        assert done.exit_code == 0, done.output


def test_an_address_that_a_pool_may_give_to_a_node(bench: Bench) -> None:
    values = bench.folder / "elements" / "db" / "values.yaml"
    inside = "is 10.0.0.25, which the network main may give to a node"
    cases = {
        "front: 10.0.0.25": f"db.front {inside}",
        "front: 10.0.0.025": "db.front is '10.0.0.025', which is no address",
        "front: 10.0.0.5/24": "db.front is '10.0.0.5/24', which is no address",
        "fronts: [10.0.0.5, 10.0.0.25]": f"db.fronts[1] {inside}",
        "front: 10.0.0.5": "",
        "front: '2001:db8::5'": "",
        "front: db.example": "",
        "fronts: [10.0.0.5]": "",
    }
    rule = "{type: string, x-outside-pools: true}"
    values.write_text(f"{VALUES}      front: {rule}\n      fronts: {{type: array, items: {rule}}}\n")
    for given, said in cases.items():
        bench.cloud.write_text(CLOUD.replace("{password: {secret", f"{{{given}, password: {{secret"))
        done = bench.call("config", "render", str(bench.cloud), "db-0")
        assert done.exit_code == (1 if said else 0), done.output
        assert not said or f"{bench.cloud}:7: {said}" in done.stderr, done.stderr
        assert inside not in said or "outside of its pool 10.0.0." in done.stderr


def test_a_node_on_record(bench: Bench, conductor: FakeConductor) -> None:
    done = bench.call("config", "explain", "node1", "galera.max_connections")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "galera-0 on node1 in zone east: role galera of cloud lab"
    assert "  * node node1      cloud.yaml:9  300" in done.stdout
    assert bench.call("config", "explain", "node7").exit_code == 1
    done = bench.call("config", "explain", "node1", "galera.max")
    assert done.exit_code == 1 and "galera.max_connections" in done.stderr


def test_a_secret_is_stored_from_a_file_that_others_cannot_read(bench: Bench, conductor: FakeConductor) -> None:
    file = bench.folder / "word"
    file.write_text("0pen sesame\n")
    file.chmod(0o644)
    done = bench.call("cloud", "secret", "lab", "word", "--set-file", str(file))
    assert done.exit_code == 64 and "chmod 0600" in done.stderr and conductor.secrets == {}
    file.chmod(0o600)
    done = bench.call("cloud", "secret", "lab", "word", "--set-file", str(file))
    assert (done.exit_code, done.stdout) == (0, "stored word of lab\n"), done.output
    done = bench.call("cloud", "secret", "other", "word", "--set-file", str(file))
    assert done.stdout == "stored word of other; there is no cloud other on record yet\n"
    assert conductor.secrets == {("lab", "word"): "0pen sesame", ("other", "word"): "0pen sesame"}
    for text in ("", "\n", "x" * 70_000):
        file.write_text(text)
        done = bench.call("cloud", "secret", "lab", "word", "--set-file", str(file))
        assert done.exit_code == 64 and "write the secret there, mode 0600" in done.stderr
    assert "sesame" not in repr(conductor.observed)


def test_a_secret_that_is_not_shown_is_of_the_type_that_a_tag_asks_for(bench: Bench) -> None:
    (bench.folder / "templates/db/etc/db").write_text("{{db.password:dsn}}\n")
    done = bench.call("config", "render", str(bench.cloud), "db-0")
    assert done.exit_code == 0 and "(secret word)" in done.stdout
    bench.cloud.write_text(bench.cloud.read_text().replace("{secret: word}", "word"))
    done = bench.call("config", "render", str(bench.cloud), "db-0")
    assert done.exit_code == 1 and "is not of the type dsn" in done.output


def test_nodes_that_the_file_only_lets_overwrite_or_accepts_are_thought_too(bench: Bench) -> None:
    written = bench.cloud.read_text().replace("nodes: [n1, n2]", "wipe: [n7]\n    accept: {n8: [disk]}")
    bench.cloud.write_text(written)
    for command in ("explain", "render"):
        done = bench.call("config", command, str(bench.cloud), "db-1")
        assert done.exit_code == 0, done.output
