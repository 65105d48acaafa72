"""Records and keys of a site in one file, and back: what a seed is when its disk is gone.

A tar archive compressed by zstd: ``backup.json``, ``provisioner.db`` and ``keys/``; the records are a SQLite file also
when they are kept in PostgreSQL, so that a site can move from one to the other. Images are not in it; they are
built or imported again, or come from ``image export``. Whoever has the file has the site, so it is of mode 0600.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from provisioner import __version__
from provisioner.errors import Conflict, NotFound, UsageError
from provisioner.events import Event
from provisioner.server.listener import ServiceLock
from provisioner.store.restore import copy_records
from provisioner.store.store import Store
from provisioner.system.clock import Clock
from provisioner.system.settings import Settings
from provisioner.trust.keys import SiteKeys

ABOUT, RECORDS, KEYS = "backup.json", "provisioner.db", "keys"
FORMAT = 1


@dataclass(frozen=True)
class About:
    """What a backup says of itself. ``made``: seconds since the epoch; ``nodes``: how many were on record."""

    version: str
    made: float
    nodes: int


def write_backup(settings: Settings, target: Path, clock: Clock) -> About:
    """Write it whole or not at all; the service may run.

    :raises Conflict: there is such a file. :raises HostError: the records cannot be read. :raises NotFound: there are
        none.
    """
    if target.exists():
        raise Conflict("there is such a file", where=str(target), hint="give it another name")
    if not settings.database_url and not settings.records.is_file():
        raise NotFound("there are no records", where=str(settings.records), hint="provisioner serve makes them")
    with tempfile.TemporaryDirectory(dir=target.resolve().parent, prefix=".backup-") as name:
        folder = Path(name)
        keys = SiteKeys.ensure(settings.keys)
        if not settings.database_url:
            copy_records(settings.records, folder / RECORDS)
        store = Store(f"sqlite:///{folder / RECORDS}", keys)
        if settings.database_url:
            shared = Store(settings.database, keys)
            shared.copy_to(store)
            shared.close()
        about = About(__version__, clock.now(), len(store.nodes.all()))
        store.close()
        fresh = folder / "archive"
        with fresh.open("wb") as file:
            fresh.chmod(0o600)
            packed = zstandard.ZstdCompressor().stream_writer(file)
            with packed, tarfile.open(mode="w|", fileobj=packed) as tar:
                _add(tar, ABOUT, json.dumps({"format": FORMAT, **about.__dict__}).encode())
                tar.add(folder / RECORDS, RECORDS)
                tar.add(settings.keys, KEYS)
        fresh.rename(target)
    return about


def read_about(source: Path) -> About:
    """:raises UsageError: it is no backup, or one of a newer version."""
    with _opened(source) as tar:
        return _about(tar)


def restore_backup(settings: Settings, source: Path, clock: Clock) -> tuple[About, int]:
    """Put records and keys where there are none, and make them fit to be used.

    :returns: what the backup says of itself; how many nodes were at work and have failed now.
    :raises Conflict: the service runs, or records are there. :raises UsageError: it is no backup.
    """
    lock = ServiceLock(settings.run_dir)
    try:
        for path in (settings.records, settings.keys):
            if path.exists():
                raise Conflict(
                    "records or keys are there, and are not overwritten",
                    where=str(path),
                    hint=f"move {settings.state_dir} aside, or restore to another state_dir",
                )
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=settings.state_dir, prefix=".restore-") as name:
            folder = Path(name)
            about = unpack_backup(source, folder)
            store = Store(f"sqlite:///{folder / RECORDS}", SiteKeys.ensure(folder / KEYS))
            failed = store.make_fresh()
            restored = Event("site.restored", f"restored from {source.name}", data={"made": about.made})
            store.events.add(restored, clock.now())
            if settings.database_url:
                shared = Store(settings.database, SiteKeys.ensure(folder / KEYS))
                store.copy_to(shared)
                shared.close()
            store.close()
            if not settings.database_url:
                copy_records(folder / RECORDS, folder / "whole.db")
            (folder / KEYS).rename(settings.keys)
            if not settings.database_url:
                (folder / "whole.db").rename(settings.records)
    finally:
        lock.release()
    return about, failed


def unpack_backup(source: Path, folder: Path) -> About:
    """Records and keys as they were, below ``folder``; they are not fit to be in force yet.

    :raises UsageError: it is no backup.
    """
    with _opened(source) as tar:
        about = _about(tar)
        for member in tar:
            if member.name != ABOUT:
                _extract(tar, member, folder)
    return about


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Records and keys, and nothing else. :raises ValueError: it is something else, or leads out of the folder."""
    parts = Path(member.name).parts
    known = parts == (RECORDS,) or (parts[:1] == (KEYS,) and ".." not in parts)
    if member.isdir() and known:
        (folder / member.name).mkdir(mode=0o700)
        return
    file = tar.extractfile(member) if member.isfile() and known else None
    if file is None:
        raise ValueError(f"{member.name!r} is in it")
    target = folder / member.name
    target.touch(mode=0o600)
    with target.open("wb") as copy:
        shutil.copyfileobj(file, copy)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o600
    tar.addfile(info, io.BytesIO(data))


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    """:raises UsageError: it is not there, or is no backup, or is damaged; whenever that is noticed."""
    try:
        with (
            source.open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as packed,
            tarfile.open(fileobj=packed, mode="r|") as tar,
        ):
            yield tar
    except FileNotFoundError as error:
        raise UsageError("there is no such file", where=str(source)) from error
    except (tarfile.TarError, zstandard.ZstdError, EOFError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            "this is no backup, or it is damaged",
            where=str(source),
            cause=str(error),
            hint="provisioner backup create FILE writes one",
        ) from error


def _about(tar: tarfile.TarFile) -> About:
    """The first member."""
    member = tar.next()
    file = tar.extractfile(member) if member is not None and member.name == ABOUT else None
    if file is None:
        raise ValueError(f"it does not begin with {ABOUT}")
    said: dict[str, Any] = json.loads(file.read(65_536))
    if said.pop("format") != FORMAT:
        raise ValueError("it was written by a newer version of this program")
    return About(**said)
