"""The lock's text both ways, apt's preferences made of it, and the pool that keeps what was fetched."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from provisioner.errors import ImageError
from provisioner.images.lock import describe_drift, parse_lock, read_lock, render_lock, render_preferences
from provisioner.images.pool import bootstrap_options, locked_packages, settle_pool, trim_pool


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    lock = {"openssl": "3.0.17-1~deb12u3", "base-files": "12.4+deb12u12"}
    assert parse_lock("images.lock", render_lock(lock)) == lock
    assert read_lock(tmp_path / "images.lock") == {}


@pytest.mark.parametrize(("text", "what"), [("a 1\na 2\n", "stands twice"), ("# x\na\n", "not a package")])
def test_a_wrong_line_is_named(text: str, what: str) -> None:
    with pytest.raises(ImageError, match=what) as caught:
        parse_lock("images.lock", text)
    assert caught.value.where == "images.lock:2"


def test_preferences_pin_each_package_above_what_is_newer() -> None:
    text = render_preferences({"b": "2", "a": "1:1-1"})
    assert text.split("\n\n") == [
        "Package: a\nPin: version 1:1-1\nPin-Priority: 1001",
        "Package: b\nPin: version 2\nPin-Priority: 1001\n",
    ]


def test_drift_names_a_few_and_counts_the_rest() -> None:
    assert describe_drift({}, {"a": "1"}) is None
    assert describe_drift({"a": "1", "b": "1"}, {"a": "1"}) is None
    said = describe_drift({"a": "1"}, {"a": "2", "b": "1", "c": "1", "d": "1"})
    assert said == "a 1 → 2, b (not locked) → 1, c (not locked) → 1 and 1 more"


def test_the_bootstraps_hooks_give_the_pool_and_keep_what_came(tmp_path: Path) -> None:
    pool, root = tmp_path / "the pool", tmp_path / "root"
    pool.mkdir()
    (pool / "a_1_amd64.deb").write_text("a")
    _, give, keep = (option.partition("=")[2] for option in bootstrap_options(pool))
    subprocess.run(["sh", "-c", give, "sh", root], check=True)
    archives = root / "var/cache/apt/archives"
    assert (archives / "a_1_amd64.deb").read_text() == "a"
    (archives / "b_1_all.deb").write_text("b")
    (archives / "partial").mkdir()
    subprocess.run(["sh", "-c", keep, "sh", root], check=True)
    assert sorted(path.name for path in pool.iterdir()) == ["a_1_amd64.deb", "b_1_all.deb"]

    settle_pool(pool)
    (archives / "a_1_amd64.deb").write_text("a")
    subprocess.run(["sh", "-c", keep, "sh", root], check=True)
    assert [path.name for path in pool.glob("*.deb")] == [], "what is filed is not kept again"


def test_a_package_is_filed_under_its_content_and_goes_when_it_changed(tmp_path: Path) -> None:
    for name in ("a_1_amd64.deb", "b_1_amd64.deb"):
        (tmp_path / name).write_text(name)
    assert settle_pool(tmp_path) == [] and not list(tmp_path.glob("*.deb"))
    a, b = (path for name in "ab" for path in tmp_path.glob(f"*/{name}_1_amd64.deb"))
    assert a.parent.name == hashlib.sha256(b"a_1_amd64.deb").hexdigest()
    b.write_text("b_1_amd64,deb")
    assert settle_pool(tmp_path) == ["b_1_amd64.deb"] and a.is_file() and not b.exists()
    assert locked_packages(tmp_path, {"a": "1"}) == [a] and locked_packages(tmp_path, {"a": "2"}) == []


def test_the_pool_keeps_the_newest_and_what_is_locked(tmp_path: Path) -> None:
    for age, version in enumerate(["1%3a1.0", "1%3a2.0", "1%3a3.0", "1%3a4.0"]):
        path = tmp_path / f"a_{version}_amd64.deb"
        path.write_text("xyz")
        os.utime(path, (age, age))
    assert trim_pool(tmp_path, {"a": "1:1.0"}) == 3
    assert sorted(path.name[6:9] for path in tmp_path.iterdir()) == ["1.0", "3.0", "4.0"]
