"""Strict mustache: what is rendered, and what is refused with path and line."""

from __future__ import annotations

from typing import Any

import pytest

from provisioner_agent.render.problem import RenderError
from provisioner_agent.render.tree import RenderedFile, build_data, render_tree, split_tree

DATA: dict[str, Any] = {
    "galera": {"max_connections": 100, "tls": False, "note": None, "ratio": 1.5, "list": ["a", "b"]},
    "members": {"galera": [{"address": "10.0.0.1", "self": True}, {"address": "10.0.0.2", "self": False}]},
    "html": "<a & 'b'>",
}


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
    ],
)
def test_rendered(text: str, shown: str) -> None:
    assert render(text) == shown


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\nb {{galera.max_conections}}", "etc/x.cnf:2: the key galera.max_conections is not in the data "
         "(did you mean galera.max_connections?); if it may be absent, write galera.max_conections?"),
        ("{{nova.x}}", "etc/x.cnf:1: the key nova.x is not in the data (nova is not either); "
         "if it may be absent, write nova.x?"),
        ("\n{{#none}}x{{/none}}", "etc/x.cnf:2: the key none is not in the data; if it may be absent, write none?"),
        ("{{^none}}x{{/none}}", "etc/x.cnf:1: the key none is not in the data; if it may be absent, write none?"),
        ("\n\n{{#html}}x", "etc/x.cnf:3: the section html is not closed"),
        ("{{#html}}\n{{/a}}{{/html}}", "etc/x.cnf:2: section a is closed, but the open one is html of line 1"),
        ("{{/html}}", "etc/x.cnf:1: section html is closed, but the open one is none"),
        ("\n{{html", "etc/x.cnf:2: a tag is not closed; write }}"),
        ("{{> other}}", "etc/x.cnf:1: partials are not offered (other)"),
        ("{{a b}}", "etc/x.cnf:1: 'a b' is not a key"),
        ("{{.}}", "etc/x.cnf:1: {{.}} outside of a section would show all data"),
    ],
)  # fmt: skip
def test_refused(text: str, problem: str) -> None:
    with pytest.raises(RenderError) as refused:
        render(text)
    assert [str(p) for p in refused.value.problems] == [problem]


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
            "a:1",
            "a:2",
            "a.control",
            "a.control",
            "a.control",
            "a.control",
            "b:1",
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


def test_data_of_metadata() -> None:
    metadata = {"generation": 3, "values": {"galera": {"x": 1}}, "cloud": {"name": "lab"}, "secrets": {"p": "s"}}
    assert build_data(metadata) == {"galera": {"x": 1}, "cloud": {"name": "lab"}, "secrets": {"p": "s"}}
    with pytest.raises(RenderError, match="a value may not be called node"):
        build_data({"values": {"node": 1}})


def test_a_file_with_a_secret_in_it_is_sensitive_said_or_not() -> None:
    metadata = {
        "values": {"db": {"keys": ["plain", None]}, "open": "nothing"},
        "references": [[["db", "password"], "word"], [["db", "keys", 1], "key"]],
        "secrets": {"word": "0pen sesame", "key": 'say "friend"'},
    }
    texts = {
        "etc/open": "{{open}}",
        "etc/value": "password = {{db.password}}",
        "etc/list": "{{db.keys}}",
        "etc/secret": "{{secrets.word}}",
    }
    files = render_tree(texts, {}, build_data(metadata))
    assert {path: file.sensitive for path, file in files.items()} == {
        "/etc/open": False,
        "/etc/value": True,
        "/etc/list": True,
        "/etc/secret": True,
    }
    assert files["/etc/list"].content == '["plain","say \\"friend\\""]'
