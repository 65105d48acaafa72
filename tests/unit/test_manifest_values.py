"""Layered values: every file in cases/values, what members share, and what is kept of where values come from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from casefile import parse_case, split_case

from provisioner.errors import ManifestError, NotFound
from provisioner.manifest.cloud import parse_roles
from provisioner.manifest.elements import ElementText
from provisioner.manifest.explain import choose_explained, explain_values, find_place
from provisioner.manifest.layer import parse_layer
from provisioner.manifest.values import Values, whole_roles
from provisioner.metadata.build import build_metadata, build_role, needed_secrets, read_shared
from provisioner.model.deployment import Address, Placement
from provisioner.model.role import Desired
from provisioner.model.values import Explained
from provisioner_agent.protocol.parts import part_id, write_part
from provisioner_agent.render.problem import RenderError
from provisioner_agent.render.tree import build_data

CASES = sorted((Path(__file__).parent / "cases" / "values").glob("*.case"))
EXPECT = "expect/"


def read(name: str) -> Desired:
    files = split_case(next(case for case in CASES if case.stem == name).read_text())
    return parse_case({path: text for path, text in files.items() if not path.startswith(EXPECT)})


def lines_of(explained: list[Explained]) -> Iterator[str]:
    for one in explained:
        yield f"{one.key} = {json.dumps(one.value) if one.known else '(none)'}"
        for said in one.said:
            yield f"  {'*' if said.counts else ' '} {said.layer} {said.place} {json.dumps(said.value)}"


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(case: Path) -> None:
    files = split_case(case.read_text())
    expected = {path: files.pop(path) for path in list(files) if path.startswith(EXPECT)}
    desired = parse_case(files)
    kept = Desired.model_validate_json(desired.model_dump_json())
    for path, text in expected.items():
        role, zone, node = (word.replace("-", "") for word in path.removeprefix(EXPECT).split("/"))
        assert list(lines_of(explain_values(desired, role, zone, node))) == text.splitlines(), path
        assert explain_values(kept, role, zone, node) == explain_values(desired, role, zone, node)
        values = Values(desired).of(role, zone, node).values
        for one in explain_values(desired, role, zone, node):
            assert dig(values, one.key) == (one.value if one.known else None)


def dig(values: object, key: str) -> object:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def test_members_with_the_same_layers_share_one_part() -> None:
    values = Values(read("layers"))

    def part(zone: str, node: str, role: str = "db") -> str:
        return part_id(write_part(build_role(read("layers"), values.of(role, zone, node), ())))

    assert part("", "n7") == part("", "n8") == part("nowhere", "n9")
    assert part("a", "n7") == part("a", "n8") != part("", "n7")
    assert part("", "n1") not in (part("", "n7"), part("a", "n1"))
    assert part("a", "n1", "web") == part("a", "n2", "web"), "what a node is told of others' values is nothing of it"


def test_each_mixture_of_layers_is_merged_once() -> None:
    """A plan of a thousand nodes must not merge a thousand times."""
    values = Values(read("layers"))
    assert len({id(values.of("db", "a", f"node{number}")) for number in range(1000)}) == 1
    assert values.of("db", "a", "n1") is not values.of("db", "a", "node1")


def test_what_was_kept_before_there_were_layers_still_says_the_same() -> None:
    """A cloud as an older program kept it: defaults in the role, no element, zone or origin."""
    old = {
        "cloud": {
            "cloud": "lab",
            "networks": {"main": {"cidr": "10.0.0.0/24", "pool": "10.0.0.20-10.0.0.60"}},
            "roles": {"db": {"count": 1, "values": {"db": {"size": "2M", "more": {"x": 1}}, "free": None}}},
        },
        "roles": {
            "db": {
                "role": "db",
                "image": {"elements": ["db"]},
                "networks": ["main"],
                "config": {"values": {"db": {"size": "1M", "list": [1], "more": {}}, "free": 3}},
            }
        },
        "places": {"roles.db": "cloud.yaml:4"},
    }
    desired = Desired.model_validate(old)
    found = Values(desired).of("db", "rack-a", "n1")
    assert found.values["db"] == {"size": "2M", "list": [1], "more": {"x": 1}}
    sizes = next(one for one in explain_values(desired, "db", "", "n1") if one.key == "db.size")
    assert [(said.layer, said.place) for said in sizes.said] == [("role db", ""), ("cloud, role db", "")]


def test_a_schema_is_kept_as_short_as_it_was_written() -> None:
    desired = read("strategies")
    kept = desired.model_dump(mode="json")["schemas"]["e"]
    assert kept["properties"]["e"]["properties"]["behind"] == {"type": "array", "default": ["a"], "merge": "append"}
    assert Desired.model_validate(desired.model_dump(mode="json")) == desired


def test_secrets_are_in_the_nodes_own_metadata_alone() -> None:
    desired = read("secrets")
    mixture = Values(desired).of("web")
    assert needed_secrets(desired, mixture) == ("made", "brought")
    part = build_role(desired, mixture, ())
    assert part["values"] == {"e": {"keys": ["plain", None], "vault": {"secret": "no reference"}}, "own": {}}
    assert read_shared(part)["values"] == mixture.values, "a plan compares what the files say"
    address = Address(network="main", address="10.0.0.20/24", mac="02:00:00:00:00:01", interface="port0")
    placement = Placement(
        cloud="lab", role="web", index=0, hostname="web-0", node="n7", image="web-1", addresses=(address,)
    )
    document = build_metadata(desired, placement, [placement], "u", {"made": "m4de", "brought": "br0ught"}, 1)
    data = build_data(document)
    assert data["e"]["keys"] == ["plain", "m4de"] and data["e"]["password"] == "br0ught"
    assert data["e"]["vault"] == {"secret": "no reference"} and data["own"]["key"] == "m4de"
    assert "m4de" not in json.dumps({key: value for key, value in document.items() if key != "secrets"})
    with pytest.raises(RenderError, match="refers to a secret that is not there: 'brought'"):
        build_data(document | {"secrets": {"made": "m4de"}})


def test_a_role_alone_has_the_defaults_of_its_elements() -> None:
    """So that its image can be tried without any cloud; by way of the cloud's file or the role's alone."""
    files = split_case(next(case for case in CASES if case.stem == "layers").read_text())
    texts = {
        "db": ElementText("db.yaml", files["elements/db/values.yaml"], ("log",)),
        "log": ElementText("log.yaml", files["elements/log/values.yaml"]),
    }
    alone = parse_roles({"db.yaml": files["db.yaml"]}, texts)["db"]
    assert alone.config.values == {
        "db": {"connections": 100, "size": "2M"},
        "log": {"level": "info"},
        "own": {"port": 1, "host": "h"},
    }
    assert whole_roles(read("layers"))["db"] == alone


def test_a_key_that_no_layer_knows() -> None:
    explained = explain_values(read("layers"), "db", "", "n1")
    assert [one.key for one in choose_explained(explained, "own", "db-0")] == ["own.host", "own.port"]
    with pytest.raises(NotFound, match=r"there is no value db\.conections") as caught:
        choose_explained(explained, "db.conections", "db-0")
    assert caught.value.hint == "did you mean 'db.connections'?"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"a: {'[' * 3000}{']' * 3000}", "more than 100 maps and lists are within each other"),
        (f"a: {'[' * 200}{']' * 200}", "more than 100 maps and lists are within each other"),
        (f"a: [{'1,' * 100_001}]", "the document has more than 100000 parts"),
        (f"a: {'1' * 5000}", "cannot be read as int"),
    ],
    ids=["deeper than python", "deeper than pydantic", "large", "digits"],
)
def test_a_document_that_nobody_wrote_by_hand_is_refused(text: str, what: str) -> None:
    with pytest.raises(ManifestError, match=what):
        parse_layer("cloud.yaml", text)


def test_what_is_gone_with_a_map_that_is_replaced_is_gone_because_of_that() -> None:
    desired, values = read("taken-away"), Values(read("taken-away"))

    def place(*path: str | int) -> str | None:
        return find_place(desired, values.layers("db", "", "n1"), values.rule("db"), path)

    assert place("db", "limits", "users") == place("db", "limits", "files") == "cloud.yaml:6"
    assert place("db", "mode") == "cloud.yaml:8"
    assert place("db", "size", 3, "x") is None
