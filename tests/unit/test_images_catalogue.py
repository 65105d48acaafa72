"""The catalogue: published whole, found by name, refused when anything about it was changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner.errors import Conflict, ImageError, NotFound, TrustError
from provisioner.images.catalogue import Catalogue
from provisioner.images.provenance import FILE as PROVENANCE
from provisioner.images.provenance import unseal
from provisioner.model.image import Image, ImageIndex
from provisioner.system.files import hash_file, write_file
from provisioner.trust.keys import SiteKeys


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(tmp_path / "images", SiteKeys.ensure(tmp_path / "keys"))


def publish(catalogue: Catalogue, digits: str, text: str = "data") -> Image:
    built = catalogue.folder.parent / f"built-{digits}"
    built.mkdir()
    (built / "root.zst").write_text(text)
    (built / "index.json").write_text(ImageIndex(size=4096, chunks=()).model_dump_json())
    files = {path.name: hash_file(path) for path in built.iterdir()}
    image = Image(id=f"galera-{digits * 12}", name="galera", files=files, sizes=dict.fromkeys(files, 1))
    catalogue.publish(image, built, {"subject": image.id})
    return image


def test_the_newest_is_what_was_published_last_and_older_ones_stay(catalogue: Catalogue) -> None:
    assert catalogue.newest("galera") is None and catalogue.images() == []
    first, second = publish(catalogue, "1"), publish(catalogue, "2")
    assert catalogue.newest("galera") == second
    assert catalogue.images() == [first, second]
    assert catalogue.path(first.id, "root.zst").read_text() == "data"
    assert catalogue.index(first.id).size == 4096


def test_the_same_content_again_only_moves_the_pointer(catalogue: Catalogue) -> None:
    first = publish(catalogue, "1")
    publish(catalogue, "2")
    before = (catalogue.folder / first.id / "root.zst").stat().st_ino
    publish(catalogue, "1")
    assert catalogue.newest("galera") == first
    assert (catalogue.folder / first.id / "root.zst").stat().st_ino == before


def test_a_manifest_is_replaced_without_a_moment_in_which_it_does_not_hold(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = publish(catalogue, "1")
    read: list[str] = []

    def write_and_read(path: Path, data: str | bytes) -> None:
        write_file(path, data)
        read.append(catalogue.get(image.id).test)

    monkeypatch.setattr("provisioner.images.catalogue.write_file", write_and_read)
    catalogue.amend(image.model_copy(update={"test": "passed"}))
    assert read == ["", "passed", "passed"]


def test_the_newest_is_never_removed_and_others_go_at_once(catalogue: Catalogue) -> None:
    first, second = publish(catalogue, "1"), publish(catalogue, "2")
    with pytest.raises(Conflict):
        catalogue.remove(second.id)
    catalogue.remove(first.id)
    assert catalogue.images() == [second] and not list(catalogue.folder.glob(".*"))


def test_the_statement_of_another_site_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    image = publish(catalogue, "1")
    assert catalogue.provenance(image.id) == {"subject": image.id}
    with pytest.raises(TrustError):
        unseal((catalogue.folder / image.id / PROVENANCE).read_bytes(), SiteKeys.ensure(tmp_path / "others"))


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig"])
def test_a_changed_manifest_or_signature_is_refused(catalogue: Catalogue, name: str) -> None:
    image = publish(catalogue, "1")
    path = catalogue.folder / image.id / name
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(bytes(data))
    for look in (lambda: catalogue.get(image.id), lambda: catalogue.newest("galera"), catalogue.images):
        with pytest.raises(ImageError) as caught:
            look()
        assert image.id in str(caught.value.where) and "image build" in str(caught.value.hint)


def test_a_missing_signature_and_another_sites_are_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    image = publish(catalogue, "1")
    other = Catalogue(catalogue.folder, SiteKeys.ensure(tmp_path / "other"))
    with pytest.raises(ImageError):
        other.get(image.id)
    (catalogue.folder / image.id / "manifest.sig").unlink()
    with pytest.raises(ImageError):
        catalogue.get(image.id)


def test_a_changed_index_is_refused(catalogue: Catalogue) -> None:
    image = publish(catalogue, "1")
    (catalogue.folder / image.id / "index.json").write_text(ImageIndex(size=8192, chunks=()).model_dump_json())
    with pytest.raises(ImageError):
        catalogue.index(image.id)


def test_an_image_keeps_its_templates_and_older_ones_have_none(catalogue: Catalogue) -> None:
    assert catalogue.templates(publish(catalogue, "1").id) is None
    built = catalogue.folder.parent / "built"
    built.mkdir()
    (built / "templates.json").write_text('{"etc/a": "x"}')
    image = Image(id=f"galera-{'2' * 12}", name="galera", files={"templates.json": hash_file(built / "templates.json")},
                  sizes={"templates.json": 1})  # fmt: skip
    catalogue.publish(image, built, {"subject": image.id})
    assert catalogue.templates(image.id) == {"etc/a": "x"}
    (catalogue.folder / image.id / "templates.json").write_text('{"etc/a": "y"}')
    with pytest.raises(ImageError, match=r"templates\.json is not what was signed"):
        catalogue.templates(image.id)
    (catalogue.folder / image.id / "templates.json").unlink()
    with pytest.raises(ImageError, match=r"templates\.json cannot be read"):
        catalogue.templates(image.id)


@pytest.mark.parametrize("name", ["galera-0", "../keys", "galera-111111111111/../../keys", ""])
def test_names_that_are_no_images_are_not_found(catalogue: Catalogue, name: str) -> None:
    publish(catalogue, "1")
    with pytest.raises(NotFound):
        catalogue.get(name)


@pytest.mark.parametrize("name", ["manifest.sig", "../galera.newest", "kernel"])
def test_only_files_of_the_manifest_are_given_out(catalogue: Catalogue, name: str) -> None:
    image = publish(catalogue, "1")
    with pytest.raises(NotFound):
        catalogue.path(image.id, name)
