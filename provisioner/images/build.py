"""The recipe of an image: layer → diskimage-builder → overlay → file system → chunks → catalogue."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import monotonic

from provisioner.errors import ImageError
from provisioner.events import Event, Observer
from provisioner.images.catalogue import INDEX, Catalogue
from provisioner.images.dib import LAYER_ELEMENT, DibRun, build_tree, element_folders
from provisioner.images.disk import make_filesystem, write_chunks
from provisioner.images.inputs import explain, folder_inputs, hash_inputs
from provisioner.images.layer import RELEASE, ensure_layer
from provisioner.images.ramdisk import pack_ramdisk
from provisioner.images.sources import Source, parse_sources
from provisioner.model.image import Image
from provisioner.model.role import ImageSpec
from provisioner.system.files import hash_file, write_file
from provisioner.system.run import Runner

RAMDISK = "ramdisk"
RAMDISK_ELEMENT = "provisioner-ramdisk"
BUILDER = "1"
"""Part of every key: raise it when the recipe itself changes what comes out."""
AGENT_FILES = "agent"
MOUNT_POINTS = {"proc": 0o555, "sys": 0o555, "run": 0o755, "dev": 0o755, "tmp": 0o1777}


@dataclass(frozen=True)
class BuildSpec:
    """An image to build. ``name`` is the role's, or ``ramdisk``."""

    name: str
    spec: ImageSpec


RAMDISK_SPEC = BuildSpec(RAMDISK, ImageSpec(elements=(RAMDISK_ELEMENT,)))


@dataclass(frozen=True)
class Workshop:
    """Where builds read and write.

    :param source: holds ``elements/`` and ``templates/``. :param agent: folder of ``provisioner_agent``.
    :param state: layers, trees and their records; the catalogue has its own folder.
    """

    source: Path
    agent: Path
    elements_path: tuple[Path, ...]
    state: Path
    apt: tuple[Path, ...] = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
    ca_bundle: Path | None = None


@dataclass(frozen=True)
class Built:
    """How one image's build ended. ``reason``: why it was built, or that nothing changed."""

    image: Image
    rebuilt: bool
    reason: str
    seconds: float


def read_sources(places: Sequence[Path]) -> tuple[Source, ...]:
    """The Debian sources of this host."""
    paths = [path for place in places for path in (sorted(place.glob("*")) if place.is_dir() else [place])]
    files = {str(path): path.read_text() for path in paths if path.suffix in {".list", ".sources"} and path.is_file()}
    return parse_sources(files, RELEASE)


def host_ca_bundle() -> Path | None:
    """The CA certificates this host trusts: a chroot knows none of them by itself."""
    named = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    return Path(named) if Path(named).is_file() else None


def build_images(
    specs: Sequence[BuildSpec],
    *,
    workshop: Workshop,
    catalogue: Catalogue,
    runner: Runner,
    observer: Observer,
    force: bool = False,
) -> list[Built]:
    """Bring each image up to date, in order; those whose inputs have not changed are left as they are.

    :raises ImageError: a build failed; what was published before stays.
    """
    sources = read_sources(workshop.apt)
    return [_build_image(spec, sources, workshop, catalogue, runner, observer, force) for spec in specs]


def _build_image(
    build: BuildSpec,
    sources: tuple[Source, ...],
    workshop: Workshop,
    catalogue: Catalogue,
    runner: Runner,
    observer: Observer,
    force: bool,
) -> Built:
    start = monotonic()
    search = (workshop.source / "elements", *workshop.elements_path)
    folders = element_folders((LAYER_ELEMENT, *build.spec.elements), search)
    tree_inputs = {
        "builder": BUILDER,
        "diskimage-builder": version("diskimage-builder"),
        "elements": " ".join(build.spec.elements),
        "sources": " ".join(source.line() for source in sources),
    }
    for element, place in folders.items():
        tree_inputs |= folder_inputs(f"elements/{element}", place)
    inputs = tree_inputs | folder_inputs(AGENT_FILES, workshop.agent)
    for name in build.spec.templates:
        inputs |= folder_inputs(f"templates/{name}", _templates(workshop, name))
    record = workshop.state / "records" / f"{build.name}.json"
    before = json.loads(record.read_text()) if record.is_file() else None
    newest = catalogue.newest(build.name)
    if before == inputs and newest is not None and not force:
        observer(Event("image.unchanged", f"{build.name}: nothing changed, {newest.id} stays"))
        return Built(newest, False, "nothing changed", monotonic() - start)
    reason = "because it was asked for" if force else explain(before, inputs)
    observer(Event("image.build", f"{build.name}: build {reason}"))
    (workshop.state / "work").mkdir(parents=True, exist_ok=True)
    with _timed(observer, build.name, "layer"):
        layer = ensure_layer(workshop.state / "layers", sources, runner=runner, observer=observer)
    tar = workshop.state / "trees" / f"{build.name}-{hash_inputs(tree_inputs | {'layer': layer.name})}.tar"
    if not tar.is_file() or force:
        with _timed(observer, build.name, "diskimage-builder"):
            run = DibRun(build.name, build.spec.elements, search, layer, workshop.agent, workshop.ca_bundle, sources)
            build_tree(run, tar, work=workshop.state / "work", runner=runner, observer=observer)
        for old in tar.parent.glob(f"{build.name}-*.tar"):
            if old != tar:
                old.unlink()
    with tempfile.TemporaryDirectory(dir=workshop.state / "work", prefix=f"{build.name}.") as folder:
        image = _assemble(build, tar, Path(folder), workshop, layer.name, runner, observer)
        catalogue.publish(image, Path(folder) / "out")
    write_file(record, json.dumps(inputs, indent=1))
    seconds = monotonic() - start
    observer(Event("image.done", f"{build.name}: {image.id} in {seconds:.0f} s", data={"id": image.id}))
    return Built(image, True, reason, seconds)


