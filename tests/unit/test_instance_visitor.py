"""The agent for images of others: it says which disk it runs from, waits for its probes, and is one file."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioner.system.visitor import pack_visitor
from provisioner_agent.instance.host import FakeHost, Finished
from provisioner_agent.instance.visitor import TRIES, find_root, visit
from provisioner_agent.protocol.link import FakeLink, ServerAway

METADATA = {"health": {"node": [{"name": "up", "command": ["up"]}], "wait": 60}, "role": {"count": 1}}


class Server:
    """Away for the first calls; after that it takes every report."""

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.reports: list[dict[str, Any]] = []

    def __call__(self, method: str, target: str, body: Mapping[str, Any]) -> Any:
        self.away -= 1
        if self.away >= 0:
            raise ServerAway("no answer")
        if method == "GET":
            return {"generation": 3, "metadata": METADATA}
        self.reports.append(dict(body))
        return {}


def host(reds: int) -> FakeHost:
    left = reds

    def up(argv: tuple[str, ...], env: Mapping[str, str]) -> Finished:
        nonlocal left
        left -= 1
        return Finished(1 if left >= 0 else 0, "")

    found = FakeHost()
    found.programs |= {
        "up": up,
        "findmnt": lambda argv, env: Finished(0, "/dev/mapper/vg-root\n"),
        "lsblk": lambda argv, env: Finished(0, "\nAB-CD\n\n" if argv[-1] == "/dev/mapper/vg-root" else ""),
    }
    return found


def test_each_round_is_told_until_all_is_green() -> None:
    server = Server(away=2)
    assert visit(host(reds=2), FakeLink(server))
    assert [report["healthy"] for report in server.reports] == [False, False, True]
    last = server.reports[-1]
    assert (last["generation"], last["state"], last["root"]) == (3, "applied", "PARTUUID=ab-cd")


def test_what_never_gets_green_ends_all_the_same() -> None:
    server = Server()
    assert not visit(host(reds=10_000), FakeLink(server))
    assert 5 < len(server.reports) < 20


def test_a_server_that_stays_away_is_not_asked_for_ever() -> None:
    with pytest.raises(ServerAway):
        visit(host(reds=0), FakeLink(Server(away=TRIES)))


def test_a_root_that_cannot_be_told_is_none() -> None:
    found = host(0)
    found.programs["lsblk"] = lambda argv, env: Finished(1, "")
    assert find_root(found) == ""


def test_the_packed_file_runs_by_itself_and_is_the_same_each_time(tmp_path: Path) -> None:
    packed = pack_visitor()
    assert packed == pack_visitor()
    (tmp_path / "visitor.pyz").write_bytes(packed)
    words = [sys.executable, "-I", "-S", str(tmp_path / "visitor.pyz"), str(tmp_path / "none.json")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "none.json" in done.stderr and "FileNotFoundError" in done.stderr, "all its modules were found"


def test_it_needs_no_newer_python_than_it_says() -> None:
    with zipfile.ZipFile(io.BytesIO(pack_visitor())) as archive:
        for name in archive.namelist():
            tree = ast.parse(archive.read(name), name, feature_version=(3, 8))
            imports = [found for found in tree.body if isinstance(found, ast.ImportFrom)]
            abstract = {word.name for found in imports if found.module == "collections.abc" for word in found.names}
            aliases = [found.value for found in tree.body if isinstance(found, ast.Assign)]
            named = {getattr(part, "id", "") for alias in aliases for part in ast.walk(alias)}
            assert not named & abstract, f"{name}: what collections.abc has is no generic type before Python 3.9"
