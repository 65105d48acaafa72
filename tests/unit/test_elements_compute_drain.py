"""A compute node that is to leave gives its guests to others, or says which it cannot; with stand-ins for the APIs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from stand_in_api import JsonHandler, serving

SCRIPT = Path(__file__).resolve().parents[2] / "elements/compute/bin/compute-drain"
MARK = "provisioner: drained"
HOST = "OS-EXT-SRV-ATTR:host"


class Cloud(ThreadingHTTPServer):
    """Keystone, Nova and Neutron as far as the script needs them. ``asked``: all that was not only looked at.

    ``outcome``: how each live migration ends; ``why``: what Nova says of one that fails. ``deletes``: a guest that is
    gone as soon as a migration ended. ``away``: how many questions Nova and Neutron do not answer.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.services = {
            name: {"id": f"s{at}", "host": name, "state": "up", "status": "enabled", "disabled_reason": None}
            for at, name in enumerate(("compute-0", "compute-1"))
        }
        self.agents = [{"id": "a0", "host": "compute-0"}, {"id": "a1", "host": "compute-1"}]
        self.guests: list[dict[str, Any]] = []
        self.migrations: list[dict[str, Any]] = []
        self.outcome, self.why, self.deletes = "completed", "", ""
        self.away = 0
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def guest(self, name: str, status: str = "ACTIVE", host: str = "compute-0") -> None:
        self.guests.append({"id": f"id-{name}", "name": name, "status": status, HOST: host})

    def migrate(self, ident: str) -> None:
        number = len(self.migrations) + 1
        self.migrations.append({"id": number, "instance_uuid": ident, "status": "accepted"})
        next(guest for guest in self.guests if guest["id"] == ident)["status"] = "MIGRATING"

    def go_on(self) -> None:
        """A migration takes two looks: the first finds it running."""
        for one in self.migrations:
            if one["status"] == "running":
                one["status"] = self.outcome
                guest = next(guest for guest in self.guests if guest["id"] == one["instance_uuid"])
                guest["status"] = "ACTIVE"
                if self.outcome == "completed":
                    guest[HOST] = "compute-1"
                self.guests = [guest for guest in self.guests if guest["id"] != self.deletes]
            elif one["status"] == "accepted":
                one["status"] = "running"


class Answer(JsonHandler):
    server: Cloud

    def _do(self) -> None:
        cloud = self.server
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path, _, query = self.path.partition("?")
        wanted = dict(word.split("=") for word in query.split("&") if word)
        if path == "/v3/auth/tokens":
            user = body["auth"]["identity"]["password"]["user"]
            return self.answer(201 if user["password"] == "secret" else 401, self._token())
        if cloud.away:
            cloud.away -= 1
            return self.answer(503, None)
        if self.command != "GET":
            cloud.asked.append(f"{self.command} {path} {json.dumps(body) if body else ''}".strip())
        if path == "/nova/os-services":
            rows = [one for name, one in cloud.services.items() if wanted.get("host", name) == name]
            return self.answer(200, {"services": rows})
        if path.startswith("/nova/os-services/"):
            name = next(name for name, one in cloud.services.items() if path.endswith(one["id"]))
            if self.command == "DELETE":
                del cloud.services[name]
            else:
                cloud.services[name] |= {"disabled_reason": None} | body
            return self.answer(204 if self.command == "DELETE" else 200, {})
        if path == "/nova/servers/detail":
            return self.answer(200, {"servers": [one for one in cloud.guests if one[HOST] == wanted["host"]]})
        if path == "/nova/os-migrations":
            ours = {"instance_uuid": wanted.get("instance_uuid")} if "host" not in wanted else {}
            rows = [dict(one) for one in cloud.migrations if ours.items() <= one.items()]
            cloud.go_on()
            return self.answer(200, {"migrations": rows})
        if self.command == "GET" and path.startswith("/nova/servers/") and path.count("/") == 3:
            found = [one for one in cloud.guests if one["id"] == path.split("/")[3]]
            return self.answer(200 if found else 404, {"server": found[0]} if found else {})
        if path.endswith("/action"):
            if all(one["id"] != path.split("/")[3] for one in cloud.guests):
                return self.answer(404, {"itemNotFound": {"message": "gone"}})
            cloud.migrate(path.split("/")[3])
            return self.answer(202, None)
        if path.endswith("/os-instance-actions"):
            actions = [{"action": "live-migration", "request_id": "r2"}, {"action": "create", "request_id": "r1"}]
            return self.answer(200, {"instanceActions": actions})
        if path.endswith("/os-instance-actions/r2"):
            return self.answer(200, {"instanceAction": {"events": [{"details": cloud.why or None}]}})
        if path == "/neutron/v2.0/agents":
            return self.answer(200, {"agents": [one for one in cloud.agents if one["host"] == wanted["host"]]})
        if path.startswith("/neutron/v2.0/agents/"):
            cloud.agents = [one for one in cloud.agents if one["id"] != path.rpartition("/")[2]]
            return self.answer(204, None)
        return self.answer(404, {})

    do_GET = do_POST = do_PUT = do_DELETE = _do

    def _token(self) -> dict[str, Any]:
        url = self.server.url
        catalog = [
            {"type": kind, "endpoints": [{"interface": "internal", "region": "R", "region_id": "R", "url": end}]}
            for kind, end in (("compute", f"{url}/nova"), ("network", f"{url}/neutron"))
        ]
        times = {"expires_at": "2999-01-01T00:00:00.000000Z", "issued_at": "2020-01-01T00:00:00.000000Z"}
        return {"token": {"catalog": catalog, "methods": ["password"], "user": {"id": "u", "name": "nova"}, **times}}


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with serving(Cloud()) as server:
        yield server


