"""Firewalls of roles in a kernel: real nft, and two network namespaces, of an instance and of somebody who asks it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from rack import ROOT

sys.path.append(str(ROOT / "tests" / "unit"))
from casefile import split_case
from firewalls import build_document, parse, render_firewall, think_members

INSTANCE, CLIENT = "firewall-test-instance", "firewall-test-client"
OURS = {4: "10.0.0.9", 6: "fd00:1::9"}
"""The instance's: the first of each pool."""
THEIRS = {4: "10.0.0.10", 6: "fd00:1::a"}
"""Who asks is the second member of the cloud."""
FILES = {
    "cloud.yaml": """
cloud: lab
networks:
  rack: {cidr: 10.0.0.0/24, pool: 10.0.0.9-10.0.0.60}
  six: {cidr: "fd00:1::/64", pool: "fd00:1::9-fd00:1::60"}
firewall: {pings: [{from: any, protocol: icmp}]}
roles: {db: {count: 1}, web: {count: 1}}
""",
    "db.yaml": """
role: db
image: {elements: [firewall], templates: [firewall]}
networks: [rack, six]
firewall:
  allow:
    - {from: any, protocol: tcp, ports: [2201], note: anybody}
    - {from: {role: web}, protocol: tcp, ports: ["2202-2203"], note: members}
    - {from: {network: six}, protocol: tcp, ports: [2204], note: a network}
    - {from: {cidr: 192.0.2.0/24}, protocol: tcp, ports: [2205], note: others}
""",
    "web.yaml": "role: web\nimage: {elements: [e]}\nnetworks: [rack, six]\n",
}
PORTS = range(2201, 2207)
LISTEN = """
import selectors, socket, sys
chosen = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    door = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    chosen.register(door, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in chosen.select():
        key.fileobj.accept()[0].close()
"""
ASK = """
import selectors, socket, sys, time
chosen = selectors.DefaultSelector()
for port in map(int, sys.argv[2:]):
    door = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
    door.setblocking(False)
    door.connect_ex((sys.argv[1], port))
    chosen.register(door, selectors.EVENT_WRITE, port)
found, end = [], time.monotonic() + 2.5
while chosen.get_map() and time.monotonic() < end:
    for key, _ in chosen.select(end - time.monotonic()):
        chosen.unregister(key.fileobj)
        if key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            found.append(key.data)
print(*sorted(found))
"""
"""Asks all at once: what is dropped is asked again after a second (RFC 6298), and then given up."""


PING = """
import socket, struct, sys
six = ":" in sys.argv[1]
family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
door = socket.socket(family, socket.SOCK_RAW, protocol)
door.settimeout(2)
request = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 7, 1)  # the kernel fills in the checksum of ICMPv6
total = sum(struct.unpack("!4H", request))
request = request if six else request[:2] + struct.pack("!H", ~total & 0xFFFF) + request[4:]
door.sendto(request, (sys.argv[1], 0))
try:
    while True:
        packet = door.recv(2000)
        kind, _, _, ident, _ = struct.unpack("!BBHHH", packet[0 if six else 20:][:8])
        if (kind, ident) == (129 if six else 0, 7):
            print("answered")
            break
except TimeoutError:
    pass
"""
"""An echo request (RFC 792, RFC 4443, section 4.1)."""


def run(*words: str, stdin: str | None = None) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, input=stdin)
    assert done.returncode == 0, f"{words} ended with {done.returncode}: {done.stderr}"
    return done.stdout


def inside(namespace: str, *words: str, stdin: str | None = None) -> str:
    return run("ip", "netns", "exec", namespace, *words, stdin=stdin)


@contextmanager
def namespaces() -> Iterator[None]:
    """The two, joined by a wire, with an address of each kind."""
    made = []
    try:
        for name in (INSTANCE, CLIENT):
            run("ip", "netns", "add", name)
            made.append(name)
            inside(name, "ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "wire", "netns", INSTANCE, "type", "veth", "peer", "name", "wire", "netns", CLIENT)
        for name, addresses in ((INSTANCE, OURS), (CLIENT, THEIRS)):
            inside(name, "ip", "address", "add", f"{addresses[4]}/24", "dev", "wire")
            inside(name, "ip", "address", "add", f"{addresses[6]}/64", "dev", "wire", "nodad")
            inside(name, "ip", "link", "set", "wire", "up")
        for name in made:
            _wait_for_link(name)
        yield
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "delete", name], check=True, timeout=60)


