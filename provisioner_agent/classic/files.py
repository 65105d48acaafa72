"""A template tree becomes files: all are rendered first, so that one that fails leaves everything as it is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE
from typing import Any

from provisioner_agent.classic.control import Control, parse_control
from provisioner_agent.classic.problem import ClassicError
from provisioner_agent.classic.template import render

CONTROL = ".oac"
FRESH_MODE = 0o644


@dataclass(frozen=True)
class OutFile:
    """``path`` below the output root."""

    path: str
    body: bytes
    control: Control


def render_tree(top: Path, data: Mapping[str, Any]) -> list[OutFile]:
    """:raises ClassicError: the first template, or control file, that cannot be used."""
    return [_render_one(path, str(path.relative_to(top)), data) for path in find_templates(top)]


def find_templates(top: Path) -> Iterator[Path]:
    """By path; control files are none."""
    for folder, inner, names in os.walk(top):
        inner.sort()
        yield from (Path(folder, name) for name in sorted(names) if not name.endswith(CONTROL))


def _render_one(template: Path, path: str, data: Mapping[str, Any]) -> OutFile:
    try:
        body = render(template, data)
    except ClassicError as error:
        raise ClassicError(f"{template}: {error}") from error
    control = template.with_name(template.name + CONTROL)
    try:
        return OutFile(path, body, parse_control(control.read_text("utf-8")) if control.is_file() else Control())
    except (ClassicError, OSError) as error:
        raise ClassicError(f"{control}: {error}") from error


def write_all(top: Path, files: list[OutFile]) -> list[str]:
    """:returns: the paths that were written or removed; what is as it should be is left alone. :raises OSError:"""
    return [file.path for file in files if _write(top / file.path, file)]


def _write(path: Path, file: OutFile) -> bool:
    control = file.control
    if not control.allow_empty and not file.body:
        if not path.exists():
            return False
        path.unlink()
        return True
    there = path.stat() if path.exists() else None
    mode = control.mode or (S_IMODE(there.st_mode) if there else FRESH_MODE)
    owner = control.owner if control.owner is not None else there.st_uid if there else -1
    group = control.group if control.group is not None else there.st_gid if there else -1
    if there is not None and not path.is_symlink() and path.read_bytes() == file.body:
        same = (S_IMODE(there.st_mode), there.st_uid, there.st_gid)
        if same == (mode, owner, group):
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as fresh:
            fresh.write(file.body)
            fresh.flush()
            os.fchown(fresh.fileno(), owner, group)
            os.fchmod(fresh.fileno(), mode)
            os.fsync(fresh.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink()
        raise
    return True
