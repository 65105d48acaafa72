"""Controllers' Swift as in instances, without machines: real Swift, rsync and memcached in a network namespace.

Each controller has an address of its own on the namespace's loopback, its own /etc/swift, /srv/node and caches by
mounts of its own, the files that our templates render, and rings that the role's phase script writes. Glance is its
library for stores with our configuration; Keystone has a stand-in.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rig import ROOT, in_namespace, metadata, rendered, wait_until

WIRE = "provisioner-swift"
PHASES = ROOT / "elements" / "controller" / "os-refresh-config"
PROJECT = "5e4c1ce"
OWN = {
    "etc/swift": "/etc/swift",
    "etc/glance": "/etc/glance",
    "images": "/var/lib/glance/images",
    "node": "/srv/node",
    "cache": "/var/cache/swift",
    "lock": "/run/lock",
    "bin": "/usr/local/bin",
}
"""Folders of a controller → where they lie in its own mounts."""
SERVERS = ("swift-account", "swift-container", "swift-object")
SINGLE = ("memcached", *SERVERS, "swift-proxy")
"""What a test starts of a controller. What copies to the others runs when it says so."""
AS_SWIFT = ("setpriv", "--reuid=swift", "--regid=swift", "--init-groups")
"""As the packages' units have it."""
PROGRAMS = {
    **{name: [*AS_SWIFT, f"/usr/bin/{name}-server", f"/etc/swift/{name.removeprefix('swift-')}-server.conf"]
       for name in (*SERVERS, "swift-proxy")},
    "rsync": ["rsync", "--daemon", "--no-detach"],
    "memcached": ["memcached", "-u", "memcache", "-U", "0"],
}  # fmt: skip
JOURNAL = """
import socket, sys
door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
door.bind(("127.0.0.1", 514))
with open(sys.argv[1], "ab", 0) as journal:
    while True:
        journal.write(door.recv(65536).rstrip(b"\\0") + b"\\n")
"""
"""Swift's programs, which know no journal here, tell their last resort: syslog's port."""
KEYSTONE = '''
"""Keystone as far as Swift and Glance need it: who has the right password gets in, as admin of the project service."""
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROJECT, ENDPOINT = sys.argv[1:]
PASSWORDS = {"swift": "secret-swift_password", "glance": "secret-glance_password"}
DEFAULT = {"id": "default", "name": "Default"}

class Answer(BaseHTTPRequestHandler):
    def log_message(self, *words): pass
    def token(self, user):
        ends = {"image-store": ENDPOINT, "identity": f"http://{self.headers['Host']}/v3/"}
        where = {"interface": "internal", "region": "RegionOne", "region_id": "RegionOne", "id": "e"}
        found = [{"type": kind, "name": kind, "id": kind, "endpoints": [{**where, "url": ends[kind]}]} for kind in ends]
        return {"token": {
            "methods": ["password"], "catalog": found,
            "expires_at": "2099-01-01T00:00:00.000000Z", "issued_at": "2020-01-01T00:00:00.000000Z",
            "user": {"id": user, "name": user, "domain": DEFAULT}, "audit_ids": ["a"],
            "project": {"id": PROJECT, "name": "service", "domain": DEFAULT}, "roles": [{"id": "r", "name": "admin"}],
        }}
    def say(self, code, body, **headers):
        data = json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)
    def do_POST(self):
        who = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["auth"]["identity"]["password"]["user"]
        if PASSWORDS.get(who["name"]) != who["password"]:
            return self.say(401, {"error": {"message": "no", "code": 401}})
        self.say(201, self.token(who["name"]), X_Subject_Token="token-" + who["name"])
    def do_GET(self):
        if self.path.rstrip("/").endswith("/auth/tokens"):
            known = self.headers.get("X-Subject-Token", "").partition("token-")[2]
            return self.say(200, self.token(known)) if known in PASSWORDS else self.say(404, {"error": {"code": 404}})
        here = f"http://{self.headers['Host']}/v3/"
        v3 = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": here}]}
        self.say(200, {"version": v3} if self.path.startswith("/v3") else {"versions": {"values": [v3]}})

ThreadingHTTPServer(("0.0.0.0", 5000), Answer).serve_forever()
'''
GLANCE = '''
"""put|get|delete NAME CONF: what Glance does with an image, by its own library and our configuration."""
import hashlib, io, sys
import glance_store
from glance_store import backend
from oslo_config import cfg

verb, name, conf = sys.argv[1:]
CONF = cfg.CONF
backend.register_opts(CONF)
CONF(["--config-file", conf], project="rig")
glance_store.create_stores(CONF)
uri = f"swift+config://swift/images/{name}"
if verb == "put":
    data = sys.stdin.buffer.read()
    place, size, checksum, *_ = backend.add_to_backend(CONF, name, io.BytesIO(data), len(data))
    print(place, size, checksum)
elif verb == "get":
    chunks, size = backend.get_from_backend(uri)
    print(hashlib.md5(b"".join(chunks)).hexdigest(), size)
else:
    backend.delete_from_backend(uri)
'''


