"""A member of Galera that is to leave stops when the others are Synced, and not before; with stand-ins for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "elements/galera/os-refresh-config/drain.d/50-galera"
SYNCED = "wsrep_local_state_comment\tSynced"


class Member:
    """``peers``: what each other member prints; one that prints nothing is away."""

    def __init__(self, folder: Path, peers: dict[str, str], *, runs: bool = True, code: int = 0) -> None:
        self.folder = folder
        self.peers = peers
        (folder / "bin").mkdir()
        self._program(
            "systemctl", f'[ "$1" = is-active ] && exit {0 if runs else 3}\necho "$*" >>{folder}/log; exit {code}'
        )
        self._program("journalctl", "echo its last words")
        answers = "\n".join(
            f"*--host={address}*) echo '{said}'; exit {int(not said)};;" for address, said in peers.items()
        )
        self._program("mariadb", f'echo "$MYSQL_PWD $*" >>{folder}/asked\ncase "$*" in\n{answers}\nesac\nexit 1')

    def _program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def drain(self, **env: str) -> tuple[int, str, str]:
        """(exit code, what was done with the unit, what was said)."""
        members: list[dict[str, Any]] = [{"hostname": "galera-0", "address": "10.0.0.1", "self": True}]
        members += [{"hostname": f"galera-{at}", "address": one, "self": False} for at, one in enumerate(self.peers, 1)]
        metadata = {
            "role": {"name": "galera"},
            "members": {"galera": members},
            "values": {"galera": {"app_user": "app"}},
        }
        path = self.folder / "metadata.json"
        path.write_text(json.dumps(metadata | {"secrets": {"galera_app_password": "pass-word_1"}}))
        base = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "PROVISIONER_METADATA": str(path)}
        base |= {"PROVISIONER_DRAIN": "rebuild", "GALERA_PATIENCE": "0"}
        done = subprocess.run([sys.executable, str(SCRIPT)], env=base | env, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr, done.stderr
        log = self.folder / "log"
        return done.returncode, log.read_text() if log.exists() else "", done.stdout


STOPPED = "stop mariadb.service\n"


def test_it_stops_when_the_others_are_synced(tmp_path: Path) -> None:
    member = Member(tmp_path, {"10.0.0.2": SYNCED, "10.0.0.3": SYNCED})
    assert member.drain()[:2] == (0, STOPPED)
    asked = (tmp_path / "asked").read_text()
    assert asked.count("pass-word_1") == asked.count("pass-word_1 --no-defaults") == 2, "it is in no argument"
    assert "--user=app" in asked


@pytest.mark.parametrize(
    ("said", "words"),
    [("wsrep_local_state_comment\tDonor/Desynced", "not Synced: Donor/Desynced"), ("", "not Synced: no answer")],
)
def test_it_goes_on_when_one_is_not(tmp_path: Path, said: str, words: str) -> None:
    code, done, told = Member(tmp_path, {"10.0.0.2": SYNCED, "10.0.0.3": said}).drain()
    assert (code, done) == (1, "") and f"galera-2 is {words}" in told and "so this member goes on" in told


def test_nobody_is_asked_when_the_whole_cluster_ends(tmp_path: Path) -> None:
    assert Member(tmp_path, {"10.0.0.2": ""}).drain(PROVISIONER_ROLE_ENDS="1")[:2] == (0, STOPPED)


def test_the_only_member_may_be_rebuilt_and_not_released(tmp_path: Path) -> None:
    member = Member(tmp_path, {})
    code, done, told = member.drain(PROVISIONER_DRAIN="release")
    assert (code, done) == (1, "") and "the only member" in told
    assert member.drain()[:2] == (0, STOPPED)


def test_one_that_does_not_run_is_drained(tmp_path: Path) -> None:
    assert Member(tmp_path, {"10.0.0.2": ""}, runs=False).drain()[:2] == (0, "")


def test_one_that_does_not_stop_is_not(tmp_path: Path) -> None:
    code, done, told = Member(tmp_path, {"10.0.0.2": SYNCED}, code=1).drain()
    assert (code, done) == (1, STOPPED) and "its last words" in told
