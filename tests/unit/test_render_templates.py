"""Strict mustache: what is rendered, and what is refused with path and line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from provisioner_agent.render.kinds import TYPES
from provisioner_agent.render.problem import RenderError
from provisioner_agent.render.template import to_text
from provisioner_agent.render.tree import RenderedFile, build_data, render_tree, split_tree

DATA: dict[str, Any] = {
    "galera": {"max_connections": 100, "tls": False, "note": None, "ratio": 1.5, "list": ["a", "b"]},
    "members": {"galera": [{"address": "10.0.0.1", "self": True}, {"address": "10.0.0.2", "self": False}]},
    "html": "<a & 'b'>",
}


KINDS: list[tuple[str, list[Any], list[Any]]] = [
    ("int", [0, -5, 65535, "80", "-1"], [1.5, True, "", "8 0", "0x10", "80\n"]),
    ("bool", [True, False, "true", "false"], [0, 1, "yes", "True", ""]),
    (
        "netaddress",
        ["10.0.0.1", "10.0.0.0/24", "fe80::1", "::/0", "web-0", "db.cloud.example", "1a"],
        ["", "10.0.0.256", "10.0.0", "web_0", "-web", "a..b", "10.0.0.1 ", "a b", "x" * 64, 5],
    ),
    ("netdevice", ["eth0", "eth0.5", "eth0:1", "bond-0", "enp3s0f1np1"], ["", "..", "a/b", "a b", "x" * 16, "eth0\n"]),
    (
        "dsn",
        ["mysql://user:p@ss@host/db?charset=utf8", "sqlite:///x.db"],
        ["", "mysql//host", "mysql://", "a://b c", 1],
    ),
    ("username", ["nova", "_x", "some-user_1"], ["", "Nova", "1a", "a:b", "root\nx", "x" * 33]),
    ("line", ["", "a b = c", "é"], ["a\nb", "a\n", "a\r", 5]),
]


def render(text: str) -> str:
    return render_tree({"etc/x.cnf": text}, {}, DATA)["/etc/x.cnf"].content


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{{galera.max_connections}} {{{galera.ratio}}} {{& galera.tls }}", "100 1.5 false"),
        ("[{{galera.note}}]", "[]"),
        ("{{html}} {{{html}}}", "<a & 'b'> <a & 'b'>"),
        ("{{galera.list}}", '["a","b"]'),
        ("{{#galera.list}}<{{.}}>{{/galera.list}}", "<a><b>"),
        ("{{#members.galera}}{{^self}}{{address}},{{/self}}{{/members.galera}}", "10.0.0.2,"),
        ("{{none?}}{{#none?}}x{{/none}}{{^none?}}y{{/none?}}", "y"),
        ("{{galera.none?}}-{{none.at.all?}}", "-"),
        ("a\n  {{! a remark }}\nb\n", "a\nb\n"),
        ("{{=<% %>=}}<%galera.max_connections%>{{x}}", "100{{x}}"),
        ("{{#galera}}{{max_connections}}{{html}}{{/galera}}", "100<a & 'b'>"),
        ("{{galera.max_connections:int}} {{{galera.tls:bool}}} {{& html : line }}", "100 false <a & 'b'>"),
        ("[{{none:int?}}][{{galera.note:int?}}][{{galera.none : netaddress ?}}]", "[][][]"),
        ("{{#members.galera}}{{address:netaddress}} {{/members.galera}}", "10.0.0.1 10.0.0.2 "),
        ("{{#galera.list}}{{.:username}}{{/galera.list}}", "ab"),
    ],
)
def test_rendered(text: str, shown: str) -> None:
    assert render(text) == shown


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\nb {{galera.max_conections}}", "etc/x.cnf:2:3: the key galera.max_conections is not in the data "
         "(did you mean galera.max_connections?); if it may be absent, write galera.max_conections?"),
        ("{{nova.x}}", "etc/x.cnf:1:1: the key nova.x is not in the data (nova is not either); "
         "if it may be absent, write nova.x?"),
        ("\n{{#none}}x{{/none}}", "etc/x.cnf:2:1: the key none is not in the data; if it may be absent, write none?"),
        ("{{^none}}x{{/none}}", "etc/x.cnf:1:1: the key none is not in the data; if it may be absent, write none?"),
        ("\n\n{{#html}}x", "etc/x.cnf:3:1: the section html is not closed"),
        ("{{#html}}\n{{/a}}{{/html}}", "etc/x.cnf:2:1: section a is closed, but the open one is html of 1:1"),
        ("{{/html}}", "etc/x.cnf:1:1: section html is closed, but the open one is none"),
        ("\n{{html", "etc/x.cnf:2:1: a tag is not closed; write }}"),
        ("{{> other}}", "etc/x.cnf:1:1: partials are not offered (other)"),
        ("{{a b}}", "etc/x.cnf:1:1: 'a b' is not a key"),
        ("{{.}}", "etc/x.cnf:1:1: {{.}} outside of a section would show all data"),
        ("é {{#html}}\n  x={{ html }} {{html}", "etc/x.cnf:2:16: a tag is not closed; write }}"),
        ("{{html:int}}", "etc/x.cnf:1:1: the value of html is not of the type int: a whole number"),
        ("{{galera.note:int}}", "etc/x.cnf:1:1: the value of galera.note is not of the type int: a whole number"),
        ("{{none:int}}", "etc/x.cnf:1:1: the key none is not in the data; if it may be absent, write none?"),
        ("{{html:number}}", "etc/x.cnf:1:1: number is no type; it is one of int, bool, netaddress, netdevice, dsn, "
         "username, line"),
        ("{{html:}}", "etc/x.cnf:1:1: nothing is no type; it is one of int, bool, netaddress, netdevice, dsn, "
         "username, line"),
        ("{{#html:int}}{{/html}}", "etc/x.cnf:1:1: a section has no type (html:int)"),
    ],
)  # fmt: skip
def test_refused(text: str, problem: str) -> None:
    with pytest.raises(RenderError) as refused:
        render(text)
    assert [str(p) for p in refused.value.problems] == [problem]


@pytest.mark.parametrize(("kind", "good", "bad"), KINDS)
def test_a_tag_asks_for_a_type(kind: str, good: list[Any], bad: list[Any]) -> None:
    text = f"{{{{value:{kind}}}}}"
    for value in good:
        assert render_tree({"x": text}, {}, {"value": value})["/x"].content == to_text(value)
    for value in (*bad, None, [], {}, ["a"]):
        with pytest.raises(RenderError, match=f"is not of the type {kind}") as refused:
            render_tree({"x": text}, {}, {"value": value})
        assert not isinstance(value, str) or not value or value not in str(refused.value), "it may be a secret"


def test_every_type_has_cases() -> None:
    assert {kind for kind, _, _ in KINDS} == set(TYPES)


def test_a_template_may_be_lax() -> None:
    text = "[{{x}}][{{galera.x.y}}]{{#x}}a{{/x}}{{^x}}b{{/x}}[{{n:int}}]"
    assert render_tree({"a": text}, {"a": '{"lax": true}'}, DATA)["/a"] == RenderedFile("/a", "[][]b[]")
    with pytest.raises(RenderError, match="the key x is not in the data"):
        render_tree({"a": text, "b": text}, {"a": '{"lax": true}', "b": '{"lax": false}'}, DATA)
    with pytest.raises(RenderError, match="the section x is not closed"):
        render_tree({"a": "{{#x}}"}, {"a": '{"lax": true}'}, DATA)
    with pytest.raises(RenderError, match="not of the type int"):
        render_tree({"a": "{{html:int}}"}, {"a": '{"lax": true}'}, DATA)


@pytest.mark.parametrize(("tls", "files"), [(True, {"/a", "/b"}), (False, {"/b"})])
def test_a_template_may_be_for_some_only(tls: bool, files: set[str]) -> None:
    text = "{{#galera.tls}}\non\n{{/galera.tls}}\n"
    data = {"galera": {"tls": tls}}
    assert set(render_tree({"a": text, "b": text}, {"a": '{"allow_empty": false}'}, data)) == files
    with pytest.raises(RenderError, match="allow_empty: 0 is not what a control file may say"):
        render_tree({"a": text}, {"a": '{"allow_empty": 0}'}, data)


def test_a_missing_key_in_a_loop_is_said_once() -> None:
    with pytest.raises(RenderError) as refused:
        render("{{#members.galera}}{{port}}{{/members.galera}}")
    assert len(refused.value.problems) == 1


def test_values_are_never_rendered_again() -> None:
    assert render_tree({"x": "{{a}}"}, {}, {"a": "{{secret}}"})["/x"].content == "{{secret}}"


def test_all_problems_of_all_templates_come_at_once() -> None:
    templates = {"a": "{{x}}\n{{y}}", "b": "{{z}}", "../c": "", "/d": ""}
    controls = {
        "a": '{"mode": 640, "colour": "red", "validate": ["true"], "services": {"x": "restart"}}',
        "b": "{",
        "e": "{}",
    }
    with pytest.raises(RenderError) as refused:
        render_tree(templates, controls, {})
    assert sorted(p.where for p in refused.value.problems) == sorted(
        [
            "a:1:1",
            "a:2:1",
            "a.control",
            "a.control",
            "a.control",
            "a.control",
            "b:1:1",
            "b.control",
            "../c",
            "/d",
            "e.control",
        ]
    )


def test_control_files() -> None:
    templates, controls = split_tree(
        {
            "etc/a": "x",
            "etc/a.control": '{"mode": "0600", "owner": "mysql", "validate": ["t", "{path}"], "sensitive": true}',
        }
    )
    assert render_tree(templates, controls, {}) == {
        "/etc/a": RenderedFile("/etc/a", "x", 0o600, "mysql", "root", ("t", "{path}"), True)
    }


def test_a_control_file_says_what_a_change_restarts() -> None:
    control = '{"services": {"haproxy.service": "reload", "x@1.service": "phase"}, "confirm": true}'
    file = render_tree({"a": ""}, {"a": control}, {})["/a"]
    assert (file.services, file.confirm) == ({"haproxy.service": "reload", "x@1.service": "phase"}, True)


@pytest.mark.parametrize("unit", ["x@.service", "-x.service", "x", "x.service ", "../x.service", ""])
def test_a_unit_of_which_systemd_would_say_nothing_is_refused(unit: str) -> None:
    with pytest.raises(RenderError, match="not what a control file may say"):
        render_tree({"a": ""}, {"a": json.dumps({"services": {unit: "phase"}})}, {})


def test_data_of_metadata() -> None:
    metadata = {"generation": 3, "values": {"galera": {"x": 1}}, "cloud": {"name": "lab"}, "secrets": {"p": "s"}}
    assert build_data(metadata) == {"galera": {"x": 1}, "cloud": {"name": "lab"}, "secrets": {"p": "s"}}
    with pytest.raises(RenderError, match="a value may not be called node"):
        build_data({"values": {"node": 1}})
