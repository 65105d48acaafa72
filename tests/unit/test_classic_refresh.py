"""os-refresh-config's phases: each case is run by its release from PyPI, with its dib-run-parts, and by ours."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

CASES = Path(__file__).parent / "cases" / "classic" / "refresh.yaml"
OLD = "import sys; from os_refresh_config.os_refresh_config import main; sys.exit(main(['x', *sys.argv[1:]]))"
NEW = "import sys; from provisioner_agent.classic.refresh import main; main(sys.argv[1:])"


class Bench:
    """``files`` of a case: path → text of a script, which writes what it does to ``$LOG``."""

    def __init__(self, folder: Path, case: Mapping[str, Any]) -> None:
        self.folder, self.base, self.log = folder, folder / "base", folder / "log"
        self.base.mkdir(parents=True)
        for path, text in case.get("files", {}).items():
            file = self.base / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(
                text if text.startswith("#!") or path.startswith("environment.d") else f"#!/bin/sh\n{text}\n"
            )
            file.chmod(0o644 if path in case.get("plain", ()) else 0o755)
        for path, target in case.get("links", {}).items():
            (self.base / path).symlink_to(target)
        self.lock = folder / "lock"
        self.argv = ["--lockfile", str(self.lock), *case.get("args", [])]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path), "LOG": str(self.log)}
        self.environment |= {"OS_REFRESH_CONFIG_BASE_DIR": str(self.base), **case.get("environment", {})}

    def run(self, program: str) -> tuple[int, str, str]:
        """(exit code, standard output, what the scripts logged)."""
        words = [sys.executable, "-c", program, *self.argv]
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60)
        self.said = done.stderr
        logged = self.log.read_text() if self.log.exists() else ""
        return done.returncode, done.stdout.replace(str(self.folder), ""), logged.replace(str(self.folder), "")


@pytest.mark.parametrize(("title", "case"), yaml.safe_load(CASES.read_text()).items())
def test_it_does_what_os_refresh_config_does(tmp_path: Path, title: str, case: Mapping[str, Any]) -> None:
    old = Bench(tmp_path / "old", case).run(OLD)
    assert Bench(tmp_path / "new", case).run(NEW) == old


@pytest.mark.parametrize("program", [OLD, NEW])
def test_a_second_run_ends_at_once(tmp_path: Path, program: str) -> None:
    bench = Bench(tmp_path / "x", {"files": {"configure.d/10-a": "echo a >> $LOG"}})
    with bench.lock.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert bench.run(program) == (11, "", "")


@pytest.mark.parametrize("program", [OLD, NEW])
def test_the_time_of_a_run_kills_what_it_started(tmp_path: Path, program: str) -> None:
    script = "(sleep 50; echo never >> $LOG) & echo begun >> $LOG; wait"
    files = {"configure.d/10-a": script, "configure.d/20-b": "echo b >> $LOG", "error.d/10-e": "echo error >> $LOG"}
    bench = Bench(tmp_path / "x", {"files": files, "args": ["--timeout", "1"]})
    assert bench.run(program) == (1, "", "begun\nerror\n")


def test_what_each_script_took_is_said_also_when_one_failed(tmp_path: Path) -> None:
    files = {"configure.d/10-a": "true", "configure.d/20-b": "exit 7", "error.d/30-c": "true"}
    bench = Bench(tmp_path / "x", {"files": files})
    assert bench.run(NEW)[0] == 1
    table = re.findall(r"refresh: (\S+/\S+) +[0-9.]+ s(.*)$", bench.said, re.MULTILINE)
    assert table == [("configure/10-a", ""), ("configure/20-b", "  code 7"), ("error/30-c", "")]


def test_what_the_environment_holds_is_not_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "x", {"files": {"environment.d/10-a": "export P=s3cret\n", "configure.d/1": "true"}})
    assert bench.run(NEW)[0] == 0
    assert "s3cret" not in bench.said
