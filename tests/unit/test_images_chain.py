"""Chains of layers: which elements bring packages, what images share, what a layer's name depends on."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.errors import ImageError
from provisioner.images.chain import DEBIAN, Layer, build_chains, package_elements, split_chains
from provisioner.images.elements import copy_package_parts, find_elements
from provisioner.images.sources import Source
from provisioner.images.workshop import BuildSpec
from provisioner.model.role import ImageSpec

SOURCES = (Source("http://mirror.example/debian", "bookworm", ("main",)),)
ELEMENTS = {
    "provisioner-layer/element-provides": "operating-system\n",
    "provisioner-layer/root.d/10-unpack": "#!/bin/sh\n",
    "provisioner-layer/finalise.d/98-forget": "#!/bin/sh\n",
    "agent/package-installs.yaml": "python3:\n",
    "openstack/element-deps": "agent\n",
    "openstack/package-installs.yaml": "nova-common:\n",
    "controller/element-deps": "openstack\ninstall-bin\ndynamic-login\n",
    "controller/package-installs.yaml": "keystone:\n",
    "controller/install.d/70-it": "#!/bin/sh\n",
    "compute/element-deps": "openstack\n",
    "compute/package-installs.yaml": "nova-compute:\n",
    "plain/element-deps": "agent\n",
    "plain/install.d/50-it": "#!/bin/sh\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in ELEMENTS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def spec(name: str) -> BuildSpec:
    return BuildSpec(name, ImageSpec(elements=(name,)))


def chains(folder: Path, *names: str, lock: dict[str, str] | None = None) -> dict[str, list[str]]:
    tops = build_chains([spec(name) for name in names], (folder,), SOURCES, lock or {})
    return {name: [layer.name for layer in top.chain] for name, top in tops.items()}


def top(folder: Path, name: str, lock: dict[str, str] | None = None) -> Layer:
    return build_chains([spec("controller"), spec("compute"), spec("plain")], (folder,), SOURCES, lock or {})[name]


def test_images_share_the_layers_of_what_they_have_in_common(folder: Path) -> None:
    assert chains(folder, "controller", "compute", "plain") == {
        "controller": [DEBIAN, "openstack", "controller"],
        "compute": [DEBIAN, "openstack", "compute"],
        "plain": [DEBIAN],
    }
    assert chains(folder, "controller", "plain")["controller"] == [DEBIAN, "openstack+controller"]
    assert top(folder, "controller").parent == top(folder, "compute").parent


def test_chains_part_where_images_do() -> None:
    assert split_chains({"a": "xyz", "b": "xyq", "c": "xw", "d": ""}) == {
        "a": (("x",), ("y",), ("z",)),
        "b": (("x",), ("y",), ("q",)),
        "c": (("x",), ("w",)),
        "d": (),
    }
    assert split_chains({"a": "xyz", "b": "xyz"})["a"] == (("x", "y", "z"),)
    assert split_chains({"a": "xy", "b": "x"}) == {"a": (("x",), ("y",)), "b": (("x",),)}


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("controller/package-installs.yaml", True),
        ("controller/pre-install.d/10-it", True),
        ("controller/install.d/70-it", False),
        ("openstack/package-installs.yaml", True),
        ("compute/package-installs.yaml", False),
        ("provisioner-layer/root.d/10-unpack", True),
        ("provisioner-layer/finalise.d/98-forget", False),
    ],
)
def test_only_what_brings_packages_names_a_layer(folder: Path, path: str, changes: bool) -> None:
    before = top(folder, "controller").key
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_text("other:\n")
    assert (top(folder, "controller").key != before) is changes


def test_the_lock_and_the_sources_name_every_layer(folder: Path) -> None:
    before = top(folder, "compute")
    after = top(folder, "compute", {"nova-common": "2"})
    assert [a.key == b.key for a, b in zip(before.chain, after.chain, strict=True)] == [False] * 3


def test_elements_that_add_nothing_make_no_layer(folder: Path) -> None:
    assert list(package_elements(spec("controller"), (folder,))) == ["openstack", "controller"]
    (folder / "agent" / "package-installs.yaml").write_text("python3:\npython3-extra:\n")
    assert list(package_elements(spec("controller"), (folder,))) == ["agent", "openstack", "controller"]
    (folder / "agent" / "package-installs.yaml").write_text("python3: [broken\n")
    with pytest.raises(ImageError) as caught:
        package_elements(spec("controller"), (folder,))
    assert caught.value.where == str(folder / "agent" / "package-installs.yaml")
    (folder / "agent" / "package-installs.yaml").write_text("- python3\n")
    with pytest.raises(ImageError, match="not a map"):
        package_elements(spec("controller"), (folder,))


def test_a_circle_and_a_missing_element_are_named(folder: Path) -> None:
    (folder / "agent" / "element-deps").write_text("controller\n")
    with pytest.raises(ImageError) as caught:
        find_elements(("plain",), (folder,))
    assert caught.value.cause == "agent → controller → openstack → agent"
    assert "element-deps" in str(caught.value.hint)
    (folder / "agent" / "element-deps").write_text("mistyped\n")
    with pytest.raises(ImageError, match="no element mistyped") as caught:
        find_elements(("plain",), (folder,))
    assert caught.value.cause == "agent depends on it"


def test_a_layers_elements_are_the_part_that_installs(folder: Path, tmp_path: Path) -> None:
    found = find_elements(("provisioner-layer", "controller"), (folder,))
    copy_package_parts(found, tmp_path / "copy")
    names = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert "controller/package-installs.yaml" in names and "provisioner-layer/root.d/10-unpack" in names
    assert not any("install.d/70-it" in name or "finalise.d" in name for name in names)
    deps = (tmp_path / "copy/controller/element-deps").read_text().split()
    assert deps == ["openstack", "install-bin", "package-installs"]  # dynamic-login has hooks, and no part in a layer
