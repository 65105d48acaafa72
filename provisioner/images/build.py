"""The recipe of an image: layer → diskimage-builder → overlay → file system → chunks → catalogue."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from time import monotonic

from provisioner.errors import ImageError, ProvisionerError
from provisioner.events import Event, Observer
from provisioner.images.assemble import assemble, template_folder
from provisioner.images.catalogue import Catalogue
from provisioner.images.dib import LAYER_ELEMENT, DibRun, build_tree, element_folders
from provisioner.images.inputs import explain, folder_inputs, hash_inputs
from provisioner.images.layer import ensure_layer, layer_inputs
from provisioner.images.lock import LOCK, describe_drift, read_lock, render_lock
from provisioner.images.pool import trim_pool
from provisioner.images.sources import Source
from provisioner.images.workshop import BuildSpec, Workshop, read_sources, timed
from provisioner.model.image import Image
from provisioner.system.files import write_file
from provisioner.system.run import StoppableRunner
from provisioner.trust.keys import SiteKeys

BUILDER = "3"
"""Part of every key: raise it when the recipe itself changes what comes out."""
AGENT_FILES = "agent"


@dataclass(frozen=True)
class Built:
    """How one image's build ended. ``reason``: why it was built, or that nothing changed."""

    image: Image
    rebuilt: bool
    reason: str
    seconds: float


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
        with timed(observer, "all", "layer"):
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
        inputs |= folder_inputs(f"templates/{name}", template_folder(workshop, name))
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
    runner: StoppableRunner
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
            with timed(self.observer, name, "diskimage-builder"):
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
                image = assemble(job.build, tar, Path(folder), workshop, self.layer.name, self.runner, self.observer)
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
