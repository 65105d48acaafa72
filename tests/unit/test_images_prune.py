"""What goes and what stays: never the newest, never what a deployment is made from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provisioner.images.catalogue import Catalogue
from provisioner.images.prune import DAY, plan_prune, prune
from provisioner.images.workshop import Workshop
from provisioner.model.image import Image
from provisioner.trust.keys import SiteKeys

NOW = 2_000_000_000.0


class Site:
    def __init__(self, folder: Path) -> None:
        self.catalogue = Catalogue(folder / "images", SiteKeys.ensure(folder / "keys"))
        self.workshop = Workshop(folder, folder, (), folder / "build", folder / "pool", None)

    def publish(self, name: str, digit: str, age: float) -> str:
        with self.catalogue.workplace() as out:
            (out / "root.zst").write_text("data")
            image = Image(id=f"{name}-{digit * 12}", name=name, files={}, sizes={})
            self.catalogue.publish(image, out, {})
        os.utime(self.catalogue.folder / image.id / "manifest.json", (NOW - age, NOW - age))
        return image.id

    def prune(self, needed: set[str] | None = None, keep: int = 1) -> set[str]:
        found = plan_prune(self.catalogue, self.workshop, needed or set(), keep=keep, days=30, now=NOW)
        assert prune(self.catalogue, found) == sum(removal.bytes for removal in found)
        return {removal.path.name for removal in found}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_newest_the_needed_and_as_many_as_are_to_be_kept_stay(site: Site) -> None:
    needed, oldest, older, newest = (site.publish("galera", digit, 4 - int(digit)) for digit in "1234")
    other = site.publish("base", "5", 9)
    assert site.prune({needed}) == {oldest}
    assert {image.id for image in site.catalogue.images()} == {needed, older, newest, other}
    assert site.prune({needed}, keep=0) == {older}
    assert site.prune(set(), keep=0) == {needed}
    assert site.prune(set(), keep=0) == set()


def test_an_image_that_does_not_hold_goes_unless_it_is_the_newest(site: Site) -> None:
    damaged, newest = site.publish("galera", "1", 2), site.publish("galera", "2", 1)
    for name in (damaged, newest):
        (site.catalogue.folder / name / "manifest.sig").write_bytes(b"")
    assert site.prune() == {damaged}


def test_layers_go_by_their_last_use(site: Site) -> None:
    for folder in ("layers", "trees"):
        (site.workshop.state / folder).mkdir(parents=True)
        for name, days in (("old", 31), ("used", 29)):
            path = site.workshop.state / folder / f"{folder}-{name}.tar.zst"
            path.write_text("data")
            os.utime(path, (NOW - days * DAY,) * 2)
    assert site.prune() == {"layers-old.tar.zst", "trees-old.tar.zst"}


def test_what_killed_programs_left_goes(site: Site) -> None:
    site.publish("galera", "1", 0)
    for name, days in ((".building.old", 2), (".building.now", 0)):
        (site.catalogue.folder / name).mkdir()
        os.utime(site.catalogue.folder / name, (NOW - days * DAY,) * 2)
    assert site.prune() == {".building.old"}
