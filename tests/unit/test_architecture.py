"""Each room's promise ("May import:") against the imports of its modules, and the doors against stray ones."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("provisioner", "provisioner_agent")
BASE = {"errors", "events", "__init__"}
DOORS = {
    "subprocess": {
        "provisioner/system",
        "provisioner_agent/instance/host.py",
        "provisioner_agent/instance/install.py",  # also a Python that is too old for the door must understand it
        "provisioner_agent/ramdisk/host.py",
        "provisioner_agent/classic/programs.py",
    },
    "pyghmi": {"provisioner/bmc"},
    "sqlalchemy": {"provisioner/store"},
    "uvicorn": {"provisioner/server"},
    "click": {"provisioner/cli"},
}
"""Modules that only the named places may import: programs, BMCs, the database, sockets and the terminal."""
# A child that is spoken to over a pipe cannot go through `Runner.run`, which waits for the end; the chassis program is
# started by ipmi_sim for each command and imports nothing of ours.
CHILDREN = {
    "provisioner/bmc/console.py",
    "provisioner/bmc/sweep.py",
    "provisioner/bmc/worker.py",
    "provisioner/lab/chassis.py",
}


def rooms() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for init in sorted((ROOT / package).glob("*/__init__.py")):
            yield package, init.parent


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import that runs; type-only ones are left out."""
    tree = ast.parse(path.read_text(), str(path))
    type_only = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in type_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module


def promise(room: Path) -> dict[str, str]:
    doc = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    joined = re.sub(r"\n +", " ", doc)
    return dict(re.findall(r"^(Takes|Gives|May import|May touch): (.+)$", joined, re.MULTILINE))


@pytest.mark.parametrize(("package", "room"), list(rooms()), ids=lambda value: getattr(value, "name", value))
def test_a_room_keeps_its_promise(package: str, room: Path) -> None:
    said = promise(room)
    assert set(said) == {"Takes", "Gives", "May import", "May touch"}, f"{room}: the docstring lacks a line"
    allowed = {word.strip() for word in said["May import"].split(",")} | {room.name}
    strays = []
    for path in sorted(room.rglob("*.py")):
        for line, name in imports(path):
            top, _, rest = name.partition(".")
            if top not in PACKAGES:
                continue
            target = rest.partition(".")[0]
            if top == package and target and target not in allowed:
                strays.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
            if top != package and (package == "provisioner_agent" or target not in {"render", "protocol"}):
                strays.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not strays, "\n".join(strays)


def test_rooms_stand_on_each_other_without_circles() -> None:
    below = {room.name: {w.strip() for w in promise(room)["May import"].split(",")} for _, room in rooms()}

    def reach(room: str, seen: tuple[str, ...]) -> None:
        assert room not in seen, f"circle: {' → '.join((*seen, room))}"
        for other in below.get(room, set()) & set(below):
            reach(other, (*seen, room))

    for room in below:
        reach(room, ())


@pytest.mark.parametrize("door", sorted(DOORS))
def test_the_world_is_behind_doors(door: str) -> None:
    places = DOORS[door] | (CHILDREN if door == "subprocess" else set())
    strays = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, name in imports(path)
        if name.split(".")[0] == door and not str(path.relative_to(ROOT)).startswith(tuple(places))
    ]
    assert not strays, f"{door} is imported outside of {sorted(places)}: {strays}"


def test_modules_stay_small() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {lines} lines"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 500
    ]
    assert not long, long
