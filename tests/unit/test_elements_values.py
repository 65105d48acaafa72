"""The values of the elements that we ship: each is said once, and what the templates use is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.cli.desired import read_elements, read_source_roles
from provisioner.errors import Problem
from provisioner.manifest.elements import default_values, parse_elements
from provisioner.model.values import Schema
from provisioner.system.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings(source_dir=ROOT)


def test_each_says_what_it_is() -> None:
    problems: list[Problem] = []
    elements = parse_elements(read_elements(SETTINGS), problems)
    assert problems == [] and {"base", "galera", "frontend"} <= set(elements)
    for name, element in elements.items():
        assert set(element.schema.properties) == {name}, "a value is called after its element"
        silent = [path for path, schema in every_value(element.schema) if not schema.description]
        assert not silent, f"{name}: no description of {silent}"


def every_value(schema: Schema, path: str = "") -> list[tuple[str, Schema]]:
    found = []
    for key, below in schema.properties.items():
        found += every_value(below, f"{path}.{key}") if below.properties else [(f"{path}.{key}", below)]
    return found


@pytest.mark.parametrize("name", ["base", "galera"])
def test_our_roles_leave_their_values_to_the_elements(name: str) -> None:
    elements = parse_elements(read_elements(SETTINGS), [])
    values = read_source_roles(SETTINGS)[name].config.values
    assert values == {key: value for one in values for key, value in default_values(elements[one].schema).items()}
    assert name in values
    assert "values:" not in (ROOT / "roles" / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", ["controller", "compute"])
def test_so_do_those_that_share_elements(name: str) -> None:
    role, elements = read_source_roles(SETTINGS)[name], parse_elements(read_elements(SETTINGS), [])
    assert {name, "openstack"} <= set(role.config.values)
    for element, values in role.config.values.items():
        assert {element: values} == default_values(elements[element].schema)
    assert "values:" not in (ROOT / "roles" / f"{name}.yaml").read_text()
