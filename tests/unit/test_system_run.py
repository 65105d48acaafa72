"""The door to programs, with real programs."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from provisioner.errors import DeadlinePassed, ProgramFailed, ProgramMissing
from provisioner.system.files import ensure_file, hash_file, write_file
from provisioner.system.run import FakeRunner, HostRunner


def test_output_input_and_lines() -> None:
    lines: list[str] = []
    done = HostRunner().run(["sh", "-c", "cat; echo two >&2"], stdin="one\n", on_line=lines.append)
    assert (done.stdout, done.stderr, sorted(lines)) == ("one\n", "two\n", ["one", "two"])


def test_the_callers_environment_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "hunter2")
    assert "hunter2" not in HostRunner().run(["env"]).stdout


def test_failure_says_the_last_words_and_the_command() -> None:
    with pytest.raises(ProgramFailed) as caught:
        HostRunner().run(["sh", "-c", "echo broken >&2; exit 3"])
    assert caught.value.cause == "broken"
    assert "sh -c" in str(caught.value.hint)


def test_missing_program() -> None:
    with pytest.raises(ProgramMissing):
        HostRunner().run(["no-such-program-here"])


def test_deadline_ends_the_children_too(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    with pytest.raises(DeadlinePassed):
        HostRunner().run(["sh", "-c", f"sleep 600 & echo $! > {marker}; wait"], deadline=0.3)
    try:
        child = os.pidfd_open(int(marker.read_text()))
    except ProcessLookupError:
        return
    ended = select.poll()
    ended.register(child, select.POLLIN)
    assert ended.poll(10_000), "the child of the program that was ended is still there"


def test_unread_input_is_not_an_error() -> None:
    assert HostRunner().run(["true"], stdin=b"x" * 1_000_000).code == 0


def test_fake_runner_takes_the_longest_prefix() -> None:
    fake = FakeRunner({"ip": (0, "short"), "ip link": (0, "long")})
    assert fake.run(["ip", "link", "show"]).stdout == "long"
    with pytest.raises(ProgramMissing):
        fake.run(["rm", "-rf", "/"])
    assert fake.calls == [("ip", "link", "show"), ("rm", "-rf", "/")]


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    assert ensure_file(path, "a", mode=0o600)
    assert not ensure_file(path, "a", mode=0o600)
    assert ensure_file(path, "a", mode=0o640)
    write_file(path, b"b")
    assert path.read_text() == "b"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert hash_file(path) == "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"
