"""The files of many nodes at once are those that the config agent would write on each, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioner.metadata.template import Member
from provisioner.metadata.trees import Shared, Tree
from provisioner_agent.protocol.parts import join_parts
from provisioner_agent.render import tree as agent
from provisioner_agent.render.problem import RenderError

NAMES = (
    "a", "a.b", "a.b.c", "b", "c", "list", "self", "hostname", "address", "index", ".", "members", "members.web",
    "members.db", "web", "node", "node.hostname", "node.addresses", "node.name", "secrets.p", "secrets", "role.count",
    "role.members",
    "cloud", "self.x",
)  # fmt: skip
WORDS = st.sampled_from(("", "x", "\n", " \n", "{", "a b", "\t", "\r\n", "ü", "<&>"))
NAME = st.sampled_from(NAMES)
MARK = st.sampled_from(("", "?", "?", ":int", ":line?"))


def tag(name: str, mark: str, style: str) -> str:
    return style.replace("NAME", name + mark)


TAG = st.builds(
    tag, NAME, MARK, st.sampled_from(("{{NAME}}", "{{{NAME}}}", "{{& NAME }}", "{{! NAME }}", "\n{{!NAME}}\n"))
)


def section(name: str, mark: str, sigil: str, body: str, gap: str) -> str:
    return f"{{{{{sigil}{name}{mark}}}}}{gap}{body}{{{{/{name}{mark}}}}}{gap}"


TEMPLATE: st.SearchStrategy[str] = st.recursive(
    WORDS | TAG,
    lambda inner: (
        st.lists(inner, max_size=4).map("".join)
        | st.builds(section, NAME, MARK, st.sampled_from("##^"), inner, st.sampled_from(("", "\n")))
        | inner.map(lambda text: "{{=<% %>=}}" + text.replace("{{", "<%").replace("}}", "%>") + "<%={{ }}=%>")
    ),
    max_leaves=12,
)
PLAIN = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2) | st.sampled_from(("", "t", "{{a}}", "0"))
VALUE: st.SearchStrategy[Any] = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("a", "b", "c", "self", "web", "hostname")), inner, max_size=3)
    ),
    max_leaves=6,
)
VALUES = st.dictionaries(st.sampled_from(("a", "b", "c", "list", "self", "web")), VALUE, max_size=5)
HOSTS = ("web-0", "web-1", "db-0")


@st.composite
def metadata(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(the parts, each node's own)."""
    count = draw(st.integers(0, 3))
    told = [
        {"hostname": HOSTS[number], "node": f"n{number}", "index": number, "address": f"10.0.0.{number}"}
        for number in range(count)
    ]
    members = {"web": [one for one in told if one["hostname"].startswith("web")], "db": told[2:]}
    role = {"cloud": {"name": "c"}, "values": draw(VALUES), "role": {"name": "web", "count": count}, "health": {}}
    role["references"] = draw(st.sampled_from(([], [], [[["a"], "p"]], [[["a"], "p"], [["c"], "p"]])))
    secrets = draw(st.sampled_from(({}, {"p": "word"}, {"p": "{{b}}"})))
    own = [
        {
            "generation": 3,
            "node": {"name": f"n{number}", "hostname": host, "index": number, "addresses": [{"address": number}]},
            "secrets": secrets,
            "permit": True,
            "parts": [],
        }
        for number, host in enumerate(HOSTS)
    ]
    return [role, {"members": members}], own


def as_agent(
    files: Mapping[str, str], parts: Sequence[Mapping[str, Any]], own: Mapping[str, Any], stand_ins: Sequence[str] = ()
) -> Any:
    try:
        return agent.render_tree(*agent.split_tree(files), agent.build_data(join_parts(own, parts)), stand_ins)
    except RenderError as error:
        return error.problems


def as_we(tree: Tree, shared: Shared, own: Mapping[str, Any]) -> Any:
    try:
        return tree.files(shared, own)
    except RenderError as error:
        return error.problems


@settings(max_examples=600, deadline=None)
@given(
    st.lists(TEMPLATE, min_size=1, max_size=3),
    metadata(),
    st.sampled_from(("", ', "lax": true', ', "allow_empty": false')),
    st.sampled_from(((), ("word", "t"))),
    st.sampled_from((0, 1)),
)
def test_files_are_those_of_the_agent(
    texts: list[str],
    told: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    lax: str,
    stand_ins: tuple[str, ...],
    mixtures: int,
) -> None:
    parts, owns = told
    for text in texts:  # each alone: one with a fault has all of its tree rendered by the agent's renderer
        files = {"etc/a": text, "etc/a.control": f'{{"mode": "0600", "services": {{"a.service": "reload"}}{lax}}}'}
        tree, shared = Tree(files, stand_ins, mixtures), Shared(parts)
        for own in owns:
            assert as_we(tree, shared, own) == as_agent(files, parts, own, stand_ins), text


PARTS = [
    {"values": {"port": 80, "peers": True}, "cloud": {"name": "c"}, "role": {"name": "web", "count": 2}},
    {"members": {"web": [{"hostname": f"web-{n}", "address": f"10.0.0.{n}"} for n in range(2)]}},
]


def own_of(host: str, **more: Any) -> dict[str, Any]:
    return {"generation": 1, "node": {"hostname": host, "address": "here"}, "secrets": {"p": "s"}, "parts": []} | more


