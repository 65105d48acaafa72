"""Records of an older version: tried on a copy, brought over, and back again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from provisioner.errors import Conflict, HostError, NotFound
from provisioner.server.listener import ServiceLock
from provisioner.server.upgrade import go_back, try_upgrade, upgrade
from provisioner.store.database import Database
from provisioner.store.migrate import find_copies, run_migrations
from provisioner.store.store import Store
from provisioner.system.settings import Settings
from provisioner.trust.keys import SiteKeys


@pytest.fixture
def old(tmp_path: Path) -> Settings:
    """Records as an older version left them."""
    settings = Settings(state_dir=tmp_path / "state", run_dir=tmp_path / "run")
    SiteKeys.ensure(settings.keys)
    database = Database(settings.database)
    run_migrations(database, "0005")
    database.close()
    return settings


def columns(settings: Settings) -> set[str]:
    with sqlite3.connect(settings.records) as records:
        found = {row[1] for row in records.execute("PRAGMA table_info(nodes)")}
    records.close()
    return found


def test_a_trial_says_what_would_be_done_and_does_nothing(old: Settings) -> None:
    lock = ServiceLock(old.run_dir)
    trial = try_upgrade(old)
    lock.release()
    assert trial.schema == "0005" and trial.pending[0].version == "0006"
    assert trial.pending[0].about == "Why a node is left alone, and since when."
    assert "maintenance" not in columns(old) and find_copies(old.records) == []
    assert sorted(path.name for path in old.state_dir.iterdir() if path.name.startswith(".")) == []


def test_there_and_back(old: Settings) -> None:
    newest = upgrade(old).pending[-1].version
    assert "maintenance" in columns(old)
    assert upgrade(old).pending == ()
    (kept,) = find_copies(old.records)
    assert kept.name == "provisioner.db.schema-0005"
    copy, aside = go_back(old)
    assert copy == kept and aside.name == f"provisioner.db.schema-{newest}-left" and aside.is_file()
    assert "maintenance" not in columns(old) and find_copies(old.records) == []
    with pytest.raises(NotFound, match="before an upgrade"):
        go_back(old)


def test_the_service_brings_them_over_by_itself_and_keeps_what_was(old: Settings) -> None:
    Store(old.database, SiteKeys.ensure(old.keys)).close()
    assert "maintenance" in columns(old) and len(find_copies(old.records)) == 1


def test_nothing_is_exchanged_under_a_service_that_runs(old: Settings) -> None:
    lock = ServiceLock(old.run_dir)
    for call in (upgrade, go_back):
        with pytest.raises(Conflict, match="runs already"):
            call(old)
    lock.release()


def test_records_of_a_newer_version_are_left_alone_and_the_older_program_goes_back(old: Settings) -> None:
    upgrade(old)
    with sqlite3.connect(old.records) as records:
        records.execute("UPDATE alembic_version SET version_num = '9999'")
    records.close()
    with pytest.raises(HostError, match="newer version") as caught:
        upgrade(old)
    assert "--back" in str(caught.value.hint)
    _, aside = go_back(old)
    assert aside.name.endswith("9999-left") and "maintenance" not in columns(old)


def test_without_records_there_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        try_upgrade(Settings(state_dir=tmp_path, run_dir=tmp_path / "run"))
