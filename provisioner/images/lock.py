"""The lock: which version of each package images are built from, until somebody says ``image build --update``.

It is a text file beside the elements, one ``PACKAGE VERSION`` a line, made to be committed and to be read in a diff. A
mirror drops versions that have been superseded; what it no longer has, and this site's pool neither, is taken in the
newest version instead, and said. So an old lock never keeps a fresh clone from building.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from provisioner.errors import ImageError

LOCK = "images.lock"
HEAD = """\
# The versions of the Debian packages that images are built from. Written by: provisioner image build --update
"""
FIRST = 1001
"""A pin above 1000 also takes a version that is older than the newest (apt_preferences(5))."""
SHOWN = 3


def parse_lock(path: str, text: str) -> dict[str, str]:
    """Version by package.

    :param path: names the file in errors. :raises ImageError: a line is of another form.
    """
    lock: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or words[0] in lock:
            raise ImageError(
                "a package stands twice" if len(words) == 2 else "not a package and its version",
                where=f"{path}:{number}",
                cause=line.strip(),
                hint="provisioner image build --update writes the file anew",
            )
        lock[words[0]] = words[1]
    return lock


def read_lock(path: Path) -> dict[str, str]:
    """The lock, empty when there is none: then the newest versions are taken."""
    return parse_lock(str(path), path.read_text()) if path.is_file() else {}


def render_lock(packages: Mapping[str, str]) -> str:
    return HEAD + "".join(f"{name} {version}\n" for name, version in sorted(packages.items()))


def render_preferences(lock: Mapping[str, str]) -> str:
    """The lock as apt understands it (apt_preferences(5))."""
    return "\n".join(
        f"Package: {name}\nPin: version {version}\nPin-Priority: {FIRST}\n" for name, version in sorted(lock.items())
    )


def describe_drift(lock: Mapping[str, str], packages: Mapping[str, str]) -> str | None:
    """Which packages of an image are not as locked, in one line; None when all are."""
    moved = [
        f"{name} {lock.get(name, '(not locked)')} → {version}"
        for name, version in sorted(packages.items())
        if lock and lock.get(name) != version
    ]
    if not moved:
        return None
    more = f" and {len(moved) - SHOWN} more" if len(moved) > SHOWN else ""
    return f"{', '.join(moved[:SHOWN])}{more}"
