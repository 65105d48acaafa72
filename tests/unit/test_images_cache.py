"""A build's cache as a folder: what was used goes in, what is whole comes out, nothing else stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.events import RecordingObserver
from provisioner.images.cache import load_cache, save_cache
from provisioner.images.workshop import Workshop

LAYER = "layers/0123456789abcdef.tar.zst"


def workshop(folder: Path) -> Workshop:
    return Workshop(folder, folder, (), folder / "state", folder / "state" / "pool", None)


def filled(folder: Path) -> Workshop:
    shop = workshop(folder)
    for name in (LAYER, "pool/bash_5_amd64.deb", "records/layers/debian.json"):
        (shop.state / name).parent.mkdir(parents=True, exist_ok=True)
        (shop.state / name).write_text(name)
    return shop


def used(shop: Workshop) -> list[Path]:
    return [path for path in shop.state.rglob("*") if path.is_file()]


def test_another_machine_has_what_was_used_here(tmp_path: Path) -> None:
    here, there, observer = filled(tmp_path / "here"), workshop(tmp_path / "there"), RecordingObserver()
    assert save_cache(tmp_path / "cache", here, used(here)) > 0
    assert load_cache(tmp_path / "cache", there, observer) == 3
    assert (there.state / LAYER).read_text() == LAYER
    assert load_cache(tmp_path / "cache", there, observer) == 0 and observer.events == []


def test_a_cache_does_not_grow(tmp_path: Path) -> None:
    shop = filled(tmp_path)
    save_cache(tmp_path / "cache", shop, used(shop))
    (tmp_path / "cache" / "stray").write_text("x")
    save_cache(tmp_path / "cache", shop, [shop.state / LAYER, shop.state / "trees/gone.tar.zst"])
    left = {str(path.relative_to(tmp_path / "cache")) for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert left == {LAYER, "cache.json"}


@pytest.mark.parametrize("text", ["", "half a lay"])
def test_a_file_that_is_not_whole_is_not_used(tmp_path: Path, text: str) -> None:
    here, there, observer = filled(tmp_path / "here"), workshop(tmp_path / "there"), RecordingObserver()
    save_cache(tmp_path / "cache", here, used(here))
    (tmp_path / "cache" / LAYER).unlink()
    (tmp_path / "cache" / LAYER).write_text(text)
    assert load_cache(tmp_path / "cache", there, observer) == 2
    assert not (there.state / LAYER).exists() and LAYER in observer.events[0].message


@pytest.mark.parametrize("index", ["{", '{"../../outside": "0"}'])
def test_an_index_that_cannot_be_is_not_followed(tmp_path: Path, index: str) -> None:
    shop = workshop(tmp_path / "there")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cache.json").write_text(index)
    assert load_cache(tmp_path / "cache", shop, RecordingObserver()) == 0
    assert not (tmp_path / "outside").exists()


def test_no_cache_is_an_empty_one(tmp_path: Path) -> None:
    assert load_cache(tmp_path / "none", workshop(tmp_path), RecordingObserver()) == 0
