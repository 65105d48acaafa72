"""What is desired: a cloud file and the roles beside it, read and parsed."""

from __future__ import annotations

from pathlib import Path

from provisioner.cli.files import read_text
from provisioner.images.elements import VALUES, element_deps
from provisioner.manifest.cloud import parse_desired, parse_roles
from provisioner.manifest.elements import ElementText
from provisioner.model.role import Desired, Role
from provisioner.system.settings import Settings


def read_roles(beside: Path, settings: Settings) -> dict[str, str]:
    """The role files of ``roles/`` beside a cloud file; where there is none, those of the source folder."""
    folder = next((place for place in (beside / "roles", settings.source_dir / "roles") if place.is_dir()), None)
    return {str(path): read_text(path) for path in sorted(folder.glob("*.yaml"))} if folder else {}


def read_zones(beside: Path) -> dict[str, str]:
    """The zone files of ``zones/`` beside a cloud file."""
    return {str(path): read_text(path) for path in sorted((beside / "zones").glob("*.yaml"))}


def read_elements(settings: Settings) -> dict[str, ElementText]:
    """The elements of our own folders by name, ours first, with what each says of its values."""
    found: dict[str, ElementText] = {}
    for base in (settings.source_dir / "elements", *settings.elements_path):
        for folder in sorted(base.iterdir()) if base.is_dir() else ():
            if folder.is_dir() and folder.name not in found:
                values = folder / VALUES
                text = read_text(values) if values.is_file() else None
                found[folder.name] = ElementText(str(values), text, element_deps(folder))
    return found


def read_desired(path: Path, settings: Settings) -> Desired:
    """A cloud file with the roles, zones and elements that it may use.

    :raises ManifestError: with every problem in them.
    """
    beside = path.resolve().parent
    files = {str(path): read_text(path)} | read_roles(beside, settings)
    return parse_desired(str(path), files, zones=read_zones(beside), elements=read_elements(settings))


def read_source_roles(settings: Settings) -> dict[str, Role]:
    """Every role of the source folder, by name, with the defaults of its elements among its values.

    :raises ManifestError: with every problem in them.
    """
    return parse_roles(read_roles(settings.source_dir, settings), read_elements(settings))
