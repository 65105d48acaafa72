"""The commands over the catalogue: list, show, diff, export, import, prune; and errors that name the next command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from provisioner.cli.main import main
from provisioner.images.catalogue import CONTENTS, Catalogue
from provisioner.images.contents import write_contents
from provisioner.images.provenance import build_statement, builder
from provisioner.model.image import Image
from provisioner.system.files import hash_file
from provisioner.trust.keys import SiteKeys

FIRST, SECOND = "galera-111111111111", "galera-222222222222"


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.config = folder / "provisioner.conf"
        self.config.write_text(f"[DEFAULT]\nstate_dir = {folder / 'state'}\nrun_dir = {folder / 'run'}\n")
        self.catalogue = Catalogue(folder / "state/images", SiteKeys.ensure(folder / "state/keys"))

    def publish(self, ident: str, text: str, packages: dict[str, str]) -> None:
        tree = self.folder / ident
        (tree / "etc").mkdir(parents=True)
        (tree / "etc/my.cnf").write_text(text)
        with self.catalogue.workplace() as out:
            write_contents(tree, out / CONTENTS)
            files = {CONTENTS: hash_file(out / CONTENTS)}
            sizes = {CONTENTS: (out / CONTENTS).stat().st_size}
            image = Image(id=ident, name="galera", files=files, sizes=sizes, packages=packages, test="passed")
            self.catalogue.publish(image, out, build_statement(image, (), (), 0, 1, builder()))

    def call(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["--config", str(self.config), "image", *words])

    def json(self, *words: str) -> Any:
        done = self.call(*words, "-o", "json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path / "here")
    site.publish(FIRST, "old", {"galera-4": "26.3", "rsync": "3"})
    site.publish(SECOND, "new", {"galera-4": "26.4"})
    return site


def test_a_name_stands_for_its_newest_image(site: Site) -> None:
    assert [(image["id"], image["newest"]) for image in site.json("list")] == [(FIRST, False), (SECOND, True)]
    shown = site.json("show", "galera")
    assert (shown["id"], shown["test"], shown["kind"]) == (SECOND, "passed", "root")
    assert shown["provenance"]["metadata"]["finishedOn"] == "1970-01-01T00:00:01Z"
    assert "there is no such image" in site.call("show", "galerra").stderr


def test_diff_names_packages_and_files(site: Site) -> None:
    found = site.json("diff", FIRST, "galera")
    assert found["packages"] == [
        {"package": "galera-4", "from": "26.3", "to": "26.4"},
        {"package": "rsync", "from": "3", "to": None},
    ]
    assert found["files"] == [{"path": "/etc/my.cnf", "what": "content"}]
    assert "2 packages and 1 files differ" in site.call("diff", FIRST, SECOND).stdout
    assert site.call("diff", SECOND, "galera").stdout == "0 packages and 0 files differ\n"


def test_an_image_goes_to_another_site(site: Site, tmp_path: Path) -> None:
    there, file = Site(tmp_path / "there"), tmp_path / "galera.tar"
    key = site.json("export", "galera", str(file))["key"]
    refused = there.call("import", str(file))
    assert refused.exit_code == 1 and key in refused.stderr and "--trust" in refused.stderr
    assert there.json("import", str(file), "--trust", key) == {"id": SECOND, "kind": "root"}
    assert there.json("list")[0]["newest"]
    again = site.call("export", "galera", str(file))
    assert again.exit_code == 1 and "--force" in again.stderr
    assert site.call("export", "galera", str(file), "--force").exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "galera"], "an image and a file are needed"),
        (["export", "galera", "x.tar", "--bundle", "y.tar"], "an image and a file are needed"),
        (["export", "galera", "x.iso"], "the form of the file is not clear"),
        (["export", "galera", "x.raw"], "this image is no disk"),
        (["export", "--bundle", "x.tar"], "there is no image"),
        (["build", "--check", "--force"], "--check builds aside"),
        (["test", "mistyped"], "there is no such image"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    site: Site, words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("build", "exchange"):
        monkeypatch.setattr(f"provisioner.cli.{place}.contain", lambda: None, raising=False)
    before = sorted(tmp_path.iterdir())
    done = site.call(*words)
    assert done.exit_code != 0 and said in done.stderr and "next:" in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_disk_needs_a_name(site: Site, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(4096))
    done = site.call("import", str(tmp_path / "disk.raw"))
    assert done.exit_code == 64 and "--name" in done.stderr


def test_prune_says_what_goes_before_it_goes(site: Site) -> None:
    (found,) = site.json("prune", "--keep", "0", "--dry-run")
    assert (found["name"], found["removed"]) == (FIRST, False)
    assert len(site.json("list")) == 2
    assert site.json("prune", "--keep", "0")[0]["removed"]
    assert [image["id"] for image in site.json("list")] == [SECOND]


@pytest.mark.parametrize("word", ["etc/x=/etc/hostname", "/etc/x=/no/such/file", "/etc/x"])
def test_what_is_put_on_a_disk_is_a_file_that_is_there(site: Site, tmp_path: Path, word: str) -> None:
    done = site.call("export", "galera", str(tmp_path / "x.raw"), "--put", word)
    assert done.exit_code == 64 and "write /PATH=FILE" in done.stderr and not (tmp_path / "x.raw").exists()


def test_nothing_is_put_into_an_archive(site: Site, tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("hello")
    words = ("export", "galera", str(tmp_path / "x.tar"), "--put", f"/etc/motd={tmp_path / 'motd'}")
    done = site.call(*words)
    assert done.exit_code == 64 and "a whole disk" in done.stderr and not (tmp_path / "x.tar").exists()