@dataclass
class Controller:
    """``index``: its number among the role's members; a replacement has that of the one whose place it takes."""

    index: int
    address: str
    folder: Path
    keeper: subprocess.Popen[bytes] | None = None
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def hostname(self) -> str:
        return f"controller-{self.index}"

    def inside(self, *argv: str) -> list[str]:
        assert self.keeper is not None
        return ["nsenter", "-t", str(self.keeper.pid), "-m", "-n", "--", *argv]

    def start(self, *names: str) -> None:
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as log:
                more = {"memcached": ["-l", self.address], "rsync": [f"--config={self.folder}/etc/rsyncd.conf"]}.get(
                    name, []
                )
                self.running[name] = subprocess.Popen(
                    self.inside(*PROGRAMS[name], *more),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def cut_power(self) -> None:
        """All of its programs are killed at once, without a word."""
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.running.clear()

    def kept(self) -> list[str]:
        """The objects that lie on its disk, by their files; not what is put aside."""
        top = self.folder / "node" / "images" / "objects"
        return sorted(str(path.relative_to(top)) for path in top.rglob("*.data"))

    def log(self) -> str:
        paths = [*self.folder.glob("*.log"), self.folder.parent / "journal"]
        return "\n".join(f"--- {self.hostname} {path.name}\n{path.read_text()[-3000:]}" for path in paths)


@dataclass
class Rig:
    """``controllers``: the members. ``every``: those that were, too."""

    folder: Path
    controllers: list[Controller]
    every: list[Controller] = field(default_factory=list)

    def metadata(self, one: Controller) -> dict[str, Any]:
        values = {"controller": {"swift": True, "workers": 1}, "database": {"address": "10.89.0.5"}}
        return metadata("controller", self.controllers, one, values)

    def configure(self, one: Controller) -> None:
        """Files in place, then the phase script, as the agent does it."""
        for path, file in rendered("controller", self.metadata(one)).items():
            if path.startswith(("/etc/swift/", "/etc/rsyncd.conf", "/etc/glance/")):
                place = one.folder / path.lstrip("/")
                place.write_text(file.content)
                place.chmod(0o644)
        (one.folder / "metadata.json").write_text(json.dumps(self.metadata(one)))
        self.phase(one, "configure.d/45-swift")

    def phase(self, one: Controller, script: str, code: int = 0, **env: str) -> str:
        told = {
            "PATH": f"/usr/local/bin:{os.environ['PATH']}",
            "PROVISIONER_METADATA": str(one.folder / "metadata.json"),
            "GLANCE_OWNER": "root",  # Glance is its library here, whose package brings no user
        }
        words = one.inside("/usr/bin/python3", str(PHASES / script))
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=told | env)
        assert done.returncode == code, done.stdout + done.stderr + one.log()
        return done.stdout

    def serve(self, one: Controller, *names: str) -> None:
        one.start(*names)
        ports = {"memcached": 11211, "swift-account": 6202, "swift-container": 6201, "swift-object": 6200, "rsync": 873}
        for name in names:
            port = ports.get(name, 8080)
            knock = f"import socket; socket.create_connection(({one.address!r}, {port}), 1)"
            self.wait(f"{name} of {one.hostname} answers", lambda: _ends_well(one.inside("python3", "-c", knock)))  # noqa: B023

    def image(self, one: Controller, verb: str, name: str, data: bytes = b"", *, good: bool = True) -> str:
        """What the Glance of a controller does with an image, at the proxy of that controller."""
        words = one.inside("/usr/bin/python3", "-c", GLANCE, verb, name, "/etc/glance/glance-api.conf")
        done = subprocess.run(words, input=data, capture_output=True, timeout=120, env={"PATH": os.environ["PATH"]})
        assert (done.returncode == 0) == good, done.stderr.decode()[-3000:] + one.log()
        return done.stdout.decode().strip()

    def wait(self, what: str, holds: Callable[[], bool], seconds: float = 60) -> None:
        wait_until(what, holds, seconds, lambda: "\n".join(one.log() for one in self.controllers))

    @contextmanager
    def keystone(self, proxy: Controller) -> Iterator[None]:
        """Keystone, whose catalog names this controller's proxy, as the front would."""
        endpoint = f"http://{proxy.address}:8080/v1/AUTH_{PROJECT}"
        words = in_namespace(WIRE, sys.executable, "-c", KEYSTONE, PROJECT, endpoint)
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        knock = "import socket; socket.create_connection(('127.0.0.1', 5000), 1)"
        try:
            self.wait("Keystone answers", lambda: _ends_well(in_namespace(WIRE, "python3", "-c", knock)))
            yield
        finally:
            process.kill()
            process.wait()

    def add(self, index: int, address: str) -> Controller:
        """A controller with an empty disk; it takes the place of the one of that number."""
        for old in [one for one in self.controllers if one.index == index]:
            self.controllers.remove(old)
        one = Controller(index, address, self.folder / address)
        subprocess.run(["ip", "-n", WIRE, "addr", "add", f"{address}/32", "dev", "lo"], check=True)
        for name in OWN:
            (one.folder / name).mkdir(parents=True)
        shutil.chown(one.folder / "cache", "swift", "swift")
        (one.folder / "bin" / "systemctl").write_text("#!/bin/sh\n")
        (one.folder / "bin" / "systemctl").chmod(0o755)
        mounts = " && ".join(
            f"mkdir -p {place} && mount --bind {one.folder / name} {place}" for name, place in OWN.items()
        )
        script = f"{mounts} && touch {one.folder}/ready && exec sleep 3600"
        words = in_namespace(WIRE, "unshare", "-m", "sh", "-c", script)
        one.keeper = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        self.controllers.append(one)
        self.every.append(one)
        self.wait("the mounts are made", (one.folder / "ready").exists, 10)
        return one


def _ends_well(words: Sequence[str]) -> bool:
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=30).returncode == 0


@contextmanager
def started_rig(folder: Path) -> Iterator[Rig]:
    """Without any controller yet. Needs root; whatever was started in it ends with it."""
    rig, journal = Rig(folder, []), None
    subprocess.run(["ip", "netns", "add", WIRE], check=True)
    try:
        subprocess.run(["ip", "-n", WIRE, "link", "set", "lo", "up"], check=True)
        words = in_namespace(WIRE, sys.executable, "-c", JOURNAL, str(folder / "journal"))
        journal = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        yield rig
    finally:
        if journal is not None:
            journal.kill()
            journal.wait()
        for one in rig.every:
            one.cut_power()
            if one.keeper is not None:
                one.keeper.kill()
                one.keeper.wait()
        subprocess.run(["ip", "netns", "del", WIRE], capture_output=True)


if __name__ == "__main__":
    sys.exit("a part of the tests")
