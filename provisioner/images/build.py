"""The recipe of an image: layer → diskimage-builder → overlay → file system → chunks → catalogue."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from time import monotonic

from provisioner.errors import ImageError, ProvisionerError
from provisioner.events import Event, Observer
from provisioner.images.catalogue import INDEX, Catalogue
from provisioner.images.dib import LAYER_ELEMENT, DibRun, build_tree, element_folders
from provisioner.images.disk import make_filesystem, write_chunks
from provisioner.images.inputs import explain, folder_inputs, hash_inputs
from provisioner.images.layer import RELEASE, ensure_layer, layer_inputs
from provisioner.images.lock import LOCK, describe_drift, read_lock, render_lock
from provisioner.images.pool import trim_pool
from provisioner.images.ramdisk import pack_ramdisk
from provisioner.images.sources import Source, parse_sources
from provisioner.model.image import Image
from provisioner.model.role import ImageSpec
from provisioner.system.files import hash_file, write_file
from provisioner.system.run import Runner, StoppableRunner
from provisioner.trust.keys import SiteKeys

RAMDISK = "ramdisk"
RAMDISK_ELEMENT = "provisioner-ramdisk"
BUILDER = "3"
"""Part of every key: raise it when the recipe itself changes what comes out."""
AGENT_FILES = "agent"
MIRROR_LIST = "mirror+file:"
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
    :param state: layers, trees and their records; the catalogue has its own folder. :param pool: packages that were
        fetched. :param lock: file of package versions; None for the newest of each.
    """

    source: Path
    agent: Path
    elements_path: tuple[Path, ...]
    state: Path
    pool: Path
    lock: Path | None
    apt: tuple[Path, ...] = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
    ca_bundle: Path | None = None

    @property
    def search(self) -> tuple[Path, ...]:
        """Folders of elements, ours first."""
        return (self.source / "elements", *self.elements_path)

    def record(self, name: str) -> Path:
        """What the newest image of ``name`` was made from."""
        return self.state / "records" / f"{name}.json"


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
    return tuple(_resolve_mirror(source) for source in parse_sources(files, RELEASE))


def _resolve_mirror(source: Source) -> Source:
    """``mirror+file:PATH``, as Debian's images for clouds have it, names a list that a chroot cannot see."""
    if not source.uri.startswith(MIRROR_LIST):
        return source
    path = Path("/" + source.uri.removeprefix(MIRROR_LIST).lstrip("/"))
    words = [line.split()[0] for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]
    return Source(words[0], source.suite, source.components) if words else source


def host_ca_bundle() -> Path | None:
    """The CA certificates this host trusts: a chroot knows none of them by itself."""
    named = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    return Path(named) if Path(named).is_file() else None


def build_images(
    specs: Sequence[BuildSpec],
    *,
    workshop: Workshop,
    catalogue: Catalogue,
    runner: StoppableRunner,
    observer: Observer,
    force: bool = False,
) -> list[Built]:
    """Bring each image up to date; those whose inputs have not changed are left as they are.

    The base layer is made first, then as many images at once as there are processors: dpkg uses only one.

    :raises ImageError: a build failed; what was published before stays, and the other builds end first.
    """
    start = monotonic()
    sources = read_sources(workshop.apt)
    lock = read_lock(workshop.lock) if workshop.lock else {}
    jobs = [_read_job(spec, sources, lock, workshop, catalogue, force) for spec in specs]
    due = [job for job in jobs if job.reason is not None]
    for job in jobs:
        name = job.build.name
        if job.reason is not None:
            observer(Event("image.build", f"{name}: build {job.reason}"))
        elif job.newest is not None:
            message = f"{name}: nothing changed, {job.newest.id} stays"
            observer(Event("image.unchanged", message, data={"image": name, "id": job.newest.id}))
    done: dict[str, Built] = {}
    if due:
        (workshop.state / "work").mkdir(parents=True, exist_ok=True)
        with _timed(observer, "all", "layer"):
            layer = ensure_layer(
                workshop.state / "layers", sources, lock, pool=workshop.pool, runner=runner, observer=observer
            )
        maker = _Maker(sources, lock, layer, workshop, catalogue, runner, observer, force)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            try:
                done = {built.image.name: built for built in pool.map(maker.make, due)}
            except ProvisionerError:
                raise
            except BaseException:  # interrupted: the threads wait for programs that nobody needs any more
                runner.stop()
                raise
        trim_pool(workshop.pool, lock)
    seconds = monotonic() - start
    unchanged = {job.build.name: Built(job.newest, False, "nothing changed", seconds) for job in jobs if job.newest}
    return [(unchanged | done)[job.build.name] for job in jobs]


