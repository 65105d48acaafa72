"""Elements: where each one lies, in which order they depend on each other, and which part of one brings packages."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from provisioner.errors import ImageError

LAYER_ELEMENT = "provisioner-layer"
INSTALLS = ("package-installs.yaml", "package-installs.json")
PACKAGE_PART = (
    "block-device.d", "element-provides", "environment.d", "pkg-map", "pre-install.d", "root.d", *INSTALLS,
)  # fmt: skip
"""What of an element decides which packages come in, and how; all else can change without installing them again."""
VALUES = "values.yaml"
"""What values an element has. Nothing of it is in an image: it is for those who tell instances their values."""
MACHINERY = frozenset({"dib-python", "dpkg", "install-bin", "manifests", "package-installs", "pkg-map"})
"""Elements of diskimage-builder that a layer of packages needs itself."""


def shipped_elements() -> frozenset[str]:
    """Names of the elements that diskimage-builder ships."""
    stock = Path(sys.executable).parents[1].glob("lib/python3*/site-packages/diskimage_builder/elements")
    return frozenset(entry.name for folder in stock for entry in folder.iterdir())


def find_elements(elements: Sequence[str], path: Sequence[Path]) -> Mapping[str, Path]:
    """Where each element and what it depends on lie, of those that are in our folders; dependencies first.

    Elements that diskimage-builder ships are not listed: its version stands for them.

    :param path: folders searched in order. :raises ImageError: an element is in none of the folders nor in
        diskimage-builder, or elements depend on each other in a circle.
    """
    shipped = shipped_elements()
    found: dict[str, Path] = {}

    def visit(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            raise ImageError(
                f"the element {name} depends on itself",
                where=str(found_folder(name, path)),
                cause=" → ".join((*way[way.index(name) :], name)),
                hint="take one of these names out of an element-deps file",
            )
        if name in found:
            return
        folder = found_folder(name, path)
        if folder is None:
            if name not in shipped:
                raise ImageError(
                    f"there is no element {name}",
                    where=", ".join(str(base) for base in path),
                    cause=f"{way[-1]} depends on it" if way else None,
                    hint="correct the role's image.elements, or add its folder to elements_path",
                )
            return
        for needed in element_deps(folder):
            visit(needed, (*way, name))
        found[name] = folder

    for element in elements:
        visit(element, ())
    return found


def found_folder(name: str, path: Sequence[Path]) -> Path | None:
    """The first folder of that name."""
    return next((base / name for base in path if (base / name).is_dir()), None)


def element_deps(folder: Path) -> tuple[str, ...]:
    deps = folder / "element-deps"
    return tuple(deps.read_text().split()) if deps.is_file() else ()


def adds_packages(folder: Path, present: frozenset[str]) -> bool:
    """Whether an element installs, or prepares to install, more than the packages ``present``.

    :raises ImageError: its list of packages cannot be read.
    """
    if (folder / "pre-install.d").is_dir():
        return True
    for name in INSTALLS:
        path = folder / name
        if path.is_file():
            try:
                listed = yaml.safe_load(path.read_text()) or {}
            except yaml.YAMLError as error:
                raise ImageError("a list of packages cannot be read", where=str(path), cause=str(error)) from error
            if not isinstance(listed, dict):
                raise ImageError("a list of packages is not a map", where=str(path), hint="write PACKAGE: on a line")
            if any(package not in present or params for package, params in listed.items()):
                return True
    return False


def count_packages(folder: Path) -> int:
    """How many packages an element names."""
    listed = (yaml.safe_load((folder / name).read_text()) for name in INSTALLS if (folder / name).is_file())
    return sum(len(packages or ()) for packages in listed)


def copy_package_parts(folders: Mapping[str, Path], target: Path) -> None:
    """Elements of the same names below ``target`` that bring the packages and do nothing else.

    Their pre-install scripts stand on their own there: what extra-data.d prepares is not in a layer of packages.
    """
    for name, folder in folders.items():
        copy = target / name
        copy.mkdir(parents=True)
        for part in PACKAGE_PART:
            if (folder / part).is_dir():
                shutil.copytree(folder / part, copy / part)
            elif (folder / part).is_file():
                shutil.copy2(folder / part, copy / part)
        kept = [dep for dep in element_deps(folder) if dep in folders or dep in MACHINERY]
        (copy / "element-deps").write_text("".join(f"{dep}\n" for dep in (*kept, "package-installs")))
