"""What the sources said, in files: ``NAME.json`` now, ``NAME.json.orig`` at first, ``NAME.json.last`` when the command
that brings it into force last ended well."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIST = "os_config_files"
KNOWN = ".sources"
"""Which names each source gave last, and since when it is away: ``{source: {"names", "stale"}}``. No local file has a
name that begins with a dot."""


class Cache:
    """:param backup: a folder that is made anew as a copy after each change."""

    def __init__(self, folder: Path, backup: Path) -> None:
        self.folder, self.backup = folder, backup

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def read(self, name: str) -> Any:
        """None when there is none, or it is damaged."""
        try:
            return json.loads(self.path(name).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def store(self, name: str, content: Any) -> bool:
        """Whether it is other than what was last brought into force."""
        path = self.path(name)
        write(path, json.dumps(content, indent=1))
        first = path.with_name(f"{path.name}.orig")
        if not first.exists():
            shutil.copy(path, first)
            return True
        return self.is_news(name)

    def is_news(self, name: str) -> bool:
        path = self.path(name)
        try:
            last = json.loads(path.with_name(f"{path.name}.last").read_text("utf-8"))
        except (OSError, ValueError):
            return True
        return bool(last != self.read(name))

    def commit(self, name: str) -> None:
        """It is in force."""
        path = self.path(name)
        if path.exists():
            shutil.copy(path, path.with_name(f"{path.name}.last"))

    def list_files(self, names: Sequence[str]) -> None:
        """For ``provisioner-agent apply``; also the backup is made."""
        write(self.path(LIST), json.dumps([str(self.path(name)) for name in names]))
        shutil.rmtree(self.backup, ignore_errors=True)
        if self.folder.exists():
            shutil.copytree(self.folder, self.backup)

    def known(self) -> dict[str, dict[str, Any]]:
        found = self.read(KNOWN)
        return found if isinstance(found, dict) else {}

    def note(self, known: Mapping[str, Mapping[str, Any]]) -> None:
        if known != self.known():
            write(self.path(KNOWN), json.dumps(known, indent=1))


def write(path: Path, text: str) -> None:
    """At once, and readable by its owner alone: it may hold secrets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink()
        raise
