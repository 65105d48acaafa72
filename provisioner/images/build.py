"""The recipe of an image: layers → diskimage-builder → overlay → file system → chunks → catalogue."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import monotonic, time

from provisioner.errors import ImageError, ProvisionerError
from provisioner.events import Event, Observer
from provisioner.images.assemble import assemble
from provisioner.images.catalogue import Catalogue
from provisioner.images.chain import DEBIAN, Layer, build_chains
from provisioner.images.claims import AGENT_ELEMENT, agent_units, check_claims, template_folder
from provisioner.images.debian import store_layer
from provisioner.images.dib import DibRun, build_tree
from provisioner.images.elements import LAYER_ELEMENT, VALUES, count_packages, find_elements
from provisioner.images.inputs import explain, folder_inputs, hash_inputs
from provisioner.images.layers import Layers, layer_path
from provisioner.images.lock import LOCK, describe_drift, read_lock, render_lock
from provisioner.images.ondisk import OnDisk, make_on_disk, read_on_disk
from provisioner.images.pool import locked_packages, settle_pool, trim_pool
from provisioner.images.program import ELEMENT as PROGRAM_ELEMENT
from provisioner.images.program import program_inputs
from provisioner.images.provenance import build_statement, builder
from provisioner.images.sources import Source
from provisioner.images.tasks import Task, run_tasks
from provisioner.images.workshop import BuildSpec, Workshop, read_sources, timed
from provisioner.model.image import Image
from provisioner.system.files import hash_file, write_file
from provisioner.system.run import StoppableRunner
from provisioner.system.scratch import available_memory, held_folder, scratch_memory, sweep_folders
from provisioner.trust.keys import SiteKeys

BUILDER = "6"
"""Part of every key: raise it when the recipe itself changes what comes out."""
ASSEMBLY = "1"
"""Part of what goes into each image: raise it when other files are made of the same tree."""
AGENT_FILES = "agent"
BUILD = "build."
"""Folders of builds that run begin with it."""
PASSED, SKIPPED = "passed", "skipped"
TESTED = "because it was not tested yet"
Tester = Callable[[BuildSpec, Path, Path], object]
"""A boot test: what was built, its folder, an empty folder to work in. Raises ImageError for one that does not pass."""
NEEDED = 6 * 1024**3
"""Bytes of memory that building the largest image takes: its tree, packed and unpacked, and its file system."""
GUESS = 30.0
"""Seconds of a part that was never built here."""


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
    among: Sequence[BuildSpec] = (),
    workshop: Workshop,
    catalogue: Catalogue,
    runner: StoppableRunner,
    observer: Observer,
    tester: Tester | None = None,
    force: bool = False,
) -> list[Built]:
    """Bring each image up to date; those whose inputs have not changed are left as they are.

    Layers and images are made side by side, each as soon as what it stands on is there.

    :param among: all images of the site; what they share decides where layers end.
    :param tester: the boot test that an image must pass before it is published; None publishes it untested.
    :raises ImageError: a build failed; what was published before stays, and the other builds end first.
    :raises NotFound: the whole disk of an image was not imported.
    """
    plain, others = from_elements(specs), from_elements(among)
    built = _build_plain(plain, others, workshop, catalogue, runner, observer, tester, force) if plain else {}
    for spec in [spec for spec in specs if spec.spec.disk]:
        found = read_on_disk(spec, workshop, catalogue, force=force)
        built[spec.name] = _build_on_disk(found, workshop, catalogue, observer)
    return [built[spec.name] for spec in specs]


def from_elements(specs: Sequence[BuildSpec]) -> list[BuildSpec]:
    """Those that stand on no whole disk."""
    return [spec for spec in specs if not spec.spec.disk]


def _build_on_disk(found: OnDisk, workshop: Workshop, catalogue: Catalogue, observer: Observer) -> Built:
    name, start = found.build.name, monotonic()
    if found.reason is None:
        assert found.newest is not None
        told = {"image": name, "id": found.newest.id}
        observer(Event("image.unchanged", f"{name}: nothing changed, {found.newest.id} stays", data=told))
        return Built(found.newest, False, "nothing changed", monotonic() - start)
    observer(Event("image.build", f"{name}: build {found.reason}", data={"image": name}))
    try:
        image = make_on_disk(found, workshop, catalogue)
    except OSError as error:
        raise _not_written(name, workshop, error) from error
    seconds = monotonic() - start
    done = {"image": name, "id": image.id, "seconds": seconds, "reason": found.reason}
    observer(Event("image.done", f"{name}: {image.id} in {seconds:.0f} s", data=done))
    return Built(image, True, found.reason, seconds)


def _build_plain(
    specs: Sequence[BuildSpec],
    among: Sequence[BuildSpec],
    workshop: Workshop,
    catalogue: Catalogue,
    runner: StoppableRunner,
    observer: Observer,
    tester: Tester | None,
    force: bool,
) -> dict[str, Built]:
    start = monotonic()
    sources = read_sources(workshop.apt)
    lock = read_lock(workshop.lock) if workshop.lock else {}
    tops = build_chains(among or specs, workshop.search, sources, lock)
    jobs = [_read_job(spec, tops[spec.name], sources, lock, workshop, catalogue, force) for spec in specs]
    due = [job for job in jobs if job.reason is not None or (tester and job.newest and job.newest.test != PASSED)]
    for job in jobs:
        name = job.build.name
        if job.reason is not None:
            observer(Event("image.build", f"{name}: build {job.reason}", data={"image": name}))
        elif job.newest is not None and job not in due:
            message = f"{name}: nothing changed, {job.newest.id} stays"
            observer(Event("image.unchanged", message, data={"image": name, "id": job.newest.id}))
    built: dict[str, Built] = {}
    if due:
        with _in_memory(workshop, runner) as place:
            maker = _Maker(sources, lock, place, catalogue, runner, observer, tester, force)
            built = maker.make_all(due)
        settle_pool(workshop.pool)
        trim_pool(workshop.pool, lock)
    seconds = monotonic() - start
    unchanged = {job.build.name: Built(job.newest, False, "nothing changed", seconds) for job in jobs if job.newest}
    return unchanged | built


def used_files(specs: Sequence[BuildSpec], among: Sequence[BuildSpec], workshop: Workshop) -> list[Path]:
    """What the next build of these images could reuse: layers, trees, locked packages and records."""
    sources = read_sources(workshop.apt)
    lock = read_lock(workshop.lock) if workshop.lock else {}
    tops = build_chains(among, workshop.search, sources, lock)
    found: dict[Path, None] = dict.fromkeys(locked_packages(workshop.pool, lock))
    for spec in specs:
        top = tops[spec.name]
        found |= dict.fromkeys(layer_path(workshop, layer) for layer in top.chain)
        found[_tree_path(workshop, spec.name, _tree_inputs(spec, sources, lock, workshop), top)] = None
    return [*found, *sorted((workshop.state / "records").rglob("*.json"))]


@contextmanager
def _in_memory(workshop: Workshop, runner: StoppableRunner) -> Iterator[Workshop]:
    """The workshop with its work in memory, where there is enough for all that is built at once."""
    free = available_memory()
    folder = workshop.state / "work" / "memory"
    if workshop.in_memory and free >= workers() * NEEDED:
        with scratch_memory(folder, free * 4 // 5, runner) as there:
            if there:
                yield replace(workshop, scratch=folder)
            else:
                with _on_disk(workshop) as place:
                    yield place
    else:
        with _on_disk(workshop) as place:
            yield place


@contextmanager
def _on_disk(workshop: Workshop) -> Iterator[Workshop]:
    """The workshop with a folder of its own to work in; what killed builds left goes."""
    sweep_folders(workshop.state / "work", BUILD)
    with held_folder(workshop.state / "work", BUILD) as folder:
        yield replace(workshop, scratch=folder)


def _timed_task(task: Task, took: dict[str, float]) -> Task:
    def work() -> None:
        start = monotonic()
        task.work()
        took[task.name] = round(monotonic() - start, 3)

    return replace(task, work=work)


def read_seconds(workshop: Workshop) -> dict[str, float]:
    """How long each layer and image took when it was last built here."""
    record = workshop.state / "records" / "seconds.json"
    return dict(json.loads(record.read_text())) if record.is_file() else {}


def workers() -> int:
    """How many parts are built at once: dpkg uses one processor."""
    return os.cpu_count() or 1


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
    sweep_folders(workshop.state / "work", BUILD)
    with held_folder(workshop.state / "work", BUILD) as folder:
        aside = replace(workshop, state=folder, lock=None)
        catalogue = Catalogue(folder / "images", keys)
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
    layer: Layer
    inputs: dict[str, str]
    tree_inputs: dict[str, str]
    newest: Image | None
    reason: str | None


def _tree_inputs(
    build: BuildSpec, sources: tuple[Source, ...], lock: Mapping[str, str], workshop: Workshop
) -> dict[str, str]:
    """What diskimage-builder makes an image's tree from, but for the layer."""
    inputs = {
        "builder": BUILDER,
        "diskimage-builder": version("diskimage-builder"),
        "elements": " ".join(build.spec.elements),
        "sources": " ".join(source.line() for source in sources),
        LOCK: hash_inputs(lock),
    }
    elements = find_elements((LAYER_ELEMENT, *build.spec.elements), workshop.search)
    for element, place in elements.items():
        inputs |= folder_inputs(f"elements/{element}", place)
        inputs.pop(f"elements/{element}/{VALUES}", None)
    if AGENT_ELEMENT in elements:  # it enables them, which leaves links in the tree
        inputs |= {f"{AGENT_FILES}/instance/{unit.name}": hash_file(unit) for unit in agent_units(workshop)}
    return inputs


