"""What is desired: a cloud file and the roles beside it, read and parsed."""

from __future__ import annotations

from pathlib import Path

from provisioner.cli.files import read_text
from provisioner.manifest.cloud import parse_desired, parse_roles
from provisioner.model.role import Desired, Role
from provisioner.system.settings import Settings


def read_roles(beside: Path, settings: Settings) -> dict[str, str]:
    """The role files of ``roles/`` beside a cloud file; where there is none, those of the source folder."""
    folder = next((place for place in (beside / "roles", settings.source_dir / "roles") if place.is_dir()), None)
    return {str(path): read_text(path) for path in sorted(folder.glob("*.yaml"))} if folder else {}


def read_desired(path: Path, settings: Settings) -> Desired:
    """A cloud file and the roles it may use.

    :raises ManifestError: with every problem in them.
    """
    files = {str(path): read_text(path)} | read_roles(path.resolve().parent, settings)
    return parse_desired(str(path), files)


def read_source_roles(settings: Settings) -> dict[str, Role]:
    """Every role of the source folder, by name.

    :raises ManifestError: with every problem in them.
    """
    return parse_roles(read_roles(settings.source_dir, settings))