def _assemble(
    build: BuildSpec, tar: Path, work: Path, workshop: Workshop, layer: str, runner: Runner, observer: Observer
) -> Image:
    tree, out = work / "tree", work / "out"
    tree.mkdir()
    out.mkdir()
    with _timed(observer, build.name, "unpack"):
        runner.run(["tar", "-C", tree, "--numeric-owner", "--xattrs", "-xpf", tar], deadline=600)
        _empty_mount_points(tree)
    packages = _packages(tree, runner)
    mapped = 0
    if build.name == RAMDISK:
        element = element_folders((RAMDISK_ELEMENT,), (workshop.source / "elements", *workshop.elements_path))
        stage = work / "stage"
        stage.mkdir()
        with _timed(observer, build.name, "pack"):
            pack_ramdisk(tree, element[RAMDISK_ELEMENT], workshop.agent, stage, out, runner=runner)
    else:
        _overlay(build, tree, workshop)
        with _timed(observer, build.name, "file system"):
            make_filesystem(tree, work / "root.img", seed=tar.stem, runner=runner)
        with _timed(observer, build.name, "chunks"):
            index = write_chunks(work / "root.img", out / "root.zst")
        mapped = index.mapped
        write_file(out / INDEX, index.model_dump_json())
    files = {path.name: hash_file(path) for path in sorted(out.iterdir())}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return Image(
        id=f"{build.name}-{digest[:12]}",
        name=build.name,
        files=files,
        sizes={path.name: path.stat().st_size for path in sorted(out.iterdir())},
        mapped=mapped,
        elements=build.spec.elements,
        layers=(layer,),
        packages=packages,
    )


def _empty_mount_points(tree: Path) -> None:
    """What a kernel mounts over at boot holds nothing of the machine that built the tree."""
    for name, mode in MOUNT_POINTS.items():
        if (tree / name).is_dir():
            shutil.rmtree(tree / name)
        (tree / name).mkdir()
        (tree / name).chmod(mode)
    for name in ("dib_environment", "dib_arguments"):  # paths of this host
        for path in (tree / "etc/dib-manifests").rglob(name):
            path.unlink()


def _overlay(build: BuildSpec, tree: Path, workshop: Workshop) -> None:
    """The last layer, put on without diskimage-builder: templates and agent change often, packages do not."""
    installed = tree / "usr/lib/python3/dist-packages/provisioner_agent"
    if installed.is_dir():
        shutil.rmtree(installed)
        shutil.copytree(workshop.agent, installed, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        unit = workshop.agent / "instance" / "provisioner-agent.service"
        shutil.copyfile(unit, tree / "etc/systemd/system/provisioner-agent.service")
    for name in build.spec.templates:
        shutil.copytree(
            _templates(workshop, name), tree / "usr/libexec/provisioner-agent/templates", dirs_exist_ok=True
        )
    for script in (tree / "usr/libexec/os-refresh-config").rglob("*"):
        if script.is_file():
            script.chmod(0o755)


def _templates(workshop: Workshop, name: str) -> Path:
    folder = workshop.source / "templates" / name
    if not folder.is_dir():
        raise ImageError(
            f"there are no templates {name}",
            where=str(folder),
            hint="correct the role's image.templates, or add the folder",
        )
    return folder


def _packages(tree: Path, runner: Runner) -> dict[str, str]:
    listed = runner.run(["dpkg-query", f"--admindir={tree}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\n"])
    return dict(sorted(line.split(" ", 1) for line in listed.stdout.splitlines() if " " in line))


@contextmanager
def _timed(observer: Observer, name: str, phase: str) -> Iterator[None]:
    start = monotonic()
    yield
    seconds = monotonic() - start
    observer(Event("image.timing", f"{name}: {phase} {seconds:.1f} s", data={"phase": phase, "seconds": seconds}))
