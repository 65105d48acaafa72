"""Images between two sites: what was signed comes over whole, everything else is refused and leaves nothing."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.errors import ImageError, TrustError
from provisioner.images.catalogue import Catalogue
from provisioner.images.exchange import export_image, import_image, is_archive, trust_key, trusted_keys
from provisioner.images.provenance import build_statement, key_id
from provisioner.model.image import Image
from provisioner.system.files import hash_file
from provisioner.trust.keys import SiteKeys


class Site:
    def __init__(self, folder: Path) -> None:
        self.keys = SiteKeys.ensure(folder / "keys")
        self.catalogue = Catalogue(folder / "images", self.keys)


@pytest.fixture
def here(tmp_path: Path) -> Site:
    return Site(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Site:
    return Site(tmp_path / "there")


@pytest.fixture
def archive(there: Site, tmp_path: Path) -> Path:
    with there.catalogue.workplace() as out:
        (out / "root.zst").write_bytes(b"chunks" * 1000)
        files = {"root.zst": hash_file(out / "root.zst")}
        image = Image(id="galera-111111111111", name="galera", files=files, sizes={"root.zst": 6000}, test="passed")
        there.catalogue.publish(image, out, build_statement(image, (), (), 0, 1, {"user": "u", "host": "h"}))
    export_image(there.catalogue, image, there.keys, tmp_path / "galera.tar")
    return tmp_path / "galera.tar"


def test_an_image_of_a_trusted_site_is_this_sites_image_afterwards(here: Site, there: Site, archive: Path) -> None:
    assert is_archive(archive)
    known = frozenset({key_id(there.keys.public_key_pem)})
    image = import_image(here.catalogue, archive, here.keys, known)
    assert here.catalogue.newest("galera") == image and image.test == "passed"
    assert here.catalogue.path(image.id, "root.zst").read_bytes() == b"chunks" * 1000
    said = here.catalogue.provenance(image.id)
    assert said["predicate"]["annotations"]["importedFrom"] == key_id(there.keys.public_key_pem)


def test_an_image_comes_back_to_its_own_site(there: Site, archive: Path) -> None:
    assert import_image(there.catalogue, archive, there.keys, ()) == there.catalogue.newest("galera")


def test_a_site_that_is_not_trusted_is_refused_until_it_is(
    here: Site, there: Site, archive: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrustError) as caught:
        import_image(here.catalogue, archive, here.keys, trusted_keys(tmp_path / "trusted"))
    ident = key_id(there.keys.public_key_pem)
    assert ident in str(caught.value.cause) and "--trust" in str(caught.value.hint)
    assert here.catalogue.images() == []
    trust_key(tmp_path / "trusted", ident)
    assert import_image(here.catalogue, archive, here.keys, trusted_keys(tmp_path / "trusted"))


def rewrite(path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> None:
    """Write an archive anew, each entry as ``change`` has it."""
    with tarfile.open(path) as tar:
        entries = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for name, data in entries:
            if (changed := change(name, data)) is not None:
                entry = tarfile.TarInfo(changed[0])
                entry.size = len(changed[1])
                tar.addfile(entry, io.BytesIO(changed[1]))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


TAMPERED: dict[str, Callable[[Path], None]] = {
    "cut off": cut,
    "chunks changed": lambda path: rewrite(path, lambda n, d: (n, d[:-1] + b"!" if n.endswith("root.zst") else d)),
    "chunks longer": lambda path: rewrite(path, lambda n, d: (n, d + b"!" if n.endswith("root.zst") else d)),
    "chunks gone": lambda path: rewrite(path, lambda n, d: None if n.endswith("root.zst") else (n, d)),
    "manifest changed": lambda path: rewrite(
        path, lambda n, d: (n, d.replace(b"passed", b"passd!") if n.endswith("manifest.json") else d)
    ),
    "statement changed": lambda path: rewrite(
        path, lambda n, d: (n, d.replace(b'"payload": "e', b'"payload": "f') if n.endswith("dsse.json") else d)
    ),
    "another folder": lambda path: rewrite(path, lambda n, d: (n.replace("galera-1", "galera-2"), d)),
    "a path out of it": lambda path: rewrite(path, lambda n, d: (n.replace("galera-111111111111", "../x"), d)),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_changed_on_the_way_is_refused_and_leaves_nothing(
    here: Site, there: Site, archive: Path, name: str
) -> None:
    TAMPERED[name](archive)
    with pytest.raises((ImageError, TrustError)) as caught:
        import_image(here.catalogue, archive, here.keys, {key_id(there.keys.public_key_pem)})
    assert caught.value.summary
    assert here.catalogue.images() == [] and not list(here.catalogue.folder.glob("[!.]*"))
    assert not list(here.catalogue.folder.glob(".*"))


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\0" * 4096)
    assert not is_archive(tmp_path / "file") and not is_archive(tmp_path / "none")
