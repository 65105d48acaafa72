"""The program in an image: all that serving needs is there, nothing that only building needs, the same each time."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from provisioner.errors import ImageError
from provisioner.images import program
from provisioner.images.inputs import folder_inputs
from provisioner.images.program import PLACE, UNIT, bring_program, find_distributions, program_inputs, python_version
from provisioner.images.workshop import Workshop
from provisioner.system.run import FakeRunner

ROOT = Path(__file__).resolve().parents[2]
WORKSHOP = Workshop(ROOT, ROOT / "provisioner_agent", (), ROOT / "none", ROOT / "none", None)
USED = """
import sys
sys.path.insert(0, sys.argv[1])
import provisioner.cli.apply, provisioner.cli.exchange, provisioner.cli.handover, provisioner.cli.node
import provisioner.cli.receive, provisioner.cli.serve, provisioner.bmc.poller_main, provisioner.bmc.worker_main
import provisioner_agent.instance.main
print(provisioner.__file__)
"""


def make_tree(folder: Path) -> Path:
    (folder / PLACE).mkdir(parents=True)
    for name in ("usr/bin", "usr/local/bin", "etc/systemd/system"):
        (folder / name).mkdir(parents=True)
    (folder / "usr/bin" / f"python{python_version()}").touch()
    return folder


def test_what_serving_needs_is_named_and_what_only_building_needs_is_not() -> None:
    found = {one.name.lower().replace("_", "-") for one in find_distributions(ROOT)}
    assert {"sqlalchemy", "starlette", "uvicorn", "uvloop", "httptools", "pyghmi", "sushy", "pystache"} <= found
    assert not found & {"diskimage-builder", "networkx", "flake8", "pytest", "provisioner", "provisioner-agent"}
    inputs = program_inputs(WORKSHOP)
    assert "program/cli/main.py" in inputs and "program/uvloop" in inputs and f"program/seed/{UNIT}" in inputs
    assert not any("bootstrap" in name for name in inputs)


def test_the_program_runs_from_there_with_nothing_else_and_two_copies_are_the_same(tmp_path: Path) -> None:
    first, second = make_tree(tmp_path / "first"), make_tree(tmp_path / "second")
    for tree in (first, second):
        runner = FakeRunner({sys.executable: (0, "")})
        bring_program(WORKSHOP, tree, runner)
        assert "compileall" in " ".join(map(str, runner.calls[0]))
    assert folder_inputs("", first) == folder_inputs("", second)
    packages = first / PLACE / "lib" / f"python{python_version()}" / "site-packages"
    words = [sys.executable, "-S", "-I", "-c", USED, str(packages)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0 and str(packages) in done.stdout, done.stderr
    assert f"ExecStart=/{PLACE}/bin/provisioner serve" in (first / "etc/systemd/system" / UNIT).read_text()
    assert (first / "usr/local/bin/provisioner").readlink() == Path(f"/{PLACE}/bin/provisioner")
    assert (first / PLACE / "share/roles/galera.yaml").is_file()
    told = [path for path in packages.glob("*.dist-info/*") if path.name in ("direct_url.json", "RECORD", "INSTALLER")]
    assert not told, "nothing of where it was installed here"


def test_a_tree_without_a_place_for_it_is_left_alone_and_another_python_is_refused(tmp_path: Path) -> None:
    bring_program(WORKSHOP, tmp_path, FakeRunner())
    assert list(tmp_path.iterdir()) == []
    tree = make_tree(tmp_path / "tree")
    (tree / "usr/bin" / f"python{python_version()}").rename(tree / "usr/bin/python3.9")
    with pytest.raises(ImageError, match="another Python"):
        bring_program(WORKSHOP, tree, FakeRunner())


def test_compiled_modules_are_not_copied_wherever_the_record_says_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Virtualenv records them beside their source, where none is; they are made anew in the tree."""
    info = tmp_path / "packages" / "one-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: one\nVersion: 1\n")
    (info / "RECORD").write_text("one/part.py,,\none/part.cpython-311.pyc,,\none/__pycache__/part.cpython-311.pyc,,\n")
    (tmp_path / "packages/one").mkdir()
    (tmp_path / "packages/one/part.py").touch()
    monkeypatch.setattr(program, "find_distributions", lambda source: [Distribution.at(info)])
    tree = make_tree(tmp_path / "tree")
    bring_program(WORKSHOP, tree, FakeRunner({sys.executable: (0, "")}))
    copied = (tree / PLACE).glob("lib/*/site-packages/one/**/*")
    assert [path.name for path in copied] == ["part.py"]
