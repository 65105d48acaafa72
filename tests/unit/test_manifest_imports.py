"""Every file in cases/imports: what comes out of it, or what is wrong in it, all of it, at its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from casefile import split_case
from click.testing import CliRunner

from provisioner.cli.imports import build_text
from provisioner.cli.main import main
from provisioner.errors import ManifestError
from provisioner.manifest.hardware import parse_hardware
from provisioner.manifest.imports import parse_import

CASES = sorted((Path(__file__).parent / "cases" / "imports").glob("*.case"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(case: Path) -> None:
    files = split_case(case.read_text())
    expected, notes = files.pop("expect"), files.pop("notes", "")
    ((name, text),) = files.items()
    try:
        found = parse_import(name, text)
    except ManifestError as error:
        assert sorted(map(str, error.problems)) == sorted(expected.splitlines())
        return
    written = build_text(found, name, Path("/bmc"))
    assert written == expected
    assert sorted(found.notes) == sorted(notes.splitlines())
    assert [spec.name for spec in parse_hardware({"x.yaml": written})] == [node["name"] for node in found.nodes]
    assert "S3cret" not in written + "".join(found.notes) and all("S3cret" in w for w in found.passwords.values())


def call(folder: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["node", "import", *words])
    return done.exit_code, done.output


def test_the_command_writes_a_hardware_file_and_passwords_apart(tmp_path: Path) -> None:
    source, target, passwords = tmp_path / "instackenv.json", tmp_path / "new" / "rack.yaml", tmp_path / "bmc"
    source.write_text(split_case((CASES[0].parent / "instackenv.case").read_text())["instackenv.json"])
    words = (str(source), "--to", str(target), "--passwords", str(passwords))
    code, out = call(tmp_path, *words)
    assert code == 0, out
    assert f"provisioner node enroll {target}" in out and "S3cret" not in out + target.read_text()
    assert {(path.name, path.read_text(), path.stat().st_mode & 0o777) for path in passwords.iterdir()} == {
        ("ctl-0", "S3cret-1\n", 0o600),
        ("cmp-0", "S3cret-2\n", 0o600),
    }
    code, out = call(tmp_path, *words)
    assert code == 64 and "is there already" in out


def test_nothing_is_written_when_something_is_wrong(tmp_path: Path) -> None:
    source, target = tmp_path / "rack.csv", tmp_path / "rack.yaml"
    source.write_text("name,driver,address,colour\na1,ipmi,10.0.0.1,red\n")
    code, out = call(tmp_path, str(source), "--to", str(target), "--passwords", str(tmp_path / "bmc"))
    assert code == 1 and "rack.csv:1: unknown column 'colour'" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rack.csv"]
