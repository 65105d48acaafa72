"""What the agent tells of a change: diff without secrets, validators, units, seconds, its clock; the long ones once."""

from __future__ import annotations

import json

from agent_world import CONF, SECRET, World, applied_world
from test_instance_services import controlled

from provisioner_agent.instance import places
from provisioner_agent.instance.account import DIFF_CHARACTERS, HIDDEN, build_mask, cut_diff
from provisioner_agent.instance.document import Document
from provisioner_agent.instance.host import Finished
from provisioner_agent.instance.report import INTERVAL

LONG = "/etc/long.conf"
OPEN = "/etc/open.conf"


def with_template(path: str, text: str, **more: object) -> World:
    """Generation 1 is in force, with another template."""
    world = World()
    world.put(f"{places.TEMPLATES}{path}", text)
    world.offer(1, **more)
    world.start()
    world.go()
    world.forget()
    return world


def test_diff_and_validators_are_told_until_they_are_taken_and_not_again() -> None:
    world = applied_world()
    world.host.programs["check"] = lambda argv, env: Finished(0, "looks good\n")
    world.offer(2, 81)
    real, refuse = world.link.answer, [True]

    def answer(method: str, target: str, body: dict[str, object]) -> object:
        if "diff" in body and refuse[0]:
            refuse[0] = False
            world.away = True
            real(method, target, body)
        world.away = False
        return real(method, target, body)

    world.link.answer = answer
    world.go()
    assert "diff" not in world.reports[-1], "only the first try had them, and it was lost"
    world.host.time += 6
    world.agent.turn()
    told = world.reports[-1]
    assert f"--- {CONF}" in told["diff"] and "-port=80" in told["diff"] and "+port=81" in told["diff"]
    (check,) = told["validators"]
    assert (check["path"], check["command"], check["code"]) == (CONF, "check '{path}'", 0)
    assert check["said"] == "looks good" and check["seconds"] == 0
    world.host.time += INTERVAL + 1
    world.agent.turn()
    assert "diff" not in world.reports[-1] and "validators" not in world.reports[-1]
    world.forget()
    world.start()
    world.agent.turn()
    assert world.reports[0]["diff"] == told["diff"], "an agent that starts does not know what was taken"


def test_what_a_validator_said_no_to_is_told() -> None:
    world = applied_world()
    world.offer(2, "bad")
    world.go()
    assert [(check["code"], check["said"]) for check in world.reports[-1]["validators"]] == [(1, "port is wrong")]


def test_secrets_old_and_new_are_hidden_wherever_they_are() -> None:
    world = with_template(OPEN, "password={{secrets.key}} port={{port}}\n", secrets={"key": "old-secret"})
    world.host.programs["check"] = lambda argv, env: Finished(0, "read new-secret\n")
    world.offer(2, 81, secrets={"key": "new-secret"})
    world.go()
    told = world.reports[-1]
    assert world.text(OPEN) == "password=new-secret port=81\n"
    assert f"-password={HIDDEN} port=80" in told["diff"] and f"+password={HIDDEN} port=81" in told["diff"]
    assert f"{SECRET}: the content differs (sensitive)" in told["diff"]
    assert told["validators"][0]["said"] == f"read {HIDDEN}"
    world.put(OPEN, "password=new-secret port=99\n")
    world.host.time += 301
    world.agent.turn()
    assert f"-password={HIDDEN} port=99" in world.reports[-1]["drift"][OPEN]
    everything = json.dumps(world.reports) + world.text(places.RUN_STATUS)
    assert "old-secret" not in everything and "new-secret" not in everything


def test_secrets_are_hidden_in_why_a_change_failed() -> None:
    world = controlled(web_service="restart")
    world.units["web.service"].bad = "81"
    world.host.programs["journalctl"] = lambda argv, env: Finished(0, "cannot log in with hush-hush\n")
    world.offer(2, 81, secrets={"key": "hush-hush"})
    world.go()
    assert HIDDEN in world.reports[-1]["error"]["cause"]
    assert "hush-hush" not in json.dumps(world.reports) + world.text(places.RUN_STATUS)


def test_a_secret_that_is_cut_is_hidden_all_the_same() -> None:
    secret = "0123456789" * 6
    world = applied_world()
    world.host.programs["check"] = lambda argv, env: Finished(1, f"bad: {secret} {'x' * 470}")
    world.offer(2, 81, secrets={"key": secret})
    world.go()
    assert world.reports[-1]["state"] == "failed" and "x" * 470 in world.reports[-1]["error"]["cause"]
    assert "56789" not in json.dumps(world.reports)


