"""A config agent in a world in memory: an instance, a server, and both in the hands of the test."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioner_agent.instance import places
from provisioner_agent.instance.agent import Agent
from provisioner_agent.instance.collect import Box, Collector
from provisioner_agent.instance.document import read_document
from provisioner_agent.instance.host import FakeHost, FileState, Finished, Killed
from provisioner_agent.instance.journal import DOCUMENT
from provisioner_agent.instance.services import OWN, WATCH
from provisioner_agent.instance.signature import Verifier
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.link import FakeLink, ServerAway

CONF = "/etc/service.conf"
SECRET = "/etc/service.secret"
OLD_STYLE = "/etc/only-when-old"


def metadata(generation: int, port: Any = 80, **more: Any) -> dict[str, Any]:
    return {
        "generation": generation,
        "cloud": {"name": "lab"},
        "role": {"name": "web", "count": 3, "once": ["first"], "at_a_time": 1},
        "node": {"name": "n1", "hostname": "web-0"},
        "members": {"web": []},
        "values": {"port": port},
        "secrets": {"key": f"key-{generation}"},
        "health": {
            "node": [{"name": "up", "command": ["probe-node"], "expect": "up"}],
            "role": [{"name": "size", "command": ["probe-role"], "expect": "{count}"}],
            "wait": 60,
        },
        "permit": True,
    } | more


@dataclass
class Unit:
    """A unit of the world's systemd. ``read``: what the file that it is about said when it last started or reloaded.

    ``bad``: a word in that file with which it does not start; ``dies``: one with which it starts, and dies. ``misses``:
    of how many starts nothing comes, whatever the file says. ``again``: systemd starts it anew after that (Restart=).
    ``after``: units that come before it (After=). ``begun``: when somebody else started it, in microseconds.
    """

    active: str = "active"
    result: str = "success"
    kind: str = "simple"
    found: bool = True
    about: str = ""
    read: str = ""
    bad: str = "\0"
    dies: str = "\0"
    misses: int = 0
    again: bool = False
    after: str = ""
    begun: int = 0


@dataclass
class World:
    """``generation``: what the server offers. ``granted``: its answer to who asks for a permit.

    ``systemctl``: what it was told to do, but for questions; before the call of the number ``kill_in_systemctl`` the
    agent dies. ``confirms``: generations of which the server was asked for its word over a new connection; ``opened``:
    how many of those were made; none gets through while ``cut_off`` says so. ``watched``: generations whose watch was
    started, with the files as they were then; ``watch_code``: how that ended. ``restarted``: how often somebody else
    started the agent.
    """

    host: FakeHost = field(default_factory=FakeHost)
    offered: dict[str, Any] | None = None
    generation: int = 0
    granted: bool = True
    away: bool = False
    once: dict[str, Any] = field(default_factory=lambda: {"first": {"do": True, "fence": 7}})
    reports: list[dict[str, Any]] = field(default_factory=list)
    permits: list[tuple[str, int]] = field(default_factory=list)
    scripts: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    failing: dict[str, int] = field(default_factory=dict)
    node: str = "up"
    role: str = "3"
    bad_port: str = "bad"
    units: dict[str, Unit] = field(default_factory=dict)
    systemctl: list[str] = field(default_factory=list)
    kill_in_systemctl: int | None = None
    confirms: list[int] = field(default_factory=list)
    cut_off: Callable[[], bool] = bool
    opened: int = 0
    watched: list[tuple[int, str]] = field(default_factory=list)
    watch_code: int = 0
    restarted: int = 0

    def __post_init__(self) -> None:
        top = places.TEMPLATES
        self.put(f"{top}{CONF}", "port={{port}}\n")
        self.put(f"{top}{CONF}.control", '{"validate": ["check", "{path}"]}')
        self.put(f"{top}{SECRET}", "{{secrets.key}}")
        self.put(f"{top}{SECRET}.control", '{"mode": "0600", "sensitive": true}')
        for name in ("pre-configure.d/10-stop", "configure.d/20-b", "configure.d/10-a", "post-configure.d/10-start"):
            self.script(name)
        self.host.programs["probe-node"] = lambda argv, env: Finished(0, f"{self.node}\n")
        self.host.programs["probe-role"] = lambda argv, env: Finished(0, f"{self.role}\n")
        self.host.programs["check"] = self._check
        self.host.programs["systemctl"] = self._systemctl
        self.host.programs["journalctl"] = lambda argv, env: Finished(
            0, f"{argv[-1].partition('=')[2]}: no such port\n"
        )
        self.link = FakeLink(self._answer)

    def control(self, path: str, text: str) -> None:
        """The control file beside the template of ``path``."""
        self.put(f"{places.TEMPLATES}{path}.control", text)

    def unit(self, name: str, about: str = CONF, **more: Any) -> Unit:
        """A unit that runs with the file ``about`` as it is."""
        self.units[name] = Unit(about=about, read=self.text(about), **more)
        return self.units[name]

    def _systemctl(self, argv: tuple[str, ...], env: Mapping[str, str]) -> Finished:
        verb, *names = [word for word in argv[1:] if not word.startswith("-")]
        if verb == "show":
            return Finished(
                0, "\n".join(self._show(self.units.get(name, Unit("inactive", found=False))) for name in names)
            )
        if verb == "reset-failed":
            return Finished(0, "")
        if self.kill_in_systemctl is not None:
            self.kill_in_systemctl -= 1
            if self.kill_in_systemctl < 0:
                raise Killed
        if (verb, names) == ("restart", [WATCH]):
            document = read_document(self.host, DOCUMENT)
            self.watched.append((document.generation if document else 0, self.text(CONF)))
            return Finished(self.watch_code, "Job for the watch failed.\n" if self.watch_code else "")
        self.systemctl.append(" ".join(argv[1:]))
        if verb == "daemon-reload":
            return Finished(0, "")
        if names == [OWN]:
            if argv[1] != "--no-block":
                raise Killed
            self.restarted += 1
            return Finished(0, "")
        unit = self.units.get(names[0])
        if unit is None or not unit.found:
            return Finished(5, f"Unit {names[0]} not found.\n")
        if verb == "stop":
            unit.active = "inactive"
            return Finished(0, "")
        unit.read = self.text(unit.about)
        if unit.bad in unit.read or unit.misses:
            unit.misses = max(0, unit.misses - 1)
            unit.active, unit.result = "activating" if unit.again else "failed", "exit-code"
            return Finished(1, f"Job for {names[0]} failed.\n")
        unit.active, unit.result = ("failed", "signal") if unit.dies in unit.read else ("active", "success")
        return Finished(0, "")

    @staticmethod
    def _show(unit: Unit) -> str:
        load = "loaded" if unit.found else "not-found"
        after = f"After={unit.after}\n"
        begun = f"InactiveExitTimestampMonotonic={unit.begun}\nExecMainStartTimestampMonotonic={unit.begun}\n"
        state = f"LoadState={load}\nActiveState={unit.active}\nResult={unit.result}\n"
        return f"Type={unit.kind}\n{state}{begun}{after}"

    def open_link(self) -> FakeLink:
        """A new connection."""
        self.opened += 1
        return FakeLink(self._answer_anew)

    def _answer_anew(self, method: str, target: str, body: Mapping[str, Any]) -> Any:
        if self.cut_off():
            raise ServerAway("the server does not answer: timed out")
        if "confirming" in body and not self.away:
            self.confirms.append(body["confirming"])
        return self._answer(method, target, body)

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        self.host.files[path] = FileState(text.encode(), mode)

    def script(self, name: str, text: str = "#!/bin/sh\n") -> None:
        path = f"{places.PHASES}/{name}"
        self.put(path, text, 0o755)
        self.host.programs[path] = lambda argv, env: self._script(name, env)

    def _script(self, name: str, env: Mapping[str, str]) -> Finished:
        self.scripts.append((name, dict(env), self.text(CONF)))
        code = self.failing.get(name, 0)
        if code == -1:
            raise Killed
        return Finished(code, "first word\nlast word\n")

    def _check(self, argv: tuple[str, ...], env: Mapping[str, str]) -> Finished:
        bad = self.bad_port in self.host.files[argv[1]].data.decode()
        return Finished(1 if bad else 0, "port is wrong\n" if bad else "")

    def offer(self, generation: int, port: Any = 80, **more: Any) -> None:
        self.generation = generation
        self.offered = metadata(generation, port, **more)

    def _answer(self, method: str, target: str, body: Mapping[str, Any]) -> Any:
        if self.away:
            raise ServerAway("the server does not answer: connection refused")
        if target.startswith(messages.METADATA):
            return {"generation": self.generation, "metadata": self.offered} if self.offered else {}
        if target == messages.REPORT:
            self.reports.append(json.loads(json.dumps(body)))
            return {}
        self.permits.append((body["action"], body["generation"]))
        if body["action"] == "release":
            return {}
        return {"granted": self.granted, "why": "web-1 changes" if not self.granted else "", "once": self.once}

    def start(self) -> Agent:
        """The agent's process starts: all it knows is on the disk."""
        self.box = Box(read_document(self.host, places.METADATA))
        self.collector = Collector(self.host, self.link, self.box, random.Random(1), Verifier(self.host, {}))
        self.agent = Agent(self.host, self.link, self.box, random.Random(1), self.open_link)
        return self.agent

    def reboot(self) -> Agent:
        self.host.boot += "+"
        for path in [path for path in self.host.files if path.startswith("/run/")]:
            del self.host.files[path]
        for unit in self.units.values():
            unit.active, unit.read = "inactive", ""
        return self.start()

    def go(self) -> None:
        """Collect once and do what is due."""
        self.collector.step()
        self.agent.turn()

    def text(self, path: str) -> str:
        state = self.host.files.get(path)
        return state.data.decode() if state else ""

    def ran(self) -> list[str]:
        return [name for name, _, _ in self.scripts]

    def forget(self) -> None:
        self.scripts.clear()
        self.reports.clear()
        self.permits.clear()
        self.systemctl.clear()


def applied_world() -> World:
    """Generation 1 is in force and green."""
    world = World()
    world.offer(1)
    world.start()
    world.go()
    world.forget()
    return world
