"""The pool: every package that a build fetched, kept, and given to every later build, so that none is fetched twice.

Each lies in a folder named by the sha256 of its content, and is checked against it before it is given out: apt takes a
package that lies in its archive folder for what the index says when only its size is right. The pool is written by root
only, as the builds themselves are.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

from provisioner.system.files import hash_file

ARCHIVES = "var/cache/apt/archives"
NAME = re.compile(r"^(?P<package>[^_]+)_(?P<version>[^_]+)_[^_]+\.deb$")
KEPT = 2
"""Versions of each package that are kept beside those of the lock: the newest, by when they came."""


def bootstrap_options(pool: Path) -> list[str]:
    """Options of mmdebstrap(1) that let its apt use the pool, and put into it what was fetched."""
    give = f'mkdir -p "$1/{ARCHIVES}" && find "{pool}" -name "*.deb" -exec cp -t "$1/{ARCHIVES}" {{}} +'
    known = f'find "{pool}" -name "*.deb" -printf "%f\\n"'
    fresh = f'{{ {known}; {known}; find "$1/{ARCHIVES}" -maxdepth 1 -name "*.deb" -printf "%f\\n"; }} | sort | uniq -u'
    keep = f'{fresh} | while read -r name; do cp "$1/{ARCHIVES}/$name" "{pool}"; done'
    return ["--skip=essential/unlink", f"--setup-hook={give}", f"--customize-hook={keep}"]


def settle_pool(pool: Path) -> list[str]:
    """File what builds left, each package under its sha256, and drop what is not what it was; names of what went."""
    packages = sorted(pool.rglob("*.deb"))
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        digests = list(threads.map(hash_file, packages))
    dropped = []
    for path, digest in zip(packages, digests, strict=True):
        if path.parent == pool:
            (pool / digest).mkdir(exist_ok=True)
            path.replace(pool / digest / path.name)
        elif path.parent.name != digest:
            dropped.append(path.name)
            path.unlink()
    return dropped


def trim_pool(pool: Path, lock: Mapping[str, str]) -> int:
    """Remove what neither the lock names nor came lately; the number of bytes."""
    by_package: dict[str, list[tuple[float, Path, str]]] = defaultdict(list)
    for path in pool.rglob("*.deb"):
        if match := NAME.match(path.name):
            by_package[match["package"]].append((path.stat().st_mtime, path, unquote(match["version"])))
    freed = 0
    for package, found in by_package.items():
        for _, path, version in sorted(found, reverse=True)[KEPT:]:
            if lock.get(package) != version:
                freed += path.stat().st_size
                path.unlink()
                if path.parent != pool:
                    path.parent.rmdir()
    return freed


def locked_packages(pool: Path, lock: Mapping[str, str]) -> list[Path]:
    """The packages of the pool that the lock names; all of them without a lock."""
    found = [(path, match) for path in sorted(pool.rglob("*.deb")) if (match := NAME.match(path.name))]
    return [path for path, match in found if not lock or lock.get(match["package"]) == unquote(match["version"])]
