"""Somebody on the provisioning network who is no node: listens, replays, guesses, forges, asks before the node does."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleet_site import Site

from provisioner_agent.protocol.auth import ID_HEADER, MAC_HEADER, NONCE_HEADER
from provisioner_agent.protocol.messages import HELLO, IMAGES, METADATA, ORDER, REPORT, RESULT

SLOW = ("--boot-seconds", "3", "--image-seconds", "3", "--start-seconds", "1")


class Listener(threading.Thread):
    """Hears all that goes to the service over the loopback (packet(7))."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._door = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._door.bind(("lo", 0))
        self._door.settimeout(0.5)
        self.heard = b""
        self.over = False

    def run(self) -> None:
        while not self.over:
            try:
                frame = self._door.recv(65_536)
            except TimeoutError:
                continue
            size = (frame[14] & 15) * 4  # of the IPv4 header, behind the Ethernet header
            segment = frame[14 + size :]
            if frame[23] == 6 and int.from_bytes(segment[2:4], "big") == self._port:
                self.heard += segment[(segment[12] >> 4) * 4 :]
        self._door.close()

    def messages(self) -> list[tuple[str, str, dict[str, str], bytes]]:
        """(method, target, headers, body) of each request of a guest."""
        found = []
        for match in re.finditer(rb"(GET|POST) (/agent/\S+) HTTP/1.1\r\n(.*?)\r\n\r\n", self.heard, re.DOTALL):
            lines = (line.partition(": ") for line in match.group(3).decode().split("\r\n"))
            headers = {name: value for name, _, value in lines}
            body = self.heard[match.end() : match.end() + int(headers.get("Content-Length", "0"))]
            found.append((match.group(1).decode(), match.group(2).decode(), headers, body))
        return found


def ask(
    site: Site, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    try:
        connection.request(method, target, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def node(site: Site, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.run("node", "show", name, "-o", "json"))
    return found


@pytest.mark.integration
def test_what_is_heard_on_the_wire_is_of_no_use(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.fleet(1, *SLOW):
        site.run("node", "enroll", str(site.manifests / "hardware.yaml"))
        listener = Listener(site.port)
        listener.start()
        try:
            site.run("apply", str(site.manifests / "cloud.yaml"), "--wait")
        finally:
            listener.over = True
            listener.join()
        messages = listener.messages()
        kinds = {target.partition("?")[0] for _, target, _, _ in messages}
        assert {HELLO, ORDER, RESULT, METADATA, REPORT} <= kinds, "all of them were heard"
        before = site.run("events")
        for method, target, headers, body in messages:
            assert ask(site, method, target, headers, body)[0] == 401, f"played again: {target}"
            fresh = headers | {NONCE_HEADER: secrets.token_hex(16)}
            assert ask(site, method, target, fresh, body)[0] == 401, f"with another nonce: {target}"
        method, target, headers, body = next(found for found in messages if found[1] == REPORT)
        forged = body.replace(b'"healthy": true', b'"healthy": false')
        again = {**headers, NONCE_HEADER: secrets.token_hex(16), "Content-Length": str(len(forged))}
        assert ask(site, method, target, again, forged)[0] == 401, "with another body"
        assert site.run("events") == before, "nothing was recorded"
        (listed,) = site.nodes()
        assert (listed["state"], listed["healthy"]) == ("active", True)


@pytest.mark.integration
def test_guesses_are_refused_alike_and_lead_nowhere(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.fleet(1, *SLOW):
        site.run("node", "enroll", str(site.manifests / "hardware.yaml"))
        site.run("apply", str(site.manifests / "cloud.yaml"), "--wait")
        answers = set()
        for ident in ("0" * 16, secrets.token_hex(8), "../../etc/passwd", "x" * 5000):
            headers = {ID_HEADER: ident, NONCE_HEADER: secrets.token_hex(16), MAC_HEADER: secrets.token_hex(32)}
            answers.add(ask(site, "GET", f"{METADATA}?since=0", headers))
        answers.add(ask(site, "GET", METADATA))
        assert len(answers) == 1 and next(iter(answers))[0] == 401, "no answer says which guess was nearer"
        for path in (
            "/../keys/signing.key",
            "/%2e%2e/keys/signing.key",
            "/x/../../provisioner.db",
            "/ramdisk/manifest.json",
        ):
            status, body = ask(site, "GET", f"{IMAGES}{path}")
            assert status in (400, 404) and b"PRIVATE" not in body
        status, _ = ask(site, "POST", REPORT, {"Content-Length": str(1 << 40)})
        assert status == 413, "it is not read before it is known whose it is"
        assert site.nodes()[0]["state"] == "active"


@pytest.mark.integration
@pytest.mark.parametrize("first", [True, False], ids=["before the node", "after the node"])
def test_whoever_asks_for_the_boot_script_beside_the_node_ends_the_deployment(tmp_path: Path, first: bool) -> None:
    site = Site(tmp_path)
    with site.fleet(2, *SLOW):
        site.run("node", "enroll", str(site.manifests / "hardware.yaml"))
        entries = yaml.safe_load((site.manifests / "hardware.yaml").read_text())["nodes"]
        target = f"/boot/{entries[0]['ports'][0]['mac']}"
        site.run("apply", str(site.manifests / "cloud.yaml"), "--no-wait")
        stolen = b""
        end = time.monotonic() + 60
        while time.monotonic() < end and node(site, "f00001")["node"]["state"] == "deploying":
            done = {s["name"] for s in node(site, "f00001")["deployment"]["steps"] if s["state"] == "done"}
            if ("power" in done) if first else ("hello" in done):
                stolen = ask(site, "GET", target)[1]
                break
        assert (b"provisioner.token=" in stolen) == first
        site.wait("it has failed", lambda: node(site, "f00001")["node"]["state"] == "failed")
        failure = node(site, "f00001")["node"]["failure"]
        assert "asked for twice" in failure["summary"] and "127.0.0.1" in failure["cause"]
        if first:
            ident = re.search(rb"provisioner.token=([^.]+)", stolen)
            assert ident is not None
            headers = {ID_HEADER: ident.group(1).decode(), NONCE_HEADER: secrets.token_hex(16), MAC_HEADER: "0" * 64}
            assert ask(site, "GET", ORDER, headers)[0] == 401, "the token has ended"
        site.run("node", "retry", "f00001")
        site.wait("both are active", lambda: {n["state"] for n in site.nodes()} == {"active"})