@pytest.mark.parametrize(
    ("text", "on_the_first"),
    [
        ("{{port}} {{cloud.name}}", "80 c"),
        ("{{node.address}}", "here"),
        ("{{#members.web}}{{^self}}{{address}},{{/self}}{{/members.web}}", "10.0.0.1,"),
        ("{{#members.web}}{{address}}{{#self}} (me, {{node.address}}){{/self}};{{/members.web}}",
         "10.0.0.0 (me, here);10.0.0.1;"),
        ("{{#members.web}}{{self}} {{/members.web}}", "true false "),
        ("{{#members.web}}{{.}}{{/members.web}}",
         '{"hostname":"web-0","address":"10.0.0.0","self":true}'
         '{"hostname":"web-1","address":"10.0.0.1","self":false}'),
        ("{{#peers}}{{#members.web}}{{#self}}{{node.address}}{{/self}}{{/members.web}}{{/peers}}", "here"),
        ("{{role.name}}:{{#role.members}}{{^self}}{{address}},{{/self}}{{/role.members}}", "web:10.0.0.1,"),
        ("{{#secrets}}{{p}}{{/secrets}}{{^none?}}{{secrets.p}}{{/none}}", "ss"),
    ],
)  # fmt: skip
def test_what_differs_by_node_is_told_from_what_does_not(text: str, on_the_first: str) -> None:
    tree, shared = Tree({"a": text}), Shared(PARTS)
    assert tree.contents(shared, own_of("web-0")) == {"/a": on_the_first}
    for host in ("web-0", "web-1", "elsewhere"):
        assert tree.files(shared, own_of(host)) == as_agent({"a": text}, PARTS, own_of(host))


def test_what_all_nodes_have_is_made_once() -> None:
    tree, shared = Tree({"a": "{{#members.web}}{{address}} {{port}}\n{{/members.web}}"}), Shared(PARTS)
    one, two = (tree.contents(shared, own_of(host))["/a"] for host in ("web-0", "web-1"))
    assert one == "10.0.0.0 80\n10.0.0.1 80\n" and one is two


@pytest.mark.parametrize(
    "files",
    [
        {"a": "{{prot}}"},
        {"a": "x\n{{node.adress}}"},
        {"a": "{{#members.web}}{{#self}}{{nothing}}{{/self}}{{/members.web}}"},
        {"a": "{{#port}}"},
        {"a": "{{^none?}}{{.}}{{/none}}"},
        {"a": "{{#.}}{{port}}{{/.}}"},
        {"a": "x", "b.control": "{}"},
        {"a": "x", "a.control": "["},
        {"../a": "x"},
    ],
    ids=lambda files: next(iter(files.values())),
)
def test_faults_and_what_is_rare_are_said_as_the_agent_says_them(files: dict[str, str]) -> None:
    tree, shared = Tree(files), Shared(PARTS)
    for host in ("web-0", "elsewhere"):
        assert as_we(tree, shared, own_of(host)) == as_agent(files, PARTS, own_of(host))


def test_metadata_of_a_release_without_parts() -> None:
    whole = own_of("web-0", values={"port": 81}, members={"web": [{"address": "x", "self": True}]})
    files = {"a": "{{port}}{{#members.web}}{{#self}}{{address}}{{/self}}{{/members.web}}"}
    assert Tree(files).contents(Shared(()), whole) == {"/a": "81x"}
    assert as_we(Tree(files), Shared([{"values": {"node": 1}}]), own_of("web-0")) == as_agent(
        files, [{"values": {"node": 1}}], own_of("web-0")
    )


def test_a_thousand_members_on_a_thousand_nodes_are_gone_through_once() -> None:
    count = 1000

    class Counted(dict[str, Any]):
        read = 0

        def __getitem__(self, key: str) -> Any:
            Counted.read += key == "address"
            return super().__getitem__(key)

    members = [{"hostname": f"web-{n}", "address": f"10.0.{n >> 8}.{n & 255}"} for n in range(count)]
    tree = Tree({"a": "{{#members.web}}{{^self}}{{address}},{{/self}}{{/members.web}}"})
    shared = Shared([{"members": {"web": members}}])
    shared.data["members"]["web"] = [type("M", (Counted, type(one)), {})(one) for one in shared.data["members"]["web"]]
    texts = [tree.contents(shared, own_of(f"web-{n}"))["/a"] for n in range(count)]
    assert Counted.read == count
    assert texts[7] == ",".join(one["address"] for one in members if one["hostname"] != "web-7") + ","
    assert len(set(texts)) == count


def test_nodes_with_values_of_their_own_do_not_go_through_all_members_each() -> None:
    count = 100
    read = []

    class Counted(Member):
        def __getitem__(self, key: str) -> Any:
            read.append(key)
            return super().__getitem__(key)

    members = {"web": [Counted({"hostname": f"web-{n}", "address": f"10.0.{n}"}) for n in range(count)]}
    tree = Tree({"a": "{{#members.web}}{{address}}:{{port}} {{#self}}me{{/self}}\n{{/members.web}}"}, mixtures=2)
    for number in range(count):
        shared = Shared([{"values": {"port": number}}, {"members": members}])
        lines = tree.contents(shared, own_of(f"web-{number}"))["/a"].splitlines()
        assert (
            lines[number] == f"10.0.{number}:{number} me"
            and lines[number - 1] == f"10.0.{(number - 1) % count}:{number} "
        )
    assert read.count("address") == 3 * count