def run(cloud: Cloud, folder: Path, word: str = "out", password: str = "secret", **env: str) -> tuple[int, str]:
    """:returns: exit code, what it said."""
    log = folder / "bin" / "systemctl"
    log.parent.mkdir(exist_ok=True)
    log.write_text(f'#!/bin/sh\necho "$*" >>{folder}/units\n')
    log.chmod(0o755)
    metadata = {
        "node": {"hostname": "compute-0"},
        "values": {"openstack": {"address": "controller", "tls": False, "region": "R"}},
        "secrets": {"nova_password": password},
    }
    path = folder / "metadata.json"
    path.write_text(json.dumps(metadata))
    base = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PROVISIONER_METADATA": str(path)}
    base |= {"OPENSTACK_KEYSTONE": cloud.url, "COMPUTE_PAUSE": "0", "PROVISIONER_DRAIN": "release"}
    words = [sys.executable, str(SCRIPT), word]
    done = subprocess.run(words, env=base | env, capture_output=True, text=True, timeout=50)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def changes(cloud: Cloud) -> list[str]:
    asked, cloud.asked = cloud.asked, []
    return asked


DISABLED = f'PUT /nova/os-services/s0 {{"status": "disabled", "disabled_reason": "{MARK}"}}'
MIGRATED = 'POST /nova/servers/id-one/action {"os-migrateLive": {"host": null, "block_migration": "auto"}}'


def test_guests_go_to_others_and_nobody_knows_the_node_any_more(cloud: Cloud, tmp_path: Path) -> None:
    cloud.guest("one")
    cloud.guest("two", "PAUSED")
    cloud.guest("elsewhere", host="compute-1")
    code, said = run(cloud, tmp_path)
    assert code == 0, said
    asked = changes(cloud)
    assert asked[:2] == [DISABLED, MIGRATED] and asked[3:] == [
        "DELETE /nova/os-services/s0",
        "DELETE /neutron/v2.0/agents/a0",
    ]
    assert {guest[HOST] for guest in cloud.guests} == {"compute-1"}
    assert list(cloud.services) == ["compute-1"] and [one["id"] for one in cloud.agents] == ["a1"]
    assert (tmp_path / "units").read_text() == "stop nova-compute.service neutron-openvswitch-agent.service\n"
    assert "moves two (id-two), 2 of 2" in said


def test_one_that_is_rebuilt_is_disabled_until_it_is_back(cloud: Cloud, tmp_path: Path) -> None:
    assert run(cloud, tmp_path, PROVISIONER_DRAIN="rebuild")[0] == 0
    assert changes(cloud) == [DISABLED] and not (tmp_path / "units").exists()
    assert run(cloud, tmp_path, "back")[0] == 0
    assert changes(cloud) == ['PUT /nova/os-services/s0 {"status": "enabled"}']
    assert run(cloud, tmp_path, "back")[0] == 0 and not changes(cloud)


def test_what_an_operator_has_disabled_stays_so(cloud: Cloud, tmp_path: Path) -> None:
    cloud.services["compute-0"] |= {"status": "disabled", "disabled_reason": "a fan"}
    assert run(cloud, tmp_path, PROVISIONER_DRAIN="rebuild")[0] == 0
    assert run(cloud, tmp_path, "back")[0] == 0 and not changes(cloud)


