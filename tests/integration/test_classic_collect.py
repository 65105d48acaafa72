"""os-collect-config's sources and cache: each story is told to its release from PyPI and to ours, and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

CASES = Path(__file__).parent / "cases" / "collect.yaml"
OLD = "import sys; from os_collect_config.collect import main; sys.exit(main(['x', *sys.argv[1:]]))"
NEW = "import sys; from provisioner_agent.classic.collect import main; main(sys.argv[1:])"
COMMAND = 'echo run; for file in $(echo $OS_CONFIG_FILES | tr : " "); do echo "$file $(cat $file)"; done; exit $CODE'


class Web:
    """``pages`` by path; a page that is None answers 500."""

    def __init__(self) -> None:
        self.pages: dict[str, str | None] = {}
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                page = web.pages.get(self.path)
                self.send_response(500 if page is None else 200)
                body = (page or "").encode()
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


class Bench:
    def __init__(self, folder: Path, web: Web) -> None:
        self.folder, self.local, self.cache, self.web = folder, folder / "local", folder / "cache", web
        self.local.mkdir(parents=True)
        (folder / "command").write_text(COMMAND)

    def tell(self, part: Mapping[str, Any]) -> None:
        for name, text in part.get("local", {}).items():
            if text is None:
                (self.local / str(name)).unlink()
            else:
                (self.local / str(name)).write_text(text)
        for name, text in part.get("cfn", {}).items():
            (self.folder / name).write_text(text)
        for name, mode in part.get("modes", {}).items():
            (self.folder / name).chmod(int(mode, 8))
        self.web.pages |= part.get("web", {})

    def run(self, program: str, part: Mapping[str, Any]) -> tuple[int, str, dict[str, str]]:
        """(exit code, what it and the command printed, the cache)."""
        config = self.folder / "config"
        config.write_text(
            f"[DEFAULT]\ncachedir = {self.cache}\nbackup_cachedir = {self.folder / 'backup'}\n"
            f"{part.get('options', '')}\n"
            f"[local]\npath = {self.local}\n[heat_local]\npath = {self.folder / 'one'}\npath = {self.folder / 'two'}\n"
            f"[request]\nmetadata_url = {self.web.url}/request\n[ec2]\nmetadata_url = {self.web.url}/ec2\n"
        )
        args = part.get("args", ["--one-time", "-c", f"/bin/sh {self.folder}/command"])
        words = [sys.executable, "-c", program, "--config-file", str(config), *args, *part.get("sources", [])]
        path = os.environ["PATH"]
        env = {
            "PATH": path,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "LC_ALL": "C",
            "CODE": str(part.get("code", 0)),
        }
        done = subprocess.run(words, cwd=self.folder, env=env, capture_output=True, text=True, timeout=60)
        files = {
            str(p.relative_to(self.folder)): p for top in ("cache", "backup") for p in (self.folder / top).glob("[!.]*")
        }
        found = {name: self._bare(path.read_text()) for name, path in files.items()}
        return done.returncode, self._bare(done.stdout), found

    def _bare(self, text: str) -> str:
        return text.replace(str(self.folder), "").replace(self.web.url, "")


@pytest.mark.integration
@pytest.mark.parametrize(("title", "story"), yaml.safe_load(CASES.read_text()).items())
def test_it_does_what_os_collect_config_does(tmp_path: Path, web: Web, title: str, story: list[dict[str, Any]]) -> None:
    benches = {program: Bench(tmp_path / name, web) for program, name in ((OLD, "old"), (NEW, "new"))}
    for number, part in enumerate(story):
        said = []
        for program, bench in benches.items():
            bench.tell(part)
            said.append(bench.run(program, part))
        assert said[1] == said[0], f"part {number}"


@pytest.mark.integration
def test_a_source_that_is_away_keeps_what_it_said(tmp_path: Path, web: Web) -> None:
    """There it was dropped, and its settings with it."""
    bench = Bench(tmp_path / "x", web)
    part: dict[str, Any] = {
        "sources": ["request", "local"],
        "web": {"/request": '{"a": 1}'},
        "local": {"b": '{"b": 1}'},
    }
    bench.tell(part)
    assert bench.run(NEW, part)[0] == 0
    bench.tell({"web": {"/request": None}, "local": {"b": '{"b": 2}'}})
    code, said, _ = bench.run(NEW, part)
    assert code == 0 and '/cache/request.json {\n "a": 1\n}' in said and '"b": 2' in said
    known = json.loads((bench.cache / ".sources.json").read_text())
    assert known["request"]["stale"] and not known["local"]["stale"]
    bench.tell({"web": {"/request": '{"a": 1}'}})
    assert bench.run(NEW, part)[1] == ""
    assert not json.loads((bench.cache / ".sources.json").read_text())["request"]["stale"]
