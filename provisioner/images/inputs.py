"""What goes into a build: a hash over all of it names the result, and the parts say why it differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from provisioner.system.files import hash_file

IGNORED = ("__pycache__", ".egg-info")


def hash_inputs(inputs: Mapping[str, str]) -> str:
    """The name of what these inputs make: 16 hex digits."""
    return hashlib.sha256(json.dumps(dict(sorted(inputs.items()))).encode()).hexdigest()[:16]


def folder_inputs(label: str, folder: Path, parts: Collection[str] | None = None) -> dict[str, str]:
    """Path → hash of content and mode for every file below a folder; a link counts by its target.

    :param parts: names at the top of the folder that count; all of them by default.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = f"{label}/{path.relative_to(folder)}"
        if any(part.endswith(IGNORED) for part in path.parts):
            continue
        if parts is not None and path.relative_to(folder).parts[0] not in parts:
            continue
        if path.is_symlink():
            found[name] = f"link {path.readlink()}"
        elif path.is_file():
            found[name] = f"{path.stat().st_mode & 0o7777:o} {hash_file(path)}"
    return found


def explain(old: Mapping[str, str] | None, new: Mapping[str, str]) -> str:
    """Why a build is due, in one line: ``because elements/galera/package-installs.yaml changed``."""
    if old is None:
        return "because it was never built here"
    changed = [name for name in new if name in old and old[name] != new[name]]
    added = [name for name in new if name not in old]
    gone = [name for name in old if name not in new]
    parts = _said(changed, "changed") + _said(added, "was added") + _said(gone, "is gone")
    return f"because {', '.join(parts)}" if parts else "because its result is gone"


def _said(names: Iterable[str], what: str) -> list[str]:
    listed = sorted(names)
    if not listed:
        return []
    more = f" and {len(listed) - 1} more" if len(listed) > 1 else ""
    return [f"{listed[0]}{more} {what}"]