def _wait_for_link(namespace: str) -> None:
    for _ in range(100):
        if "LOWER_UP" in inside(namespace, "ip", "link", "show", "wire"):
            return
        time.sleep(0.1)
    raise AssertionError(f"the wire of {namespace} does not come up")


@contextmanager
def listening() -> Iterator[None]:
    """Something answers at each port of the instance."""
    words = ["ip", "netns", "exec", INSTANCE, sys.executable, "-c", LISTEN, *map(str, PORTS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


def load(files: Mapping[str, str], *, without: str = "") -> None:
    """As the agent does: the candidate is checked, then it is loaded. :param without: a member that is gone."""
    desired = parse(files)
    members = [member for member in think_members(desired) if member.hostname != without]
    text = render_firewall(build_document(desired, "db", members)).content
    inside(INSTANCE, "nft", "-c", "-f", "-", stdin=text)
    inside(INSTANCE, "nft", "-f", "-", stdin=text)


def answers(version: int) -> list[int]:
    """The ports of the instance that the client reaches."""
    said = inside(CLIENT, sys.executable, "-c", ASK, OURS[version], *map(str, PORTS))
    return [int(word) for word in said.split()]


def pings(version: int) -> bool:
    return inside(CLIENT, sys.executable, "-c", PING, OURS[version]) == "answered\n"


@pytest.mark.integration
def test_what_is_allowed_answers_and_nothing_else() -> None:
    with namespaces(), listening():
        assert answers(4) == answers(6) == list(PORTS), "without a firewall all answer"
        inside(INSTANCE, "nft", "add", "table", "inet", "another")
        load(FILES)
        assert answers(4) == [2201, 2202, 2203]
        assert inside(INSTANCE, sys.executable, "-c", ASK, "127.0.0.1", "2206") == "2206\n", "itself it reaches"
        assert answers(6) == [2201, 2202, 2203, 2204], "the neighbour's address was found out through the firewall"
        inside(CLIENT, "ip", "neighbour", "flush", "dev", "wire")
        inside(INSTANCE, "ip", "neighbour", "flush", "dev", "wire")
        assert answers(6) == [2201, 2202, 2203, 2204]
        before = inside(INSTANCE, "nft", "-s", "list", "ruleset")
        load(FILES)
        assert inside(INSTANCE, "nft", "-s", "list", "ruleset") == before, "loading it again changes nothing"
        load(FILES, without="web-0")
        assert (answers(4), answers(6)) == ([2201], [2201, 2204]), "it is no member any more"
        load({**FILES, "db.yaml": FILES["db.yaml"].partition("firewall:\n")[0] + "firewall: {}\n"})
        assert answers(4) == answers(6) == []
        document = build_document(parse(FILES), "db")
        del document["firewall"]
        inside(INSTANCE, "nft", "-f", "-", stdin=render_firewall(document).content)
        assert answers(4) == answers(6) == list(PORTS), "a role that manages none any more"
        assert inside(INSTANCE, "nft", "list", "tables") == "table inet another\n", "what others made is left alone"


@pytest.mark.integration
def test_connections_that_the_instance_opens_go_on_and_pings_need_a_rule() -> None:
    with namespaces():
        assert pings(4) and pings(6)
        load(FILES)
        server = ["ip", "netns", "exec", CLIENT, sys.executable, "-c", LISTEN, "8081"]
        with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None and process.stdout.readline() == "ready\n"
                for version in (4, 6):
                    said = inside(INSTANCE, sys.executable, "-c", ASK, THEIRS[version], "8081")
                    assert said == "8081\n", "so the agent reaches its server"
            finally:
                process.kill()
        assert not pings(4) and not pings(6)
        load(
            {**FILES, "cloud.yaml": FILES["cloud.yaml"].replace("db: {count: 1}", "db: {count: 1, firewall: [pings]}")}
        )
        assert pings(4) and pings(6)


CASES = sorted((ROOT / "tests" / "unit" / "cases" / "firewall").glob("*.case"))


@pytest.mark.integration
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_nft_takes_every_case(case: Path) -> None:
    files = {name: text for name, text in split_case(case.read_text()).items() if name.endswith(".yaml")}
    desired = parse(files)
    run("ip", "netns", "add", INSTANCE)
    try:
        for role in desired.cloud.roles:
            text = render_firewall(build_document(desired, role)).content
            inside(INSTANCE, "nft", "-c", "-f", "-", stdin=text)
            with pytest.raises(AssertionError, match="syntax error"):
                inside(INSTANCE, "nft", "-c", "-f", "-", stdin=text.replace("policy drop", "policy drops"))
    finally:
        run("ip", "netns", "delete", INSTANCE)
