"""The command line itself: the lazy table, help, exit codes, errors as text and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from provisioner import __version__
from provisioner.cli.commands import COMMANDS, GROUPS
from provisioner.cli.main import error_lines, main
from provisioner.cli.options import clean
from provisioner.errors import ManifestError, NotFound, Problem

HEAVY = ("httpx", "rich", "pydantic", "starlette", "uvicorn", "sqlalchemy", "yaml", "oslo_config", "pyghmi")


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["node", "--help"]], ids=" ".join)
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys\n"
        "from provisioner.cli.main import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_the_list_of_commands_is_the_table() -> None:
    said = call("--help").stdout
    for line in COMMANDS:
        assert line.split()[0] in said
    said = call("node", "--help").stdout
    assert all(COMMANDS[line].does.split(",")[0][:20] in said for line in COMMANDS if line.startswith("node "))


def test_every_entry_names_a_module_that_exists() -> None:
    assert {line.split()[0] for line in COMMANDS if " " in line} == set(GROUPS)
    assert all(find_spec(entry.place.partition(":")[0]) for entry in COMMANDS.values())


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_has_help_with_an_example(line: str) -> None:
    done = call(*line.split(), "--help")
    assert done.exit_code == 0, done.output
    assert "Example" in done.stdout
    assert f"provisioner {line}" in done.stdout


@pytest.mark.parametrize(
    "words", [["nod"], ["node", "lst"], ["node", "show"], ["plan", "--nope"], ["--nope"]], ids=" ".join
)
def test_wrong_usage_is_64(words: list[str]) -> None:
    done = call(*words)
    assert done.exit_code == 64, done.output
    assert done.stderr.startswith("error: ")
    assert "next:  " in done.stderr and "--help" in done.stderr


def test_wrong_usage_as_json() -> None:
    done = call("node", "power", "-o", "json", "node1", "sideways")
    assert done.exit_code == 64
    assert json.loads(done.stderr)["error"] == "UsageError"
    assert done.stdout == ""


def test_a_configuration_file_that_is_not_there(tmp_path: Path) -> None:
    done = call("--config", str(tmp_path / "none"), "node", "list")
    assert done.exit_code == 64
    assert str(tmp_path / "none") in done.stderr


def test_a_configuration_file_that_is_wrong(tmp_path: Path) -> None:
    config = tmp_path / "provisioner.conf"
    config.write_text("[network]\nhttp_port = many\n")
    done = call("--config", str(config), "node", "list")
    assert done.exit_code == 64
    assert str(config) in done.stderr


def test_a_dead_service_is_named_with_the_next_command(tmp_path: Path) -> None:
    config = tmp_path / "provisioner.conf"
    config.write_text(f"[DEFAULT]\nrun_dir = {tmp_path}\n")
    done = call("--config", str(config), "node", "list")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0] == "error: the service does not answer"
    assert "next:  start it: provisioner serve" in done.stderr
    done = call("--config", str(config), "node", "list", "-o", "json")
    assert json.loads(done.stderr)["error"] == "ServerUnreachable"


def test_version() -> None:
    assert call("version").stdout.strip() == f"provisioner {__version__}"
    assert json.loads(call("version", "-o", "json").stdout) == {"version": __version__}
    assert __version__ in call("--version").stdout


def test_errors_say_what_where_why_and_next() -> None:
    error = NotFound("there is no such node", where="node9", cause="two\nlines", hint="provisioner node list")
    assert error_lines(error) == [
        "error: there is no such node",
        "where: node9",
        "why:   two\n       lines",
        "next:  provisioner node list",
    ]
    assert error_lines(NotFound("gone")) == ["error: gone"]


def test_every_problem_of_a_manifest_has_its_line() -> None:
    error = ManifestError([Problem("a.yaml:3", "unknown key memori", "write memory"), Problem("b.yaml:1", "empty")])
    lines = error_lines(error)
    assert "  a.yaml:3: unknown key memori" in lines and "      write memory" in lines
    assert "  b.yaml:1: empty" in lines


def test_text_of_others_steers_no_terminal() -> None:
    assert clean("a\x1b[31mb\r\x9bc\nd") == "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}" \
        "\N{REPLACEMENT CHARACTER}c\nd"  # fmt: skip
    assert click.unstyle(clean("→ größer")) == "→ größer"
