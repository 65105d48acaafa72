"""Somebody on the provisioning network who is no node: listens, replays, guesses, forges, asks before the node does."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleet_site import Site

from provisioner.trust.ca import ensure_ca, ensure_server
from provisioner_agent.protocol.auth import ID_HEADER, MAC_HEADER, NONCE_HEADER, request_mac
from provisioner_agent.protocol.link import HttpLink, ServerAway
from provisioner_agent.protocol.messages import HELLO, IMAGES, METADATA, ORDER, REPORT, RESULT
from provisioner_agent.protocol.servers import Servers

SLOW = ("--boot-seconds", "3", "--image-seconds", "3", "--start-seconds", "1")


class Listener(threading.Thread):
    """Hears all that goes to some ports of the loopback, and comes from them (packet(7))."""

    def __init__(self, *ports: int) -> None:
        super().__init__(daemon=True)
        self._ports = ports
        self._door = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._door.bind(("lo", 0))
        self._door.settimeout(0.5)
        self.heard = dict.fromkeys(ports, b"")
        self.over = False

    def run(self) -> None:
        while not self.over:
            try:
                frame = self._door.recv(65_536)
            except TimeoutError:
                continue
            size = (frame[14] & 15) * 4  # of the IPv4 header, behind the Ethernet header
            segment = frame[14 + size :]
            if frame[23] != 6:
                continue
            for port in (int.from_bytes(segment[:2], "big"), int.from_bytes(segment[2:4], "big")):
                if port in self._ports:
                    self.heard[port] += segment[(segment[12] >> 4) * 4 :]
        self._door.close()


def ask(
    site: Site, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> tuple[int, bytes]:
    """As firmware for boot scripts, as an agent for all else."""
    if target.startswith("/boot/"):
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    else:
        trust = ssl.create_default_context(cafile=str(site.folder / "state" / "keys" / "ca.crt"))
        connection = http.client.HTTPSConnection("127.0.0.1", site.agents_port, timeout=30, context=trust)
    try:
        connection.request(method, target, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def say(site: Site, token: str, method: str, target: str, body: dict[str, Any] | None = None) -> int:
    """As whoever has this token; the status of the answer."""
    ident, _, secret = token.partition(".")
    data, nonce = b"" if body is None else json.dumps(body).encode(), secrets.token_hex(16)
    mac = request_mac(secret, method, target, nonce, data)
    return ask(site, method, target, {ID_HEADER: ident, NONCE_HEADER: nonce, MAC_HEADER: mac}, data)[0]


def done(site: Site, name: str) -> set[str]:
    """The steps that are done."""
    return {step["name"] for step in node(site, name)["deployment"]["steps"] if step["state"] == "done"}


def node(site: Site, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.run("node", "show", name, "-o", "json"))
    return found


@pytest.mark.integration
def test_what_is_heard_on_the_wire_is_of_no_use(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.fleet(1, *SLOW):
        site.run("node", "enroll", str(site.manifests / "hardware.yaml"))
        listener = Listener(site.port, site.agents_port)
        listener.start()
        statuses: list[int] = []
        try:
            site.run("apply", str(site.manifests / "cloud.yaml"), "--no-wait")
            site.wait("the ramdisk is at work", lambda: "hello" in done(site, "f00001"), pause=0.1)
            found = re.search(rb"provisioner\.token=(\S+)", listener.heard[site.port])
            assert found is not None, "the boot script can be read"
            token = found.group(1).decode()
            statuses += [say(site, token, "GET", f"{ORDER}?wait=0"), say(site, token, "POST", RESULT, {"order": "x"})]
            site.wait("it is active", lambda: site.nodes()[0]["healthy"] is True)
        finally:
            listener.over = True
            listener.join()
        statuses += [say(site, token, "POST", HELLO, {}), say(site, token, "GET", f"{METADATA}?since=0&wait=0")]
        assert statuses == [401] * 4, "the ramdisk speaks under a secret of its own, and the token has ended"
        spoken = listener.heard[site.agents_port]
        assert len(spoken) > 10_000
        for word in (b"/agent/", b"HTTP/1.1", b"provisioner", token.partition(".")[0].encode()):
            assert word not in spoken, "what agents say cannot be read"
        assert node(site, "f00001")["deployment"]["state"] == "active"


@pytest.mark.integration
def test_a_second_ramdisk_with_the_token_of_the_first_ends_the_deployment(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.fleet(1, *SLOW):
        site.run("node", "enroll", str(site.manifests / "hardware.yaml"))
        listener = Listener(site.port)
        listener.start()
        try:
            site.run("apply", str(site.manifests / "cloud.yaml"), "--no-wait")
            site.wait("the ramdisk is at work", lambda: "hello" in done(site, "f00001"), pause=0.1)
        finally:
            listener.over = True
            listener.join()
        found = re.search(rb"provisioner\.token=(\S+)", listener.heard[site.port])
        assert found is not None
        hardware = {"cpus": 1, "memory_mib": 1, "firmware": "uefi", "disks": [], "nics": []}
        hello = {"boot_id": "stranger", "secret": secrets.token_urlsafe(32), "hardware": hardware}
        assert say(site, found.group(1).decode(), "POST", HELLO, hello) == 403
        site.wait("it has failed", lambda: node(site, "f00001")["node"]["state"] == "failed")
        failure = node(site, "f00001")["node"]["failure"]
        assert "second machine" in failure["summary"] and "127.0.0.1" in failure["cause"]
        site.run("node", "retry", "f00001")
        site.wait("it is active", lambda: site.nodes()[0]["state"] == "active")


@pytest.mark.integration
def test_agents_speak_to_nobody_whose_certificate_is_of_another_authority(tmp_path: Path) -> None:
    """In the service's place, with a certificate that any authority but the site's would give."""
    place = tmp_path / "another"
    place.mkdir()
    certificate, key = ensure_server(place, place, ["127.0.0.1"], time.time())
    heard = bytearray()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(20)

        def serve() -> None:
            with (
                contextlib.suppress(OSError),
                door.accept()[0] as line,
                context.wrap_socket(line, server_side=True) as safe,
            ):
                heard.extend(safe.recv(1000))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        (tmp_path / "ours").mkdir()
        servers = Servers(f"https://127.0.0.1:{door.getsockname()[1]}", ensure_ca(tmp_path / "ours").read_text())
        with pytest.raises(ServerAway, match="certificate verify failed"):
            HttpLink(servers, "id.secret").call("POST", HELLO, {"secret": "x"}, timeout=20)
        thread.join(20)
    assert not heard


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
def test_whoever_asks_for_the_boot_script_before_the_node_ends_the_deployment(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.fleet(2, *SLOW):
        site.run("node", "enroll", str(site.manifests / "hardware.yaml"))
        entries = yaml.safe_load((site.manifests / "hardware.yaml").read_text())["nodes"]
        target = f"/boot/{entries[0]['ports'][0]['mac']}"
        site.run("apply", str(site.manifests / "cloud.yaml"), "--no-wait")
        stolen = b""
        end = time.monotonic() + 60
        while time.monotonic() < end and node(site, "f00001")["node"]["state"] == "deploying":
            if "power" in done(site, "f00001"):
                stolen = ask(site, "GET", target)[1]
                break
        assert b"provisioner.token=" in stolen
        site.wait("it has failed", lambda: node(site, "f00001")["node"]["state"] == "failed")
        failure = node(site, "f00001")["node"]["failure"]
        assert "asked for twice" in failure["summary"] and "127.0.0.1" in failure["cause"]
        ident = re.search(rb"provisioner.token=([^.]+)", stolen)
        assert ident is not None
        headers = {ID_HEADER: ident.group(1).decode(), NONCE_HEADER: secrets.token_hex(16), MAC_HEADER: "0" * 64}
        assert ask(site, "GET", ORDER, headers)[0] == 401, "the token has ended"
        site.run("node", "retry", "f00001")
        site.wait("both are active", lambda: {n["state"] for n in site.nodes()} == {"active"})