def update_lock(
    specs: Sequence[BuildSpec],
    lock: Path,
    *,
    workshop: Workshop,
    keys: SiteKeys,
    runner: StoppableRunner,
    observer: Observer,
) -> list[str]:
    """Move the lock to the newest versions: build everything without it once, aside, and write down what came.

    :param specs: all images, since the lock is one for all.
    :returns: what moved, ``PACKAGE OLD → NEW`` each. :raises ImageError: a build failed; the lock stays.
    """
    before = read_lock(lock)
    (workshop.state / "work").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workshop.state / "work", prefix="update.") as folder:
        aside = replace(workshop, state=Path(folder), lock=None)
        catalogue = Catalogue(Path(folder) / "images", keys)
        built = build_images(specs, workshop=aside, catalogue=catalogue, runner=runner, observer=observer)
    packages = {name: version for one in built for name, version in one.image.packages.items()}
    write_file(lock, render_lock(packages))
    return [
        f"{name} {before.get(name, '(none)')} → {packages.get(name, '(none)')}"
        for name in sorted(before.keys() | packages.keys())
        if before.get(name) != packages.get(name)
    ]


@dataclass(frozen=True)
class _Job:
    """An image with what goes into it. ``reason``: why it has to be built, None when it has not."""

    build: BuildSpec
    inputs: dict[str, str]
    tree_inputs: dict[str, str]
    newest: Image | None
    reason: str | None


def _read_job(
    build: BuildSpec,
    sources: tuple[Source, ...],
    lock: Mapping[str, str],
    workshop: Workshop,
    catalogue: Catalogue,
    force: bool,
) -> _Job:
    folders = element_folders((LAYER_ELEMENT, *build.spec.elements), workshop.search)
    tree_inputs = {
        "builder": BUILDER,
        "diskimage-builder": version("diskimage-builder"),
        "elements": " ".join(build.spec.elements),
        "sources": " ".join(source.line() for source in sources),
        LOCK: hash_inputs(lock),
    }
    for element, place in folders.items():
        tree_inputs |= folder_inputs(f"elements/{element}", place)
    inputs = tree_inputs | {f"layer/{name}": text for name, text in layer_inputs(sources, lock).items()}
    inputs |= folder_inputs(AGENT_FILES, workshop.agent)
    for name in build.spec.templates:
        inputs |= folder_inputs(f"templates/{name}", _templates(workshop, name))
    record = workshop.record(build.name)
    before = json.loads(record.read_text()) if record.is_file() else None
    newest = catalogue.newest(build.name)
    if force:
        reason: str | None = "because it was asked for"
    else:
        reason = None if before == inputs and newest is not None else explain(before, inputs)
    return _Job(build, inputs, tree_inputs, newest, reason)


@dataclass(frozen=True)
class _Maker:
    """What the builds of one run share."""

    sources: tuple[Source, ...]
    lock: Mapping[str, str]
    layer: Path
    workshop: Workshop
    catalogue: Catalogue
    runner: Runner
    observer: Observer
    force: bool

    def make(self, job: _Job) -> Built:
        start = monotonic()
        try:
            return self._make(job, start)
        except ProvisionerError as error:
            told = {"image": job.build.name, "seconds": monotonic() - start, "error": error.to_dict()}
            self.observer(Event("image.failed", f"{job.build.name}: {error.summary}", data=told))
            raise

    def _make(self, job: _Job, start: float) -> Built:
        name, workshop = job.build.name, self.workshop
        tree_name = hash_inputs(job.tree_inputs | {"layer": self.layer.name})
        tar = workshop.state / "trees" / f"{name}-{tree_name}.tar"
        if not tar.is_file() or self.force:
            with _timed(self.observer, name, "diskimage-builder"):
                build_tree(
                    DibRun(
                        name,
                        job.build.spec.elements,
                        workshop.search,
                        self.layer,
                        workshop.agent,
                        workshop.ca_bundle,
                        self.sources,
                        workshop.pool,
                    ),
                    tar,
                    work=workshop.state / "work",
                    runner=self.runner,
                    observer=self.observer,
                )
            for old in tar.parent.glob(f"{name}-*.tar"):
                if old != tar:
                    old.unlink()
        try:
            with tempfile.TemporaryDirectory(dir=workshop.state / "work", prefix=f"{name}.") as folder:
                image = _assemble(job.build, tar, Path(folder), workshop, self.layer.name, self.runner, self.observer)
                self.catalogue.publish(image, Path(folder) / "out")
            write_file(workshop.record(name), json.dumps(job.inputs, indent=1))
        except OSError as error:
            raise ImageError(
                f"the image {name} could not be put together",
                where=error.filename or str(workshop.state),
                cause=error.strerror,
                hint=f"df -h {workshop.state}, then run provisioner image build again",
            ) from error
        if drift := describe_drift(self.lock, image.packages):
            message = f"{name}: not as locked: {drift}; image build --update moves the lock"
            self.observer(Event("image.drift", message))
        seconds = monotonic() - start
        told = {"image": name, "id": image.id, "seconds": seconds, "reason": job.reason}
        self.observer(Event("image.done", f"{name}: {image.id} in {seconds:.0f} s", data=told))
        return Built(image, True, job.reason or "", seconds)


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
        element = element_folders((RAMDISK_ELEMENT,), workshop.search)
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
    told = {"image": name, "phase": phase, "seconds": seconds}
    observer(Event("image.timing", f"{name}: {phase} {seconds:.1f} s", data=told))
