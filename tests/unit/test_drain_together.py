"""The service and the config agent together: what the one asks for is what the other does, word for word."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from conductor_rack import Rack, cloud

from provisioner_agent.instance import places
from provisioner_agent.instance.agent import Agent
from provisioner_agent.instance.collect import Box, Collector
from provisioner_agent.instance.host import FakeHost, FileState, Finished
from provisioner_agent.instance.signature import Verifier
from provisioner_agent.protocol.link import FakeLink
from provisioner_agent.protocol.messages import METADATA, REPORT


class Together:
    """A cloud of two, in which the agent of the second member is the real one, on a host in memory."""

    def __init__(self, folder: Path) -> None:
        self.rack = Rack(folder, 2, cloud(2))
        self.rack.enroll()
        self.rack.apply()
        self.rack.play()
        self.server = self.rack.servers["node2"]
        found = re.search(r'"token": "(\S+)\.(\S+)"', self.server.files["/etc/provisioner-agent/agent.json"])
        assert found
        self.ident = found[1]
        self.server.running = "nothing"  # from here on the agent below speaks for it
        self.host = FakeHost()
        self.host.programs["true"] = lambda argv, env: Finished(0, "2\n")
        self.ran: list[str] = []
        self.codes: dict[str, int] = {}
        for name in ("drain.d/50-guests", "undrain.d/50-guests", "configure.d/50-start"):
            self.script(name)
        link = FakeLink(self.answer)
        box = Box()
        self.collector = Collector(self.host, link, box, random.Random(1), Verifier(self.host, {}))
        self.agent = Agent(self.host, link, box, random.Random(1))

    def script(self, name: str) -> None:
        path = f"{places.PHASES}/{name}"
        self.host.files[path] = FileState(b"#!/bin/sh\n", 0o755)

        def run(argv: tuple[str, ...], env: Mapping[str, str]) -> Finished:
            self.ran.append(name)
            return Finished(self.codes.get(name, 0), "its last word\n")

        self.host.programs[path] = run

    def answer(self, method: str, target: str, body: Mapping[str, Any]) -> Any:
        conductor = self.rack.conductor
        if target.startswith(METADATA):
            asked = parse_qs(urlsplit(target).query)
            have = asked.get("have", [""])[0].split(",")
            text = self.rack.metadata(self.ident, int(asked["since"][0]), have)
            return {} if text is None else json.loads(text)
        if target == REPORT:
            return conductor.report(self.ident, json.loads(json.dumps(body)))
        return conductor.permit(self.ident, body)

    def go(self, rounds: int = 6) -> None:
        for _ in range(rounds):
            self.rack.conductor.tick()
            if self.rack.states()["node2"] in ("active", "failed"):
                self.collector.step()
                self.agent.turn()
            self.rack.live(self.rack.servers["node1"])
            self.rack.clock.sleep(3)
            self.host.sleep(3)


def test_an_instance_is_drained_and_ends(tmp_path: Path) -> None:
    both = Together(tmp_path)
    both.go()
    both.ran.clear()
    both.rack.conductor.release("node2")
    assert both.rack.states()["node2"] == "active"
    both.go()
    assert both.ran == ["drain.d/50-guests"] and both.rack.states()["node2"] == "available"
    told = [event for event in both.rack.events() if "instance.drain" in event]
    assert told == [
        "node2 instance.drain: running",
        "node2 instance.drain: running: drain.d/50-guests",
        "node2 instance.drain: drained",
    ]


def test_one_that_is_not_drained_stays_and_is_let_back_in(tmp_path: Path) -> None:
    both = Together(tmp_path)
    both.go()
    both.ran.clear()
    both.codes["drain.d/50-guests"] = 3
    both.rack.conductor.release("node2")
    both.go()
    failure = both.rack.store.nodes.get("node2").failure
    assert failure is not None and failure["summary"] == "the phase script drain.d/50-guests ended with code 3"
    assert "its last word" in failure["cause"] and both.ran == ["drain.d/50-guests"]
    both.codes.clear()
    both.rack.conductor.abort_departures("lab")
    both.go()
    assert both.ran[1:] == ["undrain.d/50-guests", "configure.d/50-start"]
    status = both.rack.conductor.cloud_status("lab")
    assert status.ready and not status.leaving, status
    assert both.rack.store.permits.taken("lab", "web") == []


def test_a_resumed_drain_is_another_one(tmp_path: Path) -> None:
    both = Together(tmp_path)
    both.go()
    both.ran.clear()
    both.codes["drain.d/50-guests"] = 3
    both.rack.conductor.release("node2")
    both.go()
    both.codes.clear()
    both.rack.conductor.resume("lab")
    both.go()
    assert both.ran == ["drain.d/50-guests"] * 2 and both.rack.states()["node2"] == "available"
