"""Files that somebody brings: taken by their content, refused when they refer to others or cannot be what they say."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.errors import ImageError
from provisioner.images.catalogue import Catalogue
from provisioner.images.foreign import Foreign, import_foreign, inspect, read_table
from provisioner.system.run import HostRunner
from provisioner.trust.keys import SiteKeys

MOST = 1 << 30
RUN = HostRunner().run


def filesystem(folder: Path) -> Path:
    path = folder / "disk.raw"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    RUN(["mke2fs", "-q", "-F", "-t", "ext4", path])
    return path


def table(folder: Path) -> Path:
    path = folder / "disk.raw"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    RUN(["sfdisk", "-q", path], stdin="label: gpt\nsize=4M\n")
    return path


def qcow2(path: Path) -> Path:
    target = path.with_suffix(".qcow2")
    RUN(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, target])
    return target


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(tmp_path / "images", SiteKeys.ensure(tmp_path / "keys"))


def take(catalogue: Catalogue, path: Path, name: str = "other") -> str:
    work = catalogue.folder.parent / "work"
    work.mkdir(exist_ok=True)
    image = import_foreign(catalogue, inspect(path, MOST), name, reserved={"galera"}, work=work, runner=HostRunner())
    assert catalogue.newest(name) == image and catalogue.index(image.id).size == 16 << 20
    return image.kind


@pytest.mark.parametrize("make", [filesystem, table])
@pytest.mark.parametrize("form", [lambda path: path, qcow2], ids=["raw", "qcow2"])
def test_raw_and_qcow2_are_taken(
    catalogue: Catalogue, tmp_path: Path, make: Callable[[Path], Path], form: Callable[[Path], Path]
) -> None:
    path = form(make(tmp_path))
    assert take(catalogue, path) == {filesystem: "root", table: "disk"}[make]


@pytest.mark.parametrize(
    ("label", "table", "sector"),
    [("label: gpt\nlabel-id: 0A000000-0000-4000-8000-00000000000B\n", "0a000000-0000-4000-8000-00000000000b", 512),
     ("label: dos\nlabel-id: 0x0badcafe\n", "0badcafe", 0)],
)  # fmt: skip
def test_a_whole_disk_is_known_by_its_table(tmp_path: Path, label: str, table: str, sector: int) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    RUN(["sfdisk", "-q", path], stdin=f"{label}size=4M\n")
    assert read_table(path) == (table, sector)


def with_backing(folder: Path) -> Path:
    qcow2(filesystem(folder))
    RUN(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", folder / "x.qcow2"])
    return folder / "x.qcow2"


def with_data_file(folder: Path) -> Path:
    RUN(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={folder / 'secret'}", folder / "x.qcow2", "1M"])
    return folder / "x.qcow2"


def with_unknown_feature(folder: Path) -> Path:
    path = qcow2(filesystem(folder))
    data = bytearray(path.read_bytes())
    struct.pack_into(">Q", data, 72, 1 << 40)  # incompatible features (qcow2 specification, header)
    path.write_bytes(bytes(data))
    return path


def vmdk(folder: Path) -> Path:
    RUN(["qemu-img", "create", "-q", "-f", "vmdk", folder / "x.vmdk", "1M"])
    return folder / "x.vmdk"


def large(folder: Path) -> Path:
    RUN(["qemu-img", "create", "-q", "-f", "qcow2", folder / "x.qcow2", "2G"])
    return folder / "x.qcow2"


def empty(folder: Path) -> Path:
    (folder / "x").touch()
    return folder / "x"


@pytest.mark.parametrize("make", [with_backing, with_data_file, with_unknown_feature, vmdk, large, empty])
def test_what_cannot_be_trusted_is_refused_before_qemu_reads_it(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path)
    with pytest.raises(ImageError) as caught:
        inspect(path, MOST)
    error = caught.value
    assert error.where == str(path) and error.cause and error.hint


def test_a_disk_without_anything_on_it_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"text" * 1000)
    with pytest.raises(ImageError, match="no partition table"):
        take(catalogue, path)
    assert catalogue.images() == []


def test_a_whole_disk_cannot_take_a_roles_name(catalogue: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the role galera has elements"):
        take(catalogue, table(tmp_path), "galera")
    assert catalogue.images() == []


def test_a_file_that_is_cut_off_is_refused_and_leaves_nothing(catalogue: Catalogue, tmp_path: Path) -> None:
    path = qcow2(filesystem(tmp_path))
    path.write_bytes(path.read_bytes()[:70000])
    with pytest.raises(ImageError):
        take(catalogue, path)
    assert catalogue.images() == []


def test_the_reader_has_limits(catalogue: Catalogue, tmp_path: Path) -> None:
    """A file whose disk is larger than it was said to be when it was inspected."""
    path = qcow2(filesystem(tmp_path))
    said = json.loads(RUN(["qemu-img", "info", "--output=json", path]).stdout)["virtual-size"]
    lied = Foreign(path, "qcow2", said - (1 << 30) - said // 2)
    (tmp_path / "work").mkdir()
    with pytest.raises(ImageError):
        import_foreign(catalogue, lied, "other", reserved=(), work=tmp_path / "work", runner=HostRunner())
