"""What can go: images that nobody needs, layers and trees that no build used for long, what killed programs left."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import ImageError
from provisioner.images.catalogue import MANIFEST, UNFINISHED, Catalogue
from provisioner.images.workshop import Workshop

DAY = 86400.0


@dataclass(frozen=True)
class Removal:
    """One thing to remove. ``kind``: image, layer, tree or leftover; ``bytes``: of disk that it takes."""

    kind: str
    path: Path
    bytes: int
    why: str


def plan_prune(
    catalogue: Catalogue, workshop: Workshop, needed: Collection[str], *, keep: int, days: float, now: float
) -> list[Removal]:
    """What :func:`prune` would remove.

    Never the image that new deployments of a name take, nor one in ``needed``.

    :param needed: ids of images that deployments are made from. :param keep: further images of each name that stay,
        the newest first. :param days: age of the last use from which layers and trees go. :param now: seconds.
    """
    found = [*_images(catalogue, needed, keep)]
    for kind, folder in (("layer", "layers"), ("tree", "trees")):
        for path in sorted((workshop.state / folder).glob("*.tar.zst")):
            idle = (now - path.stat().st_mtime) / DAY
            if idle > days:
                found.append(Removal(kind, path, path.stat().st_size, f"not used for {idle:.0f} days"))
    for path in sorted(catalogue.folder.glob(f"{UNFINISHED}*/")):
        if (now - path.stat().st_mtime) / DAY > 1:
            found.append(Removal("leftover", path, _size(path), "of a program that was killed"))
    return found


def _images(catalogue: Catalogue, needed: Collection[str], keep: int) -> list[Removal]:
    newest = {path.read_text().strip() for path in catalogue.folder.glob("*.newest")}
    folders = [
        path.parent for path in catalogue.folder.glob(f"*/{MANIFEST}") if not path.parent.name.startswith(UNFINISHED)
    ]
    removals: list[Removal] = []
    seen: dict[str, int] = {}
    for folder in sorted(folders, key=lambda folder: ((folder / MANIFEST).stat().st_mtime, folder.name), reverse=True):
        if folder.name in newest or folder.name in needed:
            continue
        why = ""
        try:
            catalogue.get(folder.name)
        except ImageError as error:
            why = error.summary
        name = folder.name.rpartition("-")[0]
        seen[name] = seen.get(name, 0) + 1
        if why or seen[name] > keep:
            removals.append(Removal("image", folder, _size(folder), why or "no deployment needs it"))
    return removals


def prune(catalogue: Catalogue, removals: Collection[Removal]) -> int:
    """Remove what was planned; the number of bytes. :raises Conflict: an image became the newest since."""
    for removal in removals:
        if removal.kind == "image":
            catalogue.remove(removal.path.name)
        elif removal.path.is_dir():
            shutil.rmtree(removal.path, ignore_errors=True)
        else:
            removal.path.unlink(missing_ok=True)
    return sum(removal.bytes for removal in removals)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
