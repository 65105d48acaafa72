"""Files of instances for operators: rendered and compared without the nodes, and nothing secret leaves the service."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import Rack, cloud, role
from served import make_placement
from test_conductor_effects import TREE, ready

from provisioner.conductor.masker import Masker
from provisioner.conductor.texts import NO_FILES, Diffs, Files
from provisioner.errors import ManifestError, NotFound
from provisioner.model.config import ConfigDiff
from provisioner.model.plan import Change, Configure, Plan
from provisioner.model.role import Config, Desired
from provisioner_agent.render.tree import RenderedFile

SECRETS = TREE | {
    "etc/app": "url = db://{{secrets.web_password}}@db\nword = {{web.word}}\n",
    "etc/key": "{{secrets.web_password}}\nsize {{web.size}}\n",
    "etc/key.control": '{"mode": "0600", "owner": "app", "sensitive": true}',
}


def diff_of(found: ConfigDiff) -> dict[str, list[str]]:
    """The lines that go and come, by file, where all that differ do so in the same way."""
    (change,) = found.changes
    return {
        file.change.path: [line for line in file.lines if line[0] in "+-" and not line.startswith(("---", "+++"))]
        for file in change.files
    }


def test_the_files_of_a_node_on_record(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2, tree=SECRETS)
    found = rack.conductor.node_files("node2")
    assert (found.hostname, found.generation, found.image) == ("web-1", 1, "web-000000000000")
    files = {file.path: file for file in found.files}
    assert list(files) == sorted(path for path in ("/etc/all", "/etc/app", "/etc/key", "/etc/motd", "/etc/peers",
                                                   "/etc/web.conf"))  # fmt: skip
    assert files["/etc/web.conf"].content == "size 1\nfor web-1\n"
    assert files["/etc/web.conf"].services == {"web.service": "restart", "old.service": "phase"}
    assert files["/etc/peers"].content == "10.77.0.20 \n" and files["/etc/peers"].confirm
    assert files["/etc/app"].content == "url = db://(secret web_password)@db\nword = plain\n"
    assert (files["/etc/key"].content, files["/etc/key"].mode, files["/etc/key"].owner) == (None, "0600", "app")


def test_a_secret_that_came_into_a_value_is_masked_as_well(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1, tree=SECRETS)
    secret = rack.conductor.cloud_secret("lab", "web_password")
    wanted = cloud(1, values={"web": {"word": f"x{secret}x"}})
    assert diff_of(rack.conductor.cloud_diff(wanted, None)) == {
        "/etc/app": ["-word = plain", "+word = x(secret web_password)x"]
    }
    rack.apply(wanted)
    for found in (rack.conductor.node_files("node1"), rack.conductor.node_diff("node1")):
        assert secret not in found.model_dump_json()


def test_what_apply_would_change(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2, spare=1, tree=SECRETS)
    assert rack.conductor.cloud_diff(rack.desired, None).changes == ()
    wanted = cloud(2, values={"web": {"size": 7}})
    one, two = rack.conductor.cloud_diff(wanted, None).changes
    assert [member.hostname for member in one.members] == ["web-0"]
    assert [(file.change.path, file.sensitive, bool(file.lines)) for file in two.files] == [
        ("/etc/key", True, False),
        ("/etc/web.conf", False, True),
    ]
    assert "+size 7" in two.files[1].lines and " for web-1" in two.files[1].lines
    (only,) = rack.conductor.cloud_diff(wanted, "node2").changes
    assert only == two == rack.conductor.cloud_diff(wanted, "web-1").changes[0]
    found = rack.conductor.cloud_diff(cloud(3), None)
    assert {member.hostname for change in found.changes for member in change.members} == {"web-0", "web-1"}
    with pytest.raises(NotFound, match="no such member is on record") as caught:
        rack.conductor.cloud_diff(cloud(3), "web-2")
    assert caught.value.hint == "on record are: web-0, web-1"


def test_equal_diffs_stand_together_and_not_all_are_shown(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3, tree={"etc/a": "{{web.word}}"})
    (same,) = rack.conductor.cloud_diff(cloud(3, values={"web": {"word": "x"}}), None).changes
    assert [member.node for member in same.members] == ["node1", "node2", "node3"]
    found = Diffs(limit=1)
    for node in ("node1", "node2", "node3"):
        placement = make_placement(node)
        file = RenderedFile("/etc/b", f"for {node}")
        found.add(placement, NO_FILES, Files({file.path: file}, {file.path: file.content}))
    first, rest = found.changes()
    assert [member.node for member in rest.members] == ["node2", "node3"]
    assert not first.files[0].left_out and rest.files[0].left_out and rest.files[0].lines == ()


def test_what_the_newest_generation_changes_in_what_is_in_force(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1, tree=SECRETS)
    assert rack.conductor.node_diff("node1").changes == ()
    for size in (7, 8):
        rack.apply(cloud(1, values={"web": {"size": size}}))
    found = rack.conductor.node_diff("node1")
    assert (found.before, found.after) == ("generation 1, in force", "generation 3")
    assert diff_of(found) == {"/etc/key": [], "/etc/web.conf": ["-size 1", "+size 8"]}
    rack.play(lambda: rack.conductor.node("node1").node.applied == 3)
    assert rack.conductor.node_diff("node1") == ConfigDiff(before="generation 3, in force", after="generation 3")


def test_a_node_that_has_nothing_in_force_yet_gets_all(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1, cloud(1))
    rack.images.trees["web"] = {"etc/motd": "hello\n"}
    rack.enroll()
    rack.apply()
    found = rack.conductor.node_diff("node1")
    assert found.before == "nothing is in force" and diff_of(found) == {"/etc/motd": ["+hello"]}


def test_what_was_in_force_and_is_not_kept_is_said(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1)
    rack.apply(cloud(1, values={"web": {"size": 7}}))
    newest = rack.store.clouds.newest("node1")
    assert newest is not None
    rack.store.parts.keep_only(newest.parts)  # as a release of before did
    rack.restart()
    with pytest.raises(NotFound, match="what generation 1 was made of is not kept any more"):
        rack.conductor.node_diff("node1")
    assert rack.conductor.node_files("node1").generation == 2


def test_a_node_without_files_says_why(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1, spare=1, tree=None)
    with pytest.raises(NotFound, match="in no cloud"):
        rack.conductor.node_files("node2")
    with pytest.raises(NotFound, match="no such node"):
        rack.conductor.node_files("node9")
    with pytest.raises(NotFound) as caught:
        rack.conductor.node_files("node1")
    assert "before images kept their templates" in str(caught.value.cause)
    assert caught.value.hint == "provisioner node rebuild node1 takes the newest image of its role"
    found = rack.conductor.cloud_diff(cloud(1, values={"web": {"size": 7}}), None)
    assert found.changes == () and "1 instance of web-000000000000 cannot be said" in found.notes[0]


def test_values_that_cannot_be_rendered_are_named(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1)
    wanted: Desired = cloud(1, values={"web": 5})
    with pytest.raises(ManifestError, match=r"etc/web\.conf:1:6: the key web\.size .* on web-0"):
        rack.conductor.cloud_diff(wanted, None)


def test_a_node_in_a_rescue_is_still_what_it_is(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1)
    rack.conductor.rescue("node1", [])
    assert rack.conductor.node_files("node1").hostname == "web-0"


def test_a_node_that_was_released_has_no_files(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1)
    rack.conductor.release("node1")
    assert rack.states() == {"node1": "cleaning"}
    with pytest.raises(NotFound, match="in no cloud"):
        rack.conductor.node_files("node1")


def test_roles_with_more_secrets_show_their_names(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1, tree={"etc/all": "{{secrets}}"})
    wanted = cloud(1, (role(secrets=("web_password", "more")),))
    (line,) = [line for line in diff_of(rack.conductor.cloud_diff(wanted, None))["/etc/all"] if line[0] == "+"]
    assert line == '+{"more":"(secret more)","web_password":"(secret web_password)"}'


def test_a_secret_that_is_new_changes_files_though_neither_is_shown(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1, tree=SECRETS)
    before = rack.conductor.cloud_secret("lab", "web_password")
    rack.conductor.store_secret("lab", "web_password", "another one")
    found = rack.conductor.node_diff("node1")
    assert diff_of(found) == {"/etc/app": [], "/etc/key": []}
    assert before not in found.model_dump_json() and "another one" not in found.model_dump_json()


def test_a_secret_that_is_not_shown_is_of_the_type_that_a_tag_asks_for(tmp_path: Path) -> None:
    own = Config(values={"web": {"word": "db://none"}})
    rack = ready(tmp_path, 1, tree={"etc/app": "url = {{web.word:dsn}}\n"}, config=own)
    rack.conductor.store_secret("lab", "url", "db://user:word@host")
    wanted = cloud(1, (role(config=own),), values={"web": {"word": {"secret": "url"}}})
    assert diff_of(rack.conductor.cloud_diff(wanted, None)) == {"/etc/app": ["-url = db://none", "+url = (secret url)"]}
    rack.apply(wanted)
    (file,) = rack.conductor.node_files("node1").files
    assert file.content == "url = (secret url)\n"
    rack.conductor.store_secret("lab", "url", "not one")
    with pytest.raises(ManifestError, match=r"the value of web\.word is not of the type dsn") as caught:
        rack.conductor.node_files("node1")
    assert "not one" not in str(caught.value)


@pytest.mark.parametrize(
    ("secrets", "text", "masked"),
    [
        ({"a": "one\ntwo"}, '{"x":"one\\ntwo"} one\ntwo', '{"x":"(secret a)"} (secret a)'),
        ({"a": 'q"'}, '{"x":"q\\""} q"', '{"x":"(secret a)"} (secret a)'),
        ({"secret": "e", "long": "the"}, "the e (secret long)", "(secret long) (secret secret) (secret long)"),
        ({"a": "", "b": "x"}, "x.", "(secret b)."),
        ({}, "x", "x"),
    ],
)
def test_what_is_masked(secrets: dict[str, str], text: str, masked: str) -> None:
    assert Masker(secrets).mask(text) == masked


def changes_of(plan: Plan) -> tuple[Change, ...]:
    (action,) = plan.actions
    assert isinstance(action, Configure)
    return action.changes


def test_a_plan_does_not_show_what_has_become_a_secret(tmp_path: Path) -> None:
    own = Config(values={"web": {"word": "plain", "list": ["plain"]}})
    rack = ready(tmp_path, 1, tree=None, config=own)
    typed = {"word": "hunter2", "list": ["a hunter2", 3]}
    rack.apply(cloud(1, (role(config=own),), values={"web": typed}))
    rack.conductor.store_secret("lab", "word", "hunter2")
    plan = rack.conductor.plan(cloud(1, (role(config=own),), values={"web": {"word": {"secret": "word"}}}))
    assert "hunter2" not in plan.model_dump_json()
    guess = rack.conductor.plan(cloud(1, (role(config=own),), values={"web": {"word": "hunter2 hunter3"}}))
    assert "(secret word)" not in "".join(str(change.new) for change in changes_of(guess)), "a guess is not answered"
    assert {change.path: (change.old, change.new) for change in changes_of(plan)} == {
        "web.list": (["a (secret word)", 3], ["plain"]),
        "web.word": ("(secret word)", {"secret": "word"}),
    }
