"""RabbitMQ of three controllers, with real programs and no machines: they start at once, one dies, each comes with an
empty disk, power fails for all, some never come back or leave; what asks and answers by it goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rig import ROOT, WIRE, Machine, Member, in_namespace, metadata, rendered, wait_until, wired

OWN = {
    "etc/rabbitmq": "/etc/rabbitmq",
    "var/lib/rabbitmq": "/var/lib/rabbitmq",
    "log": "/var/log/rabbitmq",
    "run": "/run",
    "bin": "/usr/local/bin",
}
"""Folders of a controller → where they lie in its own mounts."""
SCRIPTS = ROOT / "elements" / "controller" / "os-refresh-config"
PHASE, DRAIN = SCRIPTS / "configure.d" / "40-rabbitmq", SCRIPTS / "drain.d" / "40-rabbitmq"
STATUS = ROOT / "elements" / "controller" / "bin" / "openstack-status"
SYSTEMCTL = r"""#!/bin/bash
# Of systemctl what the phase script uses, for one unit, whose process has its id in /run/rig/pid.
pid=/run/rig/pid; log=/run/rig/rabbitmq-server.log
alive() { [ -e $pid ] && kill -0 "$(cat $pid)" 2>/dev/null; }
stop() { ! alive || rabbitmqctl -q stop; for _ in $(seq 300); do alive || break; sleep 0.1; done; }
start() {
    ! alive || return 0
    HOME=/var/lib/rabbitmq setsid setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups \
        /usr/lib/rabbitmq/bin/rabbitmq-server </dev/null >>$log 2>&1 &
    echo $! >$pid
    for _ in $(seq 60); do
        alive || return 1
        rabbitmqctl -q await_startup --timeout 60 >>$log 2>&1 && return 0
        sleep 1
    done
    return 1
}
case $1 in
is-active) alive || exit 3 ;;
reset-failed) ;;
start) start ;;
stop) stop ;;
restart) stop; start ;;
esac
"""
RPC = '''
"""serve|ask CONF: what Nova's services do with RabbitMQ, by their own library and our configuration."""
import sys
import oslo_messaging
from oslo_config import cfg

verb, conf = sys.argv[1:]
CONF = cfg.CONF
CONF(["--config-file", conf], project="rig")
transport = oslo_messaging.get_rpc_transport(CONF)

class Echo:
    def echo(self, context, number):
        return number

if verb == "serve":
    where = oslo_messaging.Target(topic="rig", server="one")
    server = oslo_messaging.get_rpc_server(transport, where, [Echo()], executor="threading")
    server.start()
    server.wait()
client = oslo_messaging.RPCClient(transport, oslo_messaging.Target(topic="rig"), timeout=10)
number = 0
while True:
    try:
        number = client.call({}, "echo", number=number + 1)
    except oslo_messaging.MessagingException:
        continue
    print(number, flush=True)
