"""The image of a role on a whole disk: the disk as it was imported, with templates and phase scripts beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_images_build import Site

from provisioner.errors import ImageError, NotFound
from provisioner.images.build import Built
from provisioner.images.catalogue import Catalogue
from provisioner.images.foreign import import_foreign, inspect
from provisioner.images.workshop import BuildSpec
from provisioner.model.role import ImageSpec, Role
from provisioner.system.run import HostRunner

SPEC = BuildSpec("web", ImageSpec(disk="noble", elements=("web",), templates=("web",)))


def bring(catalogue: Catalogue, folder: Path, label: str = "gpt") -> str:
    """Import a whole disk; its id."""
    disk, work = folder / "disk.raw", folder / "work"
    work.mkdir(exist_ok=True)
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    HostRunner().run(["sfdisk", "-q", disk], stdin=f"label: {label}\nsize=4M\n")
    return import_foreign(catalogue, inspect(disk, 1 << 30), "noble", reserved=(), work=work, runner=HostRunner()).id


@pytest.fixture
def site(tmp_path: Path) -> Site:
    found = Site(tmp_path)
    found.write("elements/web/values.yaml", "properties: {web: {properties: {port: {type: integer}}}}\n")
    found.write("elements/web/os-refresh-config/configure.d/50-web", "#!/bin/sh\n")
    found.write("templates/web/etc/web.conf", "port {{web.port}}\n")
    found.write("templates/web/etc/web.conf.control", '{"mode": "0600"}')
    return found


def build(site: Site, spec: BuildSpec = SPEC, force: bool = False) -> Built:
    built = site.build(spec=spec, force=force)
    assert site.runner.calls == [], "no program runs"
    return built


def test_the_disk_is_the_one_that_was_imported_and_the_rest_is_signed_with_it(site: Site, tmp_path: Path) -> None:
    disk = site.catalogue.get(bring(site.catalogue, tmp_path))
    image = build(site).image
    assert site.catalogue.newest("web") == image and image.id.startswith("web-")
    assert (image.kind, image.table, image.sector) == ("disk", disk.table, disk.sector)
    chunks = [site.catalogue.path(one.id, "root.zst") for one in (disk, image)]
    assert chunks[0].samefile(chunks[1]), "it takes no room"
    assert site.catalogue.templates(image.id) == {
        "etc/web.conf": "port {{web.port}}\n",
        "etc/web.conf.control": '{"mode": "0600"}',
    }
    assert site.catalogue.phases(image.id) == {"configure.d/50-web": "#!/bin/sh\n"}
    assert site.catalogue.templates(disk.id) == {} and site.catalogue.phases(disk.id) == {}
    site.catalogue.path(image.id, "phases.json").write_text("{}")
    with pytest.raises(ImageError, match="not what was signed"):
        site.catalogue.phases(image.id)


def test_it_is_made_again_when_what_goes_into_it_has_changed(site: Site, tmp_path: Path) -> None:
    bring(site.catalogue, tmp_path)
    first = build(site)
    assert first.reason == "because it was never built here"
    again = build(site)
    assert not again.rebuilt and again.image == first.image
    site.write("elements/web/values.yaml", "properties: {web: {properties: {port: {type: string}}}}\n")
    assert not build(site).rebuilt, "what values there are is in no image"
    for change, why in {
        "templates/web/etc/web.conf": "because templates/web/etc/web.conf changed",
        "elements/web/os-refresh-config/configure.d/50-web": "because elements/web/os-refresh",
    }.items():
        site.write(change, "changed\n")
        built = build(site)
        assert built.reason.startswith(why) and built.image.id != first.image.id
    bring(site.catalogue, tmp_path, "dos")
    assert build(site).reason == "because disk changed"
    assert build(site, force=True).reason == "because it was asked for"


def test_a_disk_that_was_not_imported_is_named_with_the_command(site: Site) -> None:
    with pytest.raises(NotFound, match="no whole disk noble") as caught:
        build(site)
    assert caught.value.hint == "provisioner image import FILE --name noble"


@pytest.mark.parametrize(
    ("path", "text", "cause"),
    [
        ("elements/web/install.d/50-web", "#!/bin/sh\n", "it has install.d"),
        ("elements/web/package-installs.yaml", "nginx:\n", "it has package-installs.yaml"),
        ("elements/web/element-deps", "pip-and-virtualenv\n", "it needs pip-and-virtualenv"),
        ("elements/web/element-deps", "galera\n", "it has"),
    ],
)
def test_an_element_that_installs_something_is_refused(
    site: Site, tmp_path: Path, path: str, text: str, cause: str
) -> None:
    bring(site.catalogue, tmp_path)
    site.write(path, text)
    with pytest.raises(ImageError, match="is for images that are built") as caught:
        build(site)
    assert str(caught.value.cause).startswith(cause) and "cloud_config" in str(caught.value.hint)
    with pytest.raises(ImageError, match="is for images that are built") as caught:
        build(site, BuildSpec("web", ImageSpec(disk="noble", elements=("dpkg",))))
    assert "diskimage-builder's" in str(caught.value.cause)


def test_a_disk_that_was_damaged_since_is_not_signed_anew(site: Site, tmp_path: Path) -> None:
    ident = bring(site.catalogue, tmp_path)
    (site.catalogue.folder / ident / "root.zst").write_bytes(b"another")
    with pytest.raises(ImageError, match="not what was imported"):
        build(site)
    assert site.catalogue.newest("web") is None


def test_a_disk_of_which_a_file_is_gone_is_told(site: Site, tmp_path: Path) -> None:
    ident = bring(site.catalogue, tmp_path)
    (site.catalogue.folder / ident / "root.zst").unlink()
    with pytest.raises(ImageError, match="could not be put together") as caught:
        build(site)
    assert caught.value.cause == "No such file or directory"


def test_a_script_that_is_no_text_is_refused(site: Site, tmp_path: Path) -> None:
    bring(site.catalogue, tmp_path)
    (site.source / "elements/web/os-refresh-config/configure.d/60-program").write_bytes(b"\x7fELF\xff")
    with pytest.raises(ImageError, match="no UTF-8 text"):
        build(site)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (ImageSpec(elements=("base",)), "web"),
        (ImageSpec(disk="noble"), "noble"),
        (ImageSpec(disk="noble", templates=("web",)), "web"),
        (ImageSpec(disk="noble", elements=("web",)), "web"),
    ],
)
def test_a_role_has_an_image_of_its_own_when_it_brings_something(image: ImageSpec, name: str) -> None:
    assert Role(role="web", image=image, networks=("rack",)).image_name == name
