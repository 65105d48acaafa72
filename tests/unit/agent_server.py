"""A small real HTTP server on loopback that speaks to config agents, authenticated both ways."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from provisioner_agent.protocol import auth, messages

TOKEN = "agent-1.the-secret-of-agent-1"
IDENT, SECRET = auth.split_token(TOKEN)


class AgentServer(ThreadingHTTPServer):
    """``forge``: how answers lie: ``none``, ``mac`` (of another key), ``replay`` (the MAC of an older answer),
    ``master`` (what it says of the master is taken out on the way).

    ``master``: what it says of its epoch to those who ask; nothing, as a service of before epochs.
    ``deaf``: whether new connections are closed at once; those that are open go on.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address, Handler)
        self.changed = threading.Condition()
        self.offered: dict[str, Any] = {}
        self.reports: list[dict[str, Any]] = []
        self.permits: list[dict[str, Any]] = []
        self.granted = True
        self.forge = "none"
        self.nonces: set[str] = set()
        self.old_mac = ""
        self.deaf: Callable[[], bool] = bool
        self.master = ""

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return not self.deaf()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def offer(self, metadata: dict[str, Any]) -> None:
        with self.changed:
            self.offered = {"generation": metadata["generation"], "metadata": metadata}
            self.changed.notify_all()

    def wait_for(self, what: str, seconds: float = 30) -> dict[str, Any]:
        """The first report from now on, or already there, whose state and applied generation are ``what``."""

        def found() -> dict[str, Any] | None:
            said = (r for r in self.reports if f"{r['state']} {r['applied']} {r['healthy']}" == what)
            return next(said, None)

        with self.changed:
            assert self.changed.wait_for(lambda: found() is not None, seconds), f"{what} not in {self.reports}"
            report = found()
            assert report is not None
            return report

    def answer(self, method: str, target: str, body: dict[str, Any]) -> tuple[int, Any]:
        path = urlsplit(target)
        with self.changed:
            if path.path == messages.METADATA:
                query = {name: values[0] for name, values in parse_qs(path.query).items()}
                newer = lambda: self.offered.get("generation", 0) > int(query["since"])  # noqa: E731
                self.changed.wait_for(newer, float(query["wait"]))
                return 200, self.offered if newer() else {}
            if path.path == messages.REPORT:
                self.reports.append(body)
                self.changed.notify_all()
                return 200, {}
            if path.path == messages.PERMIT:
                self.permits.append(body)
                return 200, {"granted": self.granted, "why": "", "once": {"first": {"do": True, "fence": 1}}}
        return 404, {"error": "NotFound", "summary": "there is no such thing", "hint": None}


class Handler(BaseHTTPRequestHandler):
    server: AgentServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        nonce = self.headers[auth.NONCE_HEADER]
        expected = auth.request_mac(SECRET, self.command, self.path, nonce, body)
        if self.headers[auth.ID_HEADER] != IDENT or self.headers[auth.MAC_HEADER] != expected:
            self._send(401, b"{}", None)
            return
        assert nonce not in self.server.nonces
        self.server.nonces.add(nonce)
        status, value = self.server.answer(self.command, self.path, json.loads(body or b"{}"))
        data = json.dumps(value).encode()
        master = self.server.master if auth.EPOCH_QUERY in parse_qs(urlsplit(self.path).query) else ""
        mac = auth.answer_mac("another key" if self.server.forge == "mac" else SECRET, nonce, status, data, master)
        if self.server.forge == "replay":
            mac = self.server.old_mac
        self.server.old_mac = mac
        self._send(status, data, mac, "" if self.server.forge == "master" else master)

    def _send(self, status: int, data: bytes, mac: str | None, master: str = "") -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if mac is not None:
                self.send_header(auth.MAC_HEADER, mac)
            if master:
                self.send_header(auth.MASTER_HEADER, master)
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the agent went away while its question was held open

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served() -> Iterator[AgentServer]:
    server = AgentServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
