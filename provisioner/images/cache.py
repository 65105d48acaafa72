"""A build's cache as a folder that CI systems keep between runs: layers, trees, packages, and what they were made from.

It holds what the last build used and nothing else, so it does not grow. Each file is checked against ``cache.json``
before it is used; a cache that was stored half is as good as none. Who may write it may write the images.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from provisioner.events import Event, Observer
from provisioner.images.workshop import Workshop
from provisioner.system.files import hash_file, write_file

INDEX = "cache.json"


def load_cache(folder: Path, workshop: Workshop, observer: Observer) -> int:
    """Bring what the workshop lacks; the number of files. A missing folder is an empty cache."""
    index = folder / INDEX
    listed: dict[str, str] = {}
    if index.is_file():
        try:
            listed = dict(json.loads(index.read_text()))
        except ValueError:
            observer(Event("image.cache.damaged", f"{index}: cannot be read; the cache is not used"))
    brought = 0
    for name, digest in listed.items():
        source, target = folder / name, workshop.state / name
        if target.exists() or not target.resolve().is_relative_to(workshop.state.resolve()):
            continue
        if not source.is_file() or hash_file(source) != digest:
            observer(Event("image.cache.damaged", f"{source}: not the file that was stored; it is made anew"))
            continue
        _place(source, target)
        brought += 1
    return brought


def save_cache(folder: Path, workshop: Workshop, used: Iterable[Path]) -> int:
    """Make the folder hold ``used``, files below the workshop's state folder, and no more; the number of bytes."""
    names = {str(path.relative_to(workshop.state)): path for path in used if path.is_file()}
    index = folder / INDEX
    index.unlink(missing_ok=True)  # until all is there it is no cache
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if str(path.relative_to(folder)) not in names:
            path.unlink()
    for name, path in names.items():
        target = folder / name
        if not target.exists() or not target.samefile(path):
            target.unlink(missing_ok=True)
            _place(path, target)
    write_file(index, json.dumps({name: hash_file(path) for name, path in sorted(names.items())}, indent=1))
    return sum(path.stat().st_size for path in names.values())


def _place(source: Path, target: Path) -> None:
    """A hard link where that is possible: layers are hundreds of megabytes and never change under their name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        try:
            temporary.hardlink_to(source)
        except OSError:
            shutil.copy2(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
