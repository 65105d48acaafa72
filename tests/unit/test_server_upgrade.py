"""Records of an older version: tried on a copy, brought over, and back again."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from conductor_rack import Rack
from records import SERVER, records_url
from sqlalchemy import create_engine, inspect, text
from test_store_records import NOW, Rot, enroll

from provisioner.errors import Conflict, HostError, NotFound
from provisioner.events import Event
from provisioner.server.listener import ServiceLock
from provisioner.server.upgrade import go_back, try_upgrade, upgrade
from provisioner.store.database import Database
from provisioner.store.migrate import copy_of, copy_out, find_copies, put_back, run_migrations
from provisioner.store.store import Store
from provisioner.system.settings import Settings
from provisioner.trust.keys import SiteKeys


@pytest.fixture
def old(tmp_path: Path) -> Settings:
    """Records as an older version left them."""
    url = records_url(tmp_path) if SERVER else ""
    settings = Settings(state_dir=tmp_path / "state", run_dir=tmp_path / "run", database_url=url)
    SiteKeys.ensure(settings.keys)
    database = Database(settings.database)
    run_migrations(database, "0005")
    database.close()
    return settings


def columns(settings: Settings) -> set[str]:
    engine = create_engine(settings.database)
    found = {column["name"] for column in inspect(engine).get_columns("nodes")}
    engine.dispose()
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


def test_after_the_way_back_an_instance_is_offered_more_than_it_has(old: Settings) -> None:
    """What was changed since the upgrade is not on record any more, but instances have it."""
    keys = SiteKeys.ensure(old.keys)
    store = Store(old.database, keys, old.records)
    find_copies(old.records)[0].unlink()
    enroll(store)
    store.tokens.replace("0011.one", "instance", "node1", "d1", None)
    store.clouds.new_generation("node1", "d1", lambda number: {"generation": number, "word": "old"}, NOW)
    database = Database(old.database)
    copy_out(database, copy_of(old.records, "0013"))
    database.close()
    for word in ("new", "newer"):
        known = store.clouds.new_generation(
            "node1", "d1", partial(lambda w, n: {"generation": n, "word": w}, word), NOW
        )
    store.close()
    go_back(old)
    store = Store(old.database, keys, old.records)
    told = store.clouds.told(["0011"])["0011"]
    own = json.loads(store.clouds.open_own(told))
    assert known == 3 and told.generation == own["generation"] > known and own["word"] == "old"
    assert find_copies(old.records) == []
    store.close()


def test_the_service_brings_them_over_by_itself_and_keeps_what_was(old: Settings) -> None:
    Store(old.database, SiteKeys.ensure(old.keys), old.records).close()
    assert "maintenance" in columns(old) and len(find_copies(old.records)) == 1


def test_nothing_is_exchanged_under_a_service_that_runs(old: Settings) -> None:
    lock = ServiceLock(old.run_dir)
    for call in (upgrade, go_back):
        with pytest.raises(Conflict, match="runs already"):
            call(old)
    lock.release()


def test_records_of_a_newer_version_are_left_alone_and_the_older_program_goes_back(old: Settings) -> None:
    upgrade(old)
    engine = create_engine(old.database)
    with engine.begin() as records:
        records.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(HostError, match="newer version") as caught:
        upgrade(old)
    assert "--back" in str(caught.value.hint)
    _, aside = go_back(old)
    assert aside.name.endswith("9999-left") and "maintenance" not in columns(old)


def test_without_records_there_is_nothing_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        try_upgrade(Settings(state_dir=tmp_path, run_dir=tmp_path / "run"))


def test_secrets_of_an_older_version_are_kept_when_they_need_no_cloud_any_more(tmp_path: Path) -> None:
    url, sealed = records_url(tmp_path), Rot().encrypt("s3cret")
    database = Database(url)
    run_migrations(database, "0011")
    with database.write() as tx:
        tx.execute(text("INSERT INTO clouds (name, desired, updated) VALUES ('lab', '{}', 0)"))
        row = {"sealed": sealed}
        tx.execute(text("INSERT INTO secrets (cloud, name, value_sealed) VALUES ('lab', 'word', :sealed)"), row)
    database.close()
    store = Store(url, Rot())
    assert store.clouds.secret("lab", "word") == "s3cret"
    store.clouds.put_secret("other", "word", "open")
    assert store.clouds.secret("other", "word") == "open"
    store.close()


def test_what_is_on_record_goes_there_and_back(tmp_path: Path) -> None:
    """Every row, also those of nothing; on PostgreSQL by way of a file."""
    rack = Rack(tmp_path, 2)
    rack.enroll()
    rack.apply()
    rack.play()
    before = [node.model_dump() for node in rack.store.nodes.all()], rack.store.events.since(0, 10_000)
    rack.store.close()
    database = Database(records_url(tmp_path, "rack"))
    copy = tmp_path / "copy.db"
    copy_out(database, copy)
    if database.shared:
        put_back(database, copy)
    database.close()
    for url in (f"sqlite:///{copy}", records_url(tmp_path, "rack")):
        store = Store(url, Rot())
        assert ([node.model_dump() for node in store.nodes.all()], store.events.since(0, 10_000)) == before
        assert store.nodes.at_work("x", 0.0, 0.0) == []
        store.events.add(Event("a.test", "after"), 1.0)
        assert store.events.since(before[1][-1].id, 10)[0].id == before[1][-1].id + 1
        store.close()
