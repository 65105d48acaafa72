"""The pool: every package that a build fetched, kept, and given to every later build, so that none is fetched twice.

apt takes a package that lies in its archive folder and has the size that the index says, instead of fetching it. The
pool is written by root only, as the builds themselves are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

ARCHIVES = "var/cache/apt/archives"
NAME = re.compile(r"^(?P<package>[^_]+)_(?P<version>[^_]+)_[^_]+\.deb$")
KEPT = 2
"""Versions of each package that are kept beside those of the lock: the newest, by when they came."""


def bootstrap_options(pool: Path) -> list[str]:
    """Options of mmdebstrap(1) that let its apt use the pool, and put into it what was fetched."""
    give = f'mkdir -p "$1/{ARCHIVES}" && find "{pool}" -name "*.deb" -exec cp -t "$1/{ARCHIVES}" {{}} +'
    keep = f'find "$1/{ARCHIVES}" -maxdepth 1 -name "*.deb" -exec cp -nt "{pool}" {{}} +'
    return ["--skip=essential/unlink", f"--setup-hook={give}", f"--customize-hook={keep}"]


def trim_pool(pool: Path, lock: Mapping[str, str]) -> int:
    """Remove what neither the lock names nor came lately; the number of bytes."""
    by_package: dict[str, list[tuple[float, Path, str]]] = defaultdict(list)
    for path in pool.glob("*.deb"):
        if match := NAME.match(path.name):
            by_package[match["package"]].append((path.stat().st_mtime, path, unquote(match["version"])))
    freed = 0
    for package, found in by_package.items():
        for _, path, version in sorted(found, reverse=True)[KEPT:]:
            if lock.get(package) != version:
                freed += path.stat().st_size
                path.unlink()
    return freed


def locked_packages(pool: Path, lock: Mapping[str, str]) -> list[Path]:
    """The packages of the pool that the lock names; all of them without a lock."""
    found = [(path, match) for path in sorted(pool.glob("*.deb")) if (match := NAME.match(path.name))]
    return [path for path, match in found if not lock or lock.get(match["package"]) == unquote(match["version"])]