def test_secrets_are_hidden_in_what_probes_say() -> None:
    world = applied_world()
    world.host.programs["probe-node"] = lambda argv, env: Finished(
        "81" in world.text(CONF), f"up as hush-hush{' ' * 190}as hush-hush"
    )
    health = {"node": [{"name": "up", "command": ["probe-node"]}], "wait": 5}
    world.offer(2, 81, secrets={"key": "hush-hush"}, health=health)
    world.go()
    world.host.time += 301
    world.agent.turn()
    assert world.reports[-1]["state"] == "broken" and HIDDEN in world.reports[-1]["probes"]["up"]["output"]
    assert "hush" not in json.dumps(world.reports) + world.text(places.RUN_STATUS)


def test_nobody_else_reads_what_changed_in_files_that_are_not_everybodys() -> None:
    """The diff of a file by hand is in it, and that file may be for root alone."""
    assert applied_world().host.files[places.RUN_STATUS].mode == 0o600


def test_a_secret_of_several_lines_is_hidden_line_by_line() -> None:
    secrets = {"pem": "-----BEGIN KEY-----\nMIIabc\nMIIdef\n-----END KEY-----\n", "deep": {"it": ['in"side', 4711]}}
    mask = build_mask(Document(1, {"secrets": secrets}), None)
    shown = mask('+MIIabc\n+MIIdef\n {"it":["in\\"side",4711]}\n port=80')
    assert shown == f'+{HIDDEN}\n+{HIDDEN}\n {{"it":["{HIDDEN}",{HIDDEN}]}}\n port=80'


def test_the_key_of_a_certificate_is_hidden_too() -> None:
    pair = {"certificate": "-----BEGIN CERTIFICATE-----\nMIIpublic\n", "key": "-----BEGIN PRIVATE KEY-----\nMIGkey\n"}
    mask = build_mask(Document(1, {"certificates": {"web": pair}}), None)
    assert mask("+MIIpublic\n+MIGkey") == f"+MIIpublic\n+{HIDDEN}"


def test_a_long_diff_is_cut_at_the_end_of_a_line() -> None:
    world = with_template(LONG, "{{#lines}}\n{{.}}\n{{/lines}}\n", values={"port": 80, "lines": []})
    world.offer(2, values={"port": 80, "lines": [f"line {number} {'x' * 90}" for number in range(1000)]})
    world.go()
    diff = world.reports[-1]["diff"]
    assert len(diff) < DIFF_CHARACTERS + 200 and "more lines" in diff.splitlines()[-1]
    assert diff.splitlines()[-2].endswith("x")
    assert cut_diff("a\nb") == "a\nb"


def test_it_is_told_how_long_each_part_took() -> None:
    world = applied_world()
    world.host.programs["check"] = lambda argv, env: (world.host.sleep(2), Finished(0, ""))[1]
    world.host.programs["probe-node"] = lambda argv, env: (world.host.sleep(3), Finished(0, "up"))[1]
    world.offer(2, 81)
    world.go()
    taken = world.reports[-1]["seconds"]
    assert {name: taken[name] for name in ("render", "validate", "switch", "probes")} == {
        "render": 0,
        "validate": 2,
        "switch": 0,
        "probes": 3,
    }
    assert {"permit", "phases"} <= set(taken)


def test_units_of_managed_files_are_told() -> None:
    world = controlled(web_service="restart", db_service="phase")
    assert world.agent.units == {"web.service": "active", "db.service": "active"}
    world.units["db.service"].active, world.units["db.service"].result = "failed", "oom-kill"
    world.host.time += 16
    world.agent.turn()
    assert world.reports[-1]["services"] == {"db.service": "failed (oom-kill)", "web.service": "active"}
    status = json.loads(world.text(places.RUN_STATUS))
    assert status["services"]["db.service"] == "failed (oom-kill)"


def test_units_are_told_while_a_change_goes_on() -> None:
    world = controlled(web_service="restart")
    world.offer(2, 81)
    world.go()
    assert len(world.reports) > 1
    assert all(report["services"] == {"web.service": "active"} for report in world.reports)


def test_without_units_systemd_is_not_asked() -> None:
    world = applied_world()
    before = len([argv for argv, _ in world.host.runs if argv[0] == "systemctl"])
    world.host.time += 16
    world.agent.turn()
    assert world.agent.units == {} and before == 0
    assert not [argv for argv, _ in world.host.runs if argv[0] == "systemctl"]


def test_the_clock_is_told_as_it_is_when_it_is_sent() -> None:
    world = applied_world()
    world.host.time += INTERVAL + 1
    world.agent.turn()
    assert world.reports[-1]["clock"] == world.host.time
    count = len(world.reports)
    world.host.time += 1
    world.agent.turn()
    assert len(world.reports) == count, "a clock that goes on is no news"


def test_a_usual_report_is_small() -> None:
    world = controlled(web_service="restart")
    world.offer(2, 81)
    world.go()
    world.host.time += INTERVAL + 1
    world.agent.turn()
    assert len(json.dumps(world.reports[-1])) < 1500
