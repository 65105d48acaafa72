"""The element frontend: what its templates render to, and what its programs do, with stand-ins for HAProxy and ip."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from provisioner.cli.desired import read_elements
from provisioner.manifest.elements import default_values, parse_elements
from provisioner.system.settings import Settings
from provisioner_agent.render.tree import RenderedFile, build_data, render_tree, split_tree

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "elements" / "frontend" / "bin"
HAPROXY, KEEPALIVED = "/etc/haproxy/haproxy.cfg", "/etc/keepalived/keepalived.conf"


def rendered(address: str | None, count: int = 3) -> dict[str, RenderedFile]:
    top = ROOT / "templates" / "frontend"
    files = {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}
    values: dict[str, Any] = default_values(
        parse_elements(read_elements(Settings(source_dir=ROOT)), [])["frontend"].schema
    )
    if address is not None:
        values["frontend"]["address"] = address
    members = [
        {"hostname": f"web-{number}", "address": f"10.0.0.{number}", "self": number == 1} for number in range(count)
    ]
    document = {
        "values": values,
        "role": {"name": "web", "count": 3},
        "node": {"hostname": "web-1", "address": "10.0.0.1"},
        "members": {"web": members, "db": [{"hostname": "db-0", "address": "10.0.0.9", "self": False}]},
    }
    return render_tree(*split_tree(files), build_data(document))


def test_members_of_the_role_are_peers_and_nobody_else() -> None:
    files = rendered("10.0.0.99")
    lines = [line.strip() for line in files[KEEPALIVED].content.splitlines()]
    at = lines.index("unicast_peer {")
    assert lines[at : at + 4] == ["unicast_peer {", "10.0.0.0", "10.0.0.2", "}"]
    assert "unicast_src_ip 10.0.0.1" in lines and "10.0.0.99" in lines and "vrrp_instance web {" in lines
    assert files[KEEPALIVED].services == {"keepalived.service": "reload"}
    assert files[HAPROXY].services == {"haproxy.service": "reload"}


def test_a_member_that_is_alone_has_nobody_to_name() -> None:
    config = rendered("10.0.0.99", 1)[KEEPALIVED].content
    assert "unicast" not in config and "mcast_src_ip 10.0.0.1\n" in config
    assert "track_script" not in config, "nobody could take the address over"
    assert "track_script" in rendered("10.0.0.99")[KEEPALIVED].content


def test_without_an_address_there_is_no_instance() -> None:
    assert "vrrp_instance" not in rendered(None)[KEEPALIVED].content
    assert "default-server check inter 2s rise 2 fall 3" in rendered(None)[HAPROXY].content


def run(program: str, *words: str, folder: Path, **stand_ins: str) -> subprocess.CompletedProcess[str]:
    for name, text in stand_ins.items():
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    env = {
        "PATH": f"{folder / 'bin'}:{PROGRAMS}:{os.environ['PATH']}",
        "FRONTEND_INTERFACE": str(folder / "run" / "interface"),
        "FRONTEND_SOCKET": str(folder / "socket"),
    }
    return subprocess.run([PROGRAMS / program, *words], env=env, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("count", [1, 3])
def test_the_interface_is_the_one_that_has_the_members_address(tmp_path: Path, count: int) -> None:
    config = tmp_path / "keepalived.conf"
    config.write_text(rendered("10.0.0.99", count)[KEEPALIVED].content)
    found = (
        'test "$*" = "-o addr show to 10.0.0.1" && echo "2: ens3    inet 10.0.0.1/24 brd 10.0.0.255 scope global ens3"'
    )
    assert run("frontend-interface", str(config), folder=tmp_path, ip=found).returncode == 0
    assert (tmp_path / "run" / "interface").read_text() == "interface ens3\n"
    done = run("frontend-interface", str(config), folder=tmp_path, ip="exit 0")
    assert done.returncode == 1 and "10.0.0.1" in done.stderr
    config.write_text(rendered(None)[KEEPALIVED].content)
    assert run("frontend-interface", str(config), folder=tmp_path, ip="exit 0").returncode == 0


@pytest.mark.parametrize("code", [0, 1])
def test_a_file_is_judged_with_the_others_of_its_generation(tmp_path: Path, code: int) -> None:
    """Also when it names a certificate that is nowhere but among the candidates."""
    root = tmp_path / "candidate"
    config = root / "etc" / "haproxy" / "conf.d" / "web.cfg"
    config.parent.mkdir(parents=True)
    (root / "etc" / "haproxy" / "haproxy.cfg").write_text("the new one")
    (root / "etc" / "web.pem").write_text("certificate")
    config.write_text("bind :1 ssl crt /etc/web.pem\nbind :2 ssl crt /etc/web.pem.old\n")
    tell = f'for word; do if [ -f "$word" ]; then cat "$word"; fi; done; exit {code}'
    done = run("frontend-check-config", str(config), folder=tmp_path, haproxy=tell)
    assert done.returncode == code
    assert "the new one" in done.stdout
    assert f"crt {root}/etc/web.pem\n" in done.stdout and "crt /etc/web.pem.old\n" in done.stdout


ALONE = "(web) A unicast keyword has been specified without any unicast peers. Defaulting to multicast."


@pytest.mark.parametrize(
    ("said", "code", "good"),
    [
        ("", 0, True),
        (ALONE, 5, True),
        ("Unknown keyword", 4, False),
        (f"{ALONE}\nUnknown keyword", 5, False),
        ("", 1, False),
    ],
)
def test_the_only_member_needs_no_peers(tmp_path: Path, said: str, code: int, good: bool) -> None:
    config = tmp_path / "candidate" / "etc" / "keepalived" / "keepalived.conf"
    config.parent.mkdir(parents=True)
    config.write_text(rendered(None)[KEEPALIVED].content)
    done = run("frontend-check-config", str(config), folder=tmp_path, keepalived=f"printf '{said}'; exit {code}")
    assert (done.returncode == 0) is good
    assert good or said in done.stdout


@pytest.mark.parametrize(
    ("said", "good"), [(b"HTTP/1.1 200 OK\r\n", True), (b"HTTP/1.1 503 Service Unavailable\r\n", False), (b"", False)]
)
def test_haproxy_answers_when_its_worker_does(said: bytes, good: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(said)

        worker = threading.Thread(target=serve)
        worker.start()
        assert (answers(server.getsockname()[1]) == 0) is good
        worker.join()


def test_haproxy_does_not_answer_when_it_does_not_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert answers(port) == 1


def answers(port: int) -> int:
    return subprocess.run(
        [str(PROGRAMS / "frontend-answers")], env={"FRONTEND_ALIVE_PORT": str(port)}, stderr=subprocess.DEVNULL
    ).returncode