def _tree_path(workshop: Workshop, name: str, inputs: Mapping[str, str], layer: Layer) -> Path:
    """What diskimage-builder makes of an image's inputs."""
    key = hash_inputs({**inputs, "layer": layer.key})
    return workshop.state / "trees" / f"{name}-{key}.tar.zst"


def _read_job(
    build: BuildSpec,
    layer: Layer,
    sources: tuple[Source, ...],
    lock: Mapping[str, str],
    workshop: Workshop,
    catalogue: Catalogue,
    force: bool,
) -> _Job:
    check_claims(build, workshop)
    tree_inputs = _tree_inputs(build, sources, lock, workshop)
    debian = layer.chain[0].inputs
    inputs = tree_inputs | {f"{DEBIAN}/{name}": debian[name] for name in debian.keys() - {"lock", "sources"}}
    inputs |= folder_inputs(AGENT_FILES, workshop.agent) | {"assembly": ASSEMBLY}
    if PROGRAM_ELEMENT in find_elements(build.spec.elements, workshop.search):
        inputs |= program_inputs(workshop)
    inputs |= {"squashfs": "yes"} if build.spec.squashfs else {}
    for name in build.spec.templates:
        inputs |= folder_inputs(f"templates/{name}", template_folder(workshop.source, name))
    record = workshop.record(build.name)
    before = json.loads(record.read_text()) if record.is_file() else None
    newest = catalogue.newest(build.name)
    if force:
        reason: str | None = "because it was asked for"
    else:
        reason = None if before == inputs and newest is not None else explain(before, inputs)
    return _Job(build, layer, inputs, tree_inputs, newest, reason)