'''
BOOTS, FIRST = {"PROVISIONER_BOOT": "1"}, {"PROVISIONER_FIRST": "1"}
LIMIT = 240.0
"""Seconds; the limit of a hang, no bar."""


class Controller(Machine):
    @property
    def hostname(self) -> str:
        return f"controller-{self.index}"

    @property
    def node(self) -> str:
        return f"rabbit@{self.address}"

    def ask(self, *words: str) -> Any:
        """What RabbitMQ's tools say; None when they cannot."""
        done = self.run(*words, "--formatter", "json")
        return json.loads(done.stdout) if done.returncode == 0 else None

    def well(self) -> bool:
        """As the role's probe sees it."""
        return self.run("/usr/bin/python3", str(STATUS), "messages").returncode == 0


@dataclass(frozen=True)
class Replacement:
    """Who is named in the place of a dead member, and is not there yet."""

    index: int
    address: str = "10.88.0.99"

    @property
    def hostname(self) -> str:
        return f"controller-{self.index}"


@dataclass
class Rig:
    """``controllers``: those that are members."""

    folder: Path
    controllers: Sequence[Controller]

    def metadata(self, one: Controller) -> dict[str, Any]:
        return metadata("controller", self.controllers, one, {})

    def furnish(self, one: Controller) -> None:
        """Give it an empty disk, with the files of its configuration."""
        one.end()
        shutil.rmtree(one.folder, ignore_errors=True)
        self.render(one)
        for name in OWN:
            (one.folder / name).mkdir(parents=True, exist_ok=True)
        for place in (one.folder / "log", one.folder / "var/lib/rabbitmq"):
            shutil.chown(place, "rabbitmq", "rabbitmq")
        for name, text in (
            ("systemctl", SYSTEMCTL),
            ("journalctl", "#!/bin/sh\ntail -n 25 /run/rig/rabbitmq-server.log\n"),
        ):
            (one.folder / "bin" / name).write_text(text)
            (one.folder / "bin" / name).chmod(0o755)
        one.furnish(OWN)

    def render(self, one: Controller, named: Sequence[Member] | None = None) -> None:
        """:param named: other members than those that are there."""
        members = self.metadata(one) if named is None else metadata("controller", named, one, {})
        for path, file in rendered("controller", members).items():
            if "/rabbitmq/" in path or path == "/etc/nova/nova.conf":
                place = one.folder / path.lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(file.content)
                place.chmod(file.mode)
                if "/rabbitmq/" in path:
                    shutil.chown(place, file.owner, file.group)
        (one.folder / "metadata.json").write_text(json.dumps(members))
        waits = one.folder / "etc/rabbitmq/conf.d/99-rig.conf"
        waits.write_text("mnesia_table_loading_retry_timeout = 5000\n")

    def configure(self, *which: Controller, **env: str) -> None:
        """The phase script, on all of these at once. :param env: what the agent tells it besides."""

        with ThreadPoolExecutor() as pool:
            for done in pool.map(lambda one: self.run(one, PHASE, **env), which):
                assert done.returncode == 0, done.stdout + done.stderr + self.log()

    def run(self, one: Controller, script: Path, **env: str) -> subprocess.CompletedProcess[str]:
        began = time.monotonic()
        done = one.run(str(script), limit=2 * LIMIT, PROVISIONER_METADATA=str(one.folder / "metadata.json"), **env)
        told = [line for line in done.stdout.splitlines() if line.startswith("rabbitmq: ")]
        ended = f"{one.hostname} {script.parent.name} {done.returncode} {time.monotonic() - began:.0f} s"
        print(ended, *told, sep="\n  ")
        return done

    def whole(self) -> bool:
        """Each sees all of them, and runs."""
        nodes = {one.node for one in self.controllers}
        seen = [one.ask("rabbitmqctl", "-q", "cluster_status") for one in self.controllers]
        return all(said is not None and set(said["running_nodes"]) == set(said["disk_nodes"]) == nodes for said in seen)

    def keepers(self) -> set[str]:
        """The nodes that have what is asked and not answered yet, and are at hand."""
        queues = self.controllers[0].ask("rabbitmqctl", "-q", "list_queues", "name", "online") or []
        return next((set(queue["online"]) for queue in queues if queue["name"] == "rig"), set())

    def kept_by_all(self) -> bool:
        return self.keepers() == {one.node for one in self.controllers}

    def wait(self, what: str, holds: Callable[[], bool]) -> None:
        wait_until(what, holds, LIMIT, self.log)

    def log(self) -> str:
        return "\n".join(f"--- {one.hostname}\n{one.log('rabbitmq-server')}" for one in self.controllers)


class Calls:
    """A service that asks another one without a pause, both as on a node that is no controller."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._said = rig.folder / "answers"

    @contextmanager
    def going(self) -> Iterator[None]:
        conf = str(self._rig.controllers[-1].folder / "etc/nova/nova.conf")
        with self._said.open("wb") as said, (self._rig.folder / "rpc.log").open("wb") as log:
            words = [*in_namespace(WIRE, "/usr/bin/python3", "-c", RPC)]
            processes = [
                subprocess.Popen([*words, verb, conf], stdin=subprocess.DEVNULL, stdout=said, stderr=log)
                for verb in ("serve", "ask")
            ]
            try:
                yield
            finally:
                for process in processes:
                    process.kill()
                    process.wait()

    def answered(self) -> int:
        return len(self._said.read_bytes().splitlines())

    def go_on(self, after: str) -> None:
        before = self.answered()
        self._rig.wait(f"calls are answered after {after}", lambda: self.answered() > before + 20)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    for folder in (tmp_path, tmp_path.parent):
        folder.chmod(0o755)  # RabbitMQ is no root
    rig = Rig(tmp_path, [Controller(index, tmp_path / f"c{index}") for index in range(3)])
    with wired(rig.controllers):
        yield rig


@pytest.mark.rack
def test_messages_outlive_controllers(rig: Rig) -> None:
    first = rig.controllers[0]
    for one in rig.controllers:
        rig.furnish(one)
    rig.configure(*rig.controllers, **BOOTS, **FIRST)
    assert rig.whole(), f"all found each other though they started at once\n{rig.log()}"
    calls = Calls(rig)
    with calls.going():
        calls.go_on("the start")
        rig.wait("all keep what is asked", rig.kept_by_all)

        first.cut_power()
        calls.go_on("the death of one")
        rig.configure(first, **BOOTS)
        assert rig.whole()

        for one in rig.controllers:  # as a rolling rebuild does, or a replacement under the same name
            rig.furnish(one)
            rig.configure(one, **BOOTS, **FIRST)
            assert rig.whole(), f"{one.hostname} came with an empty disk\n{rig.log()}"
            rig.wait("all keep what is asked", rig.kept_by_all)
            calls.go_on(f"{one.hostname} came with an empty disk")

        for one in rig.controllers:
            one.cut_power()
        rig.configure(*rig.controllers, **BOOTS)
        rig.wait("all are up again", lambda: rig.whole() and all(one.well() for one in rig.controllers))
        calls.go_on("a power cut of all")


@pytest.mark.integration
def test_one_controller_becomes_three_and_may_die_then(rig: Rig) -> None:
    first, *more = every = rig.controllers
    rig.controllers = [first]
    rig.furnish(first)
    rig.configure(first, **BOOTS, **FIRST)
    alone = Calls(rig)
    with alone.going():
        alone.go_on("the start")
    rig.controllers = every
    for one in more:
        rig.furnish(one)
    rig.configure(*more, **BOOTS, **FIRST)
    rig.render(first)
    rig.configure(first)
    assert rig.whole()
    rig.wait("all keep what was there before", rig.kept_by_all)
    calls = Calls(rig)
    with calls.going():
        calls.go_on("it became three")
        first.cut_power()
        calls.go_on("the first died")


def begun(rig: Rig) -> None:
    for one in rig.controllers:
        rig.furnish(one)
    rig.configure(*rig.controllers, **BOOTS, **FIRST)
    assert rig.whole(), rig.log()


@pytest.mark.rack
def test_two_of_three_begin_after_a_power_cut(rig: Rig) -> None:
    dead, second, third = every = rig.controllers
    begun(rig)
    calls = Calls(rig)
    with calls.going():
        calls.go_on("the start")
        rig.wait("all keep what is asked", rig.kept_by_all)
        for one in (second, third, dead):  # it ends last, so the others know that it may have what they have not
            one.cut_power()

        said = rig.run(third, PHASE, **BOOTS)
        assert said.returncode != 0
        assert said.stdout.splitlines()[-1] == (
            "rabbitmq: 1 of 3 members are up, 2 are needed: it waits for controller-0, controller-1; "
            "if none of them comes back: lost: [n0, n1] of this role in the cloud file, then provisioner apply"
        )
        third.cut_power()
        rig.configure(second, third, **BOOTS)
        rig.controllers = [second, third]
        rig.wait("both are well", lambda: all(one.well() for one in rig.controllers))
        calls.go_on("a power cut that one did not outlive")

        rig.controllers = every
        rig.configure(dead, **BOOTS)
        assert rig.whole(), "it came back after all"

        for one in (second, third, dead):
            one.cut_power()
        rig.controllers = [second, third]
        for one in rig.controllers:
            rig.render(one, [Replacement(0), second, third])
        rig.configure(second, third, **BOOTS)
        rig.wait("the dead one is forgotten", lambda: rig.whole() and all(one.well() for one in rig.controllers))
        calls.go_on("another was named in its place")


@pytest.mark.rack
def test_three_controllers_become_one(rig: Rig) -> None:
    first, second, third = every = rig.controllers
    begun(rig)
    calls = Calls(rig)
    leaves = {"PROVISIONER_DRAIN": "release"}
    with calls.going():
        calls.go_on("the start")
        rig.wait("all keep what is asked", rig.kept_by_all)

        assert rig.run(third, DRAIN, **leaves).returncode == 0
        assert third.node not in first.ask("rabbitmqctl", "-q", "cluster_status")["disk_nodes"]
        rig.configure(third, **BOOTS)  # its departure was aborted
        assert rig.whole(), rig.log()
        rig.wait("it keeps what is asked as before", rig.kept_by_all)
        calls.go_on("one stayed after all")

        for one in (third, second):
            done = rig.run(one, DRAIN, **leaves)
            assert done.returncode == 0, done.stdout + done.stderr
            one.cut_power()
            calls.go_on(f"{one.hostname} left")
        rig.controllers = [first]
        rig.render(first)
        rig.configure(first)
        assert rig.whole() and first.well()

        rig.controllers = every
        for one in (second, third):
            rig.furnish(one)
        rig.configure(second, third, **BOOTS, **FIRST)
        rig.render(first)
        rig.configure(first)
        assert rig.whole()
        rig.wait("all keep what was there before", rig.kept_by_all)
        for one in (second, third):
            one.cut_power()
        rig.wait("it pauses", lambda: first.run("rabbitmq-diagnostics", "-q", "check_running").returncode != 0)
        assert rig.run(first, PHASE).returncode != 0, "two may come back"
        rig.controllers = [first]
        rig.render(first)
        rig.configure(first)
        rig.wait("the two that are removed are forgotten", lambda: rig.whole() and first.well())
        calls.go_on("two died and were removed")


@pytest.mark.rack
def test_members_that_began_apart_become_one_cluster(rig: Rig) -> None:
    first, second, third = rig.controllers
    begun(rig)
    calls = Calls(rig)
    with calls.going():
        calls.go_on("the start")
        for one in rig.controllers:
            one.cut_power()
        rig.furnish(second)
        rig.configure(second, **BOOTS, **FIRST)
        for one in (first, third):
            rig.configure(one, **BOOTS)
        assert rig.whole(), f"one began with an empty disk while the others had no power\n{rig.log()}"
        calls.go_on("two found a new cluster")

        for one in rig.controllers:
            one.cut_power()
            rig.furnish(one)
        for group in ([first, second], [third]):
            for one in group:
                rig.render(one, group)
            rig.configure(*group, **BOOTS, **FIRST)
        assert not rig.whole()
        for one in rig.controllers:
            rig.render(one)
        rig.configure(second)
        assert rig.whole(), f"two clusters became one\n{rig.log()}"
        rig.configure(first, third)
        assert rig.whole()
        calls.go_on("two clusters became one")
