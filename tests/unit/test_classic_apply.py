"""os-apply-config's options and files: each case is done by its release from PyPI and by ours, and compared.

A case has any of ``metadata`` (texts of files; null: one that is not there), ``environment`` and ``list`` (the same,
named elsewhere), ``fallback``, ``args``, ``templates``, ``programs``, ``before`` (path → text, or ``text`` and
``mode``) and ``links``. ``{user}`` and ``{group}`` are this process's.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from provisioner_agent.classic.control import Control
from provisioner_agent.classic.files import OutFile, write_all

CASES = Path(__file__).parent / "cases" / "classic"
OLD = (
    "import os, sys; os.geteuid = lambda: 1; "  # as root it would write a log outside of the test's folder
    "from os_apply_config.apply_config import main; sys.exit(main(['os-apply-config', *sys.argv[1:]]))"
)
NEW = "from provisioner_agent.classic.apply import main; import sys; main(sys.argv[1:])"
FILES = ("merge", "templates", "control", "keys")


def read_cases() -> list[Any]:
    return [
        pytest.param(case or {}, id=f"{name}: {title}")
        for name in FILES
        for title, case in yaml.safe_load((CASES / f"{name}.yaml").read_text()).items()
    ]


@dataclass(frozen=True)
class Done:
    """``files``: what stands below the output root, with mode and content, or where a link leads."""

    code: int
    said: str
    files: Mapping[str, object]


class Bench:
    """One program in a folder of its own, with all that a case gives it."""

    def __init__(self, folder: Path, case: Mapping[str, Any]) -> None:
        self.folder, self.out, self.tree = folder, folder / "out", folder / "templates"
        for made in (folder, self.out, self.tree):
            made.mkdir()
        accounts = {"user": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}
        for path, text in case.get("templates", {}).items():
            for name, account in accounts.items():
                text = text.replace(f"{{{name}}}", account) if path.endswith(".oac") else text
            self._put(self.tree / path, text)
        for path, text in case.get("programs", {}).items():
            self._put(self.tree / path, text, 0o755)
        for path, before in case.get("before", {}).items():
            entry = before if isinstance(before, dict) else {"text": before}
            self._put(self.out / path, entry["text"], int(entry.get("mode", "0644"), 8))
        for path, target in case.get("links", {}).items():
            (self.out / path).symlink_to(target)
        self.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(folder)}
        self.argv = ["-t", str(self.tree), "-o", str(self.out), "--os-config-files", str(folder / "list.json")]
        fallback = [str(self._put(folder / "fallback.json", case["fallback"]))] if "fallback" in case else []
        self.argv += ["--fallback-metadata", *fallback]
        if "metadata" in case:
            self.argv += ["--metadata", *self._write_all("m", case["metadata"])]
        if "environment" in case:
            self.environment["OS_CONFIG_FILES"] = ":".join(self._write_all("e", case["environment"]))
        if "list" in case:
            self._put(folder / "list.json", json.dumps(self._write_all("l", case["list"])))
        self.argv += case.get("args", [])

    def _put(self, path: Path, text: str, mode: int = 0o644) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    def _write_all(self, name: str, texts: list[str | None]) -> list[str]:
        paths = [self.folder / f"{name}{number}.json" for number, _ in enumerate(texts)]
        for path, text in zip(paths, texts, strict=True):
            if text is not None:
                self._put(path, text)
        return [str(path) for path in paths]

    def run(self, program: str) -> Done:
        words = [sys.executable, "-c", program, *self.argv]
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60)
        files = {str(path.relative_to(self.out)): self._look(path) for path in self.out.rglob("*")}
        return Done(done.returncode, done.stdout.replace(str(self.folder), ""), files)

    def _look(self, path: Path) -> object:
        if path.is_symlink():
            return str(path.readlink())
        return path.stat().st_mode, path.read_bytes() if path.is_file() else None


@pytest.mark.parametrize("case", read_cases())
def test_it_does_what_os_apply_config_does(tmp_path: Path, case: Mapping[str, Any]) -> None:
    old = Bench(tmp_path / "old", case).run(OLD)
    assert Bench(tmp_path / "new", case).run(NEW) == old


def test_what_cannot_be_written_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """There the files before it were exchanged already."""
    case = {"templates": {"aaa": "new", "mmm/file": "new"}, "before": {"aaa": "old", "mmm": "a file, no folder"}}
    bench = Bench(tmp_path / "x", {"metadata": ["{}"], **case})
    done = bench.run(NEW)
    assert done.code == 1
    assert {path: content for path, (_, content) in done.files.items()} == {"aaa": b"old", "mmm": b"a file, no folder"}  # type: ignore[misc]


def test_what_is_as_it_should_be_is_left_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "x", {"metadata": ["{}"], "templates": {"a": "same", "b": "new"}, "before": {"a": "same"}})
    before = (bench.out / "a").stat()
    assert bench.run(NEW).code == 0
    after = (bench.out / "a").stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert (bench.out / "b").read_text() == "new"


def test_the_command_imports_what_it_needs_and_no_more() -> None:
    heavy = ("ssl", "http.client", "provisioner_agent.instance.main")
    code = "import sys; sys.argv[1:] = ['apply', '--print-templates']; from provisioner_agent.command import main\n"
    code += f"try: main()\nfinally: print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "/usr/libexec/os-apply-config/templates\n[]\n"


def test_every_option_of_theirs_is_one_of_ours(tmp_path: Path) -> None:
    """By their help texts, so that a later release with another option is noticed."""
    case = {"metadata": ["{}"]}
    told = []
    for program in (OLD, NEW):
        bench = Bench(tmp_path / str(len(told)), case)
        words = [sys.executable, "-c", program, "--help"]
        done = subprocess.run(words, env=bench.environment, capture_output=True, text=True, check=True)
        told.append(set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", done.stdout.partition("options:")[2])))
    assert told[0] - {"-metadata"} <= told[1]


def test_all_contents_are_on_the_disk_before_the_first_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the name was there before the content, which stood in a buffer."""
    tape: list[tuple[str, int]] = []
    real_flush, real_replace = os.fsync, os.replace

    def flush(handle: int) -> None:
        real_flush(handle)
        tape.append(("flushed", os.fstat(handle).st_ino))

    def replace(old: str, new: Path) -> None:
        state = Path(old).stat()
        assert state.st_size == 20_000, "all of it is there when it gets its name"
        real_replace(old, new)
        tape.append(("named", state.st_ino))

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", replace)
    files = [OutFile(name, b"x" * 20_000, Control()) for name in ("a", "b/c")]
    assert write_all(tmp_path, files) == ["a", "b/c"]
    assert [what for what, _ in tape] == ["flushed", "flushed", "named", "named"]
    assert {inode for what, inode in tape if what == "flushed"} == {inode for what, inode in tape if what == "named"}