def _not_written(name: str, workshop: Workshop, error: OSError) -> ImageError:
    return ImageError(
        f"the image {name} could not be put together",
        where=error.filename or str(workshop.state),
        cause=error.strerror,
        hint=f"df -h {workshop.state}, then run provisioner image build again",
    )


def _guess(layer: Layer) -> float:
    """Seconds of a layer that was never made here: what counts is which takes longer than which."""
    return GUESS + sum(count_packages(folder) for folder in layer.elements.values())


class _Maker:
    """What the builds of one run share. ``built``: what they made, by name."""

    def __init__(
        self,
        sources: tuple[Source, ...],
        lock: Mapping[str, str],
        workshop: Workshop,
        catalogue: Catalogue,
        runner: StoppableRunner,
        observer: Observer,
        tester: Tester | None,
        force: bool,
    ) -> None:
        self.lock = lock
        self.workshop = workshop
        self.catalogue = catalogue
        self.runner = runner
        self.observer = observer
        self.tester = tester
        self.force = force
        self.layers = Layers(workshop, sources, lock, runner, observer)
        self.built: dict[str, Built] = {}

    def make_all(self, jobs: Sequence[_Job]) -> dict[str, Built]:
        """:raises ImageError: the first that failed, after the others ended."""
        took: dict[str, float] = {}
        tasks = self.tasks(jobs)
        if len(tasks) > len(jobs):  # layers are made
            for name in settle_pool(self.workshop.pool):
                self.observer(Event("image.pool.damaged", f"{name} in the pool was damaged; it is fetched again"))
        try:
            failed = run_tasks([_timed_task(task, took) for task in tasks], workers(), self.runner.stop)
        finally:
            record = self.workshop.state / "records" / "seconds.json"
            write_file(record, json.dumps(read_seconds(self.workshop) | took, indent=1))
        if failed:
            raise next(iter(failed.values()))
        return self.built

    def tasks(self, jobs: Sequence[_Job]) -> list[Task]:
        """The layers that are missing, each once, and the images."""
        seconds = read_seconds(self.workshop)
        found: dict[str, Task] = {}
        for job in jobs:
            needs: tuple[str, ...] = ()
            for layer in [] if job.reason is None or self._has_tree(job) else self.layers.missing(job.layer):
                name = f"layer-{layer.name}"
                found[name] = Task(name, needs, partial(self.layers.make, layer), seconds.get(name, _guess(layer)))
                needs = (name,)
            name = job.build.name
            found[name] = Task(name, needs, partial(self.make, job), seconds.get(name, GUESS))
        return list(found.values())

    def make(self, job: _Job) -> None:
        start, name = monotonic(), job.build.name
        try:
            image = self._image(job) if job.reason is not None else self._test_published(job)
        except ProvisionerError as error:
            told = {"image": name, "seconds": monotonic() - start, "error": error.to_dict()}
            self.observer(Event("image.failed", f"{name}: {error.summary}", data=told))
            raise
        seconds = monotonic() - start
        reason = job.reason or TESTED
        told = {"image": name, "id": image.id, "seconds": seconds, "reason": reason}
        self.observer(Event("image.done", f"{name}: {image.id} in {seconds:.0f} s", data=told))
        self.built[name] = Built(image, job.reason is not None, reason, seconds)

    def _image(self, job: _Job) -> Image:
        name, workshop, start = job.build.name, self.workshop, time()
        try:
            with self.catalogue.workplace() as out:
                with tempfile.TemporaryDirectory(dir=workshop.work, prefix=f"{name}.") as folder:
                    image = self._files(job, Path(folder), out)
                image = image.model_copy(update={"test": self._test(job.build, out)})
                spec = job.build.spec
                told = build_statement(image, spec.elements, spec.templates, start, time(), builder())
                self.catalogue.publish(image, out, told)
            write_file(workshop.record(name), json.dumps(job.inputs, indent=1))
        except OSError as error:
            raise _not_written(name, workshop, error) from error
        if drift := describe_drift(self.lock, image.packages):
            message = f"{name}: not as locked: {drift}; image build --update moves the lock"
            self.observer(Event("image.drift", message, data={"image": name}))
        return image

    def _files(self, job: _Job, folder: Path, out: Path) -> Image:
        """The image's files in ``out``. A fresh tree is stored for later builds while this one goes on with it."""
        stored = self._tree(job)
        keep = not self._has_tree(job)
        tar = self._make_tree(job, folder) if keep else stored
        layers = tuple(layer.key for layer in job.layer.chain)
        with ThreadPoolExecutor(1) as aside:
            storing = aside.submit(store_layer, tar, stored, self.runner) if keep else None
            image = assemble(
                job.build,
                tar,
                folder,
                out,
                self.workshop,
                layers,
                job.inputs,
                self.runner,
                self.observer,
                seed=stored.name,
            )
            if storing is not None:
                storing.result()
        for old in stored.parent.glob("*.tar.zst"):
            if old != stored and old.name.rpartition("-")[0] == job.build.name:
                old.unlink()
        return image

    def _test(self, build: BuildSpec, image: Path) -> str:
        """:returns: what the manifest is to say. :raises ImageError: the image does not pass."""
        if self.tester is None:
            return SKIPPED
        with (
            timed(self.observer, build.name, "boot test"),
            tempfile.TemporaryDirectory(dir=self.workshop.work, prefix=f"{build.name}.") as folder,
        ):
            self.tester(build, image, Path(folder))
        return PASSED

    def _test_published(self, job: _Job) -> Image:
        assert job.newest is not None
        test = self._test(job.build, self.catalogue.folder / job.newest.id)
        return self.catalogue.amend(job.newest.model_copy(update={"test": test}))

    def _tree(self, job: _Job) -> Path:
        return _tree_path(self.workshop, job.build.name, job.tree_inputs, job.layer)

    def _has_tree(self, job: _Job) -> bool:
        return not self.force and self._tree(job).is_file()

    def _make_tree(self, job: _Job, folder: Path) -> Path:
        """Run diskimage-builder; the tar file of the tree, in ``folder``."""
        name, workshop, tar = job.build.name, self.workshop, folder / "tree.tar"
        run = DibRun(
            name=name,
            elements=job.build.spec.elements,
            elements_path=workshop.search,
            layer=self.layers.path(job.layer),
            agent_source=workshop.agent,
            ca_bundle=workshop.ca_bundle,
            pool=workshop.pool,
        )
        with timed(self.observer, name, "diskimage-builder"):
            build_tree(run, tar, work=folder, logs=workshop.logs, runner=self.runner, observer=self.observer)
        return tar