@pytest.mark.parametrize(
    ("status", "env", "others", "words"),
    [
        ("SHUTOFF", {}, "enabled", "one (id-one) is SHUTOFF: only guests that run are migrated"),
        (
            "ACTIVE",
            {"PROVISIONER_ROLE_ENDS": "1"},
            "enabled",
            "all compute nodes leave, and here are guests: one (id-one)",
        ),
        ("ACTIVE", {}, "disabled", "no other compute node is up and enabled, and here are guests: one (id-one)"),
    ],
)
def test_it_stays_and_the_guests_are_named_before_any_is_moved(
    cloud: Cloud, tmp_path: Path, status: str, env: dict[str, str], others: str, words: str
) -> None:
    cloud.guest("one", status)
    cloud.services["compute-1"]["status"] = others
    code, said = run(cloud, tmp_path, **env)
    assert code == 1 and words in said
    assert changes(cloud) == [DISABLED] and "compute-0" in cloud.services


def test_a_migration_that_fails_is_told_with_its_cause_and_asked_for_again(cloud: Cloud, tmp_path: Path) -> None:
    cloud.guest("one")
    cloud.outcome, cloud.why = "error", "No valid host was found."
    code, said = run(cloud, tmp_path)
    assert code == 1 and "one (id-one) stays: error; No valid host was found." in said
    assert changes(cloud) == [DISABLED, MIGRATED]
    cloud.outcome = "completed"
    assert run(cloud, tmp_path)[0] == 0
    assert changes(cloud)[0] == MIGRATED


def test_a_migration_that_still_goes_on_is_waited_for_and_not_asked_for_twice(cloud: Cloud, tmp_path: Path) -> None:
    cloud.guest("one")
    cloud.migrate("id-one")
    code, said = run(cloud, tmp_path, COMPUTE_PATIENCE="0")
    assert code == 1 and "one (id-one) was not away within 0 s" in said
    assert run(cloud, tmp_path)[0] == 0
    assert not any("os-migrateLive" in line for line in changes(cloud))


def test_a_migration_that_a_power_cut_ended_and_nova_has_not_is_asked_for_again(cloud: Cloud, tmp_path: Path) -> None:
    cloud.guest("one")
    cloud.migrations.append({"id": 1, "instance_uuid": "id-one", "status": "preparing"})
    code, said = run(cloud, tmp_path, PROVISIONER_DRAIN="rebuild", COMPUTE_PATIENCE="10")
    assert code == 0, said
    assert changes(cloud) == [DISABLED, MIGRATED]


def test_a_node_to_which_a_guest_is_on_its_way_goes_on_to_run(cloud: Cloud, tmp_path: Path) -> None:
    cloud.guest("late", host="compute-1")
    cloud.migrate("id-late")
    code, said = run(cloud, tmp_path)
    assert code == 1 and "migrations to or from here are not over: of id-late" in said
    assert changes(cloud) == [DISABLED] and not (tmp_path / "units").exists()


@pytest.mark.parametrize("drain", ["release", "rebuild"])
def test_a_node_of_which_nova_cannot_tell_stays(cloud: Cloud, tmp_path: Path, drain: str) -> None:
    """What Nova says of hosts while it does not reach its database of them, and that it knows of no guest then."""
    cloud.services = {name: {"binary": "nova-compute", "host": name, "status": "UNKNOWN"} for name in cloud.services}
    code, said = run(cloud, tmp_path, PROVISIONER_DRAIN=drain)
    assert code == 1 and "Nova does not reach its database" in said
    assert not changes(cloud)


def test_a_guest_that_somebody_else_moved_meanwhile_is_not_moved_again(cloud: Cloud, tmp_path: Path) -> None:
    cloud.guest("one")
    cloud.guest("two")
    cloud.migrate("id-two")
    assert run(cloud, tmp_path)[0] == 0
    assert [line for line in changes(cloud) if "os-migrateLive" in line] == [MIGRATED]


def test_a_guest_that_was_deleted_meanwhile_holds_up_nothing(cloud: Cloud, tmp_path: Path) -> None:
    cloud.guest("one")
    cloud.guest("two")
    cloud.deletes = "id-two"
    code, said = run(cloud, tmp_path)
    assert code == 0 and "two (id-two) was deleted" in said


@pytest.mark.parametrize(("away", "ends"), [(5, 0), (6, 1)])
def test_a_front_that_moves_is_asked_again(cloud: Cloud, tmp_path: Path, away: int, ends: int) -> None:
    cloud.away = away
    code, said = run(cloud, tmp_path)
    assert code == ends and ("503" in said) is bool(ends)


def test_a_password_that_is_refused_is_one_line(cloud: Cloud, tmp_path: Path) -> None:
    code, said = run(cloud, tmp_path, password="wrong")
    assert code == 1 and len(said.splitlines()) == 1 and "401" in said
