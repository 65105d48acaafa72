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
    """All contents reach the disk before the first name does; what is as it should be is left alone.

    :returns: the paths that were written or removed.
    :raises OSError: nothing was changed, unless it is a name that cannot be taken.
    """
    fresh: dict[Path, str] = {}
    removed: list[Path] = []
    try:
        for file in files:
            path = top / file.path
            if file.control.allow_empty or file.body:
                temporary = _prepare(path, file)
                if temporary is not None:
                    fresh[path] = temporary
            elif path.exists():
                removed.append(path)
        for flush in (_begin_flush, _flush):  # all are on their way before the first is waited for
            for temporary in fresh.values():
                flush(temporary)
        for path, temporary in list(fresh.items()):
            os.replace(temporary, path)
            fresh[path] = ""
        for path in removed:
            path.unlink()
    finally:
        for temporary in filter(None, fresh.values()):
            Path(temporary).unlink()
    return sorted(str(path.relative_to(top)) for path in (*fresh, *removed))


def _prepare(path: Path, file: OutFile) -> str | None:
    """The new file beside the old one; None when there is nothing to change."""
    control = file.control
    there = path.stat() if path.exists() else None
    mode = control.mode or (S_IMODE(there.st_mode) if there else FRESH_MODE)
    owner = control.owner if control.owner is not None else there.st_uid if there else -1
    group = control.group if control.group is not None else there.st_gid if there else -1
    wanted = (mode, owner, group)
    known = None if there is None else (S_IMODE(there.st_mode), there.st_uid, there.st_gid)
    if known == wanted and not path.is_symlink() and path.read_bytes() == file.body:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as fresh:
            fresh.write(file.body)
            os.fchown(fresh.fileno(), owner, group)
            os.fchmod(fresh.fileno(), mode)
    except BaseException:
        Path(temporary).unlink()
        raise
    return temporary


def _begin_flush(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)  # begins to write what is not written (mm/fadvise.c)
    finally:
        os.close(handle)


def _flush(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
