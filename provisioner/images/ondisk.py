"""The image of a role on a whole disk that somebody brought: that disk as it is, and what its instances get beside it.

Nothing of the disk is changed or copied. Its templates and phase scripts are files of the image, signed with it; they
come into an instance with the config agent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import time

from provisioner.errors import ImageError, NotFound
from provisioner.images.catalogue import DISK, INDEX, PHASES, TEMPLATES, Catalogue, describe_files
from provisioner.images.claims import check_claims, find_templates, template_folder
from provisioner.images.elements import VALUES, element_deps, find_elements
from provisioner.images.inputs import explain, folder_inputs
from provisioner.images.provenance import build_statement, builder
from provisioner.images.workshop import BuildSpec, Workshop
from provisioner.model.image import Image
from provisioner.system.files import write_file

SCRIPTS = "os-refresh-config"
TAKEN = frozenset({"README.rst", "element-deps", VALUES, SCRIPTS})
"""Parts of an element that come into instances of a whole disk, or say something of the element alone."""
CHUNKS = "root.zst"
UNTESTED = "skipped"


@dataclass(frozen=True)
class OnDisk:
    """What goes into such an image. ``reason``: why it has to be made, None when it has not."""

    build: BuildSpec
    disk: Image
    inputs: Mapping[str, str]
    newest: Image | None
    reason: str | None


def read_on_disk(build: BuildSpec, workshop: Workshop, catalogue: Catalogue, *, force: bool) -> OnDisk:
    """:raises NotFound: the disk was not imported. :raises ImageError: an element has more than an instance of a whole
    disk can get; or two of them have one path.
    """
    name = build.spec.disk
    disk = catalogue.newest(name)
    if disk is None or disk.kind != DISK:
        hint = f"provisioner image import FILE --name {name}"
        raise NotFound(f"there is no whole disk {name}, on which the image {build.name} stands", where=name, hint=hint)
    folders = find_elements(build.spec.elements, workshop.search)
    check_elements(build, folders)
    check_claims(build, workshop)
    inputs = {"disk": disk.id}
    for element, folder in folders.items():
        inputs |= folder_inputs(f"elements/{element}", folder, parts=(SCRIPTS,))
    for tree in build.spec.templates:
        inputs |= folder_inputs(f"templates/{tree}", template_folder(workshop.source, tree))
    record, newest = workshop.record(build.name), catalogue.newest(build.name)
    before = json.loads(record.read_text()) if record.is_file() else None
    reason = None if before == inputs and newest is not None else explain(before, inputs)
    return OnDisk(build, disk, inputs, newest, "because it was asked for" if force else reason)


def check_elements(build: BuildSpec, folders: Mapping[str, Path]) -> None:
    """:raises ImageError: an element would install something, and nothing is installed into a whole disk."""
    for element in build.spec.elements:
        if element not in folders:
            raise _more(build, element, "diskimage-builder", "it is one of diskimage-builder's")
    for element, folder in folders.items():
        strange = sorted(path.name for path in folder.iterdir() if path.name not in TAKEN)
        others = [needed for needed in element_deps(folder) if needed not in folders]
        if strange:
            raise _more(build, element, str(folder), f"it has {', '.join(strange)}")
        if others:
            raise _more(build, element, str(folder / "element-deps"), f"it needs {', '.join(others)}")


def _more(build: BuildSpec, element: str, where: str, cause: str) -> ImageError:
    return ImageError(
        f"the element {element} is for images that are built, and {build.name} stands on a whole disk",
        where=where,
        cause=f"{cause}; an instance of a whole disk gets {VALUES} and {SCRIPTS}/ of an element",
        hint="take it out of image.elements; packages come by cloud_config: {packages: [...]}",
    )


def make_on_disk(found: OnDisk, workshop: Workshop, catalogue: Catalogue) -> Image:
    """Publish it. :raises ImageError: the disk's own files are damaged, or a template or script is no text."""
    build, disk, start = found.build, found.disk, time()
    spec = build.spec
    templates = read_texts(find_templates(workshop.source, spec.templates).items())
    folders = find_elements(spec.elements, workshop.search)
    phases = read_texts(
        (str(path.relative_to(folder / SCRIPTS)), path)
        for folder in folders.values()
        for path in sorted((folder / SCRIPTS).rglob("*"))
        if path.is_file()
    )
    with catalogue.workplace() as out:
        for name in (CHUNKS, INDEX):
            os.link(catalogue.path(disk.id, name), out / name)
        write_file(out / TEMPLATES, json.dumps(templates, sort_keys=True, indent=1))
        write_file(out / PHASES, json.dumps(phases, sort_keys=True, indent=1))
        ident, files, sizes = describe_files(build.name, out)
        damaged = [name for name in (CHUNKS, INDEX) if files[name] != disk.files[name]]
        if damaged:
            hint = f"remove {catalogue.folder / disk.id}, then provisioner image import FILE --name {disk.name}"
            raise ImageError("the disk is not what was imported", where=disk.id, cause=", ".join(damaged), hint=hint)
        fresh = {"id": ident, "name": build.name, "files": files, "sizes": sizes, "elements": spec.elements}
        image = disk.model_copy(update=fresh | {"test": UNTESTED, "inputs": dict(found.inputs)})
        told = build_statement(image, spec.elements, spec.templates, start, time(), builder())
        catalogue.publish(image, out, told)
    write_file(workshop.record(build.name), json.dumps(found.inputs, indent=1))
    return image


def read_texts(places: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """Text by path. :raises ImageError: a file is none."""
    found: dict[str, str] = {}
    for name, place in places:
        try:
            found[name] = place.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            hint = "only text comes into instances of a whole disk; write it so, or take it out"
            raise ImageError("a file is no UTF-8 text", where=str(place), cause=str(error), hint=hint) from error
    return found
