"""HTTP services that tests stand in for: running while a test needs them, answering in JSON as OpenStack's APIs do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, TypeVar

S = TypeVar("S", bound=HTTPServer)


@contextmanager
def serving(server: S) -> Iterator[S]:
    """It answers meanwhile, and has ended afterwards."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class JsonHandler(BaseHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        """Nothing."""

    def answer(self, code: int, body: Any) -> None:
        """:param body: None for an empty one. Each answer has a token, as Keystone's do."""
        data = b"" if body is None or code == 204 else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("X-Subject-Token", "token")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
