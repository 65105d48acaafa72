"""From the tree that diskimage-builder left to the files of an image: overlay, file system, chunks; or a ramdisk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from provisioner.errors import ImageError
from provisioner.events import Observer
from provisioner.images.catalogue import CONTENTS, INDEX, SBOM, TEMPLATES, describe_files
from provisioner.images.claims import agent_units, find_templates
from provisioner.images.contents import write_contents
from provisioner.images.disk import make_filesystem, settle_tree, write_chunks
from provisioner.images.elements import find_elements
from provisioner.images.program import bring_program
from provisioner.images.ramdisk import pack_ramdisk
from provisioner.images.sbom import read_parts, render_sbom, used_parts
from provisioner.images.squashfs import make_squashfs
from provisioner.images.workshop import RAMDISK, RAMDISK_ELEMENT, BuildSpec, Workshop, timed
from provisioner.model.image import Image
from provisioner.system.files import write_file
from provisioner.system.run import Runner

TEMPLATE_TREE = "usr/libexec/provisioner-agent/templates"
"""Where the config agent finds its templates, those of elements and those of the role."""
MOUNT_POINTS = {"proc": 0o555, "sys": 0o555, "run": 0o755, "dev": 0o755, "tmp": 0o1777}


def assemble(
    build: BuildSpec,
    tar: Path,
    work: Path,
    out: Path,
    workshop: Workshop,
    layers: tuple[str, ...],
    inputs: Mapping[str, str],
    runner: Runner,
    observer: Observer,
    *,
    seed: str,
) -> Image:
    """The image's files in ``out``, and what its manifest says of them.

    :param tar: the tree as diskimage-builder left it. :param layers: keys of those it stands on.
    :param inputs: all that went in, by name. :param seed: identifiers of the file system come from it.
    :raises HostError: a program failed. :raises OSError: the disk is full.
    """
    tree = work / "tree"
    tree.mkdir()
    with timed(observer, build.name, "unpack"):
        runner.run(["tar", "-C", tree, "--numeric-owner", "--xattrs", "-xpf", tar], deadline=600)
        _empty_mount_points(tree)
    parts = read_parts(tree, runner)
    mapped = 0
    if build.name == RAMDISK:
        element = find_elements((RAMDISK_ELEMENT,), workshop.search)
        stage = work / "stage"
        stage.mkdir()
        with timed(observer, build.name, "pack"):
            pack_ramdisk(tree, element[RAMDISK_ELEMENT], workshop.agent, stage, out, runner=runner)
        parts = used_parts(parts, tree, stage)
        settle_tree(stage)
        write_contents(stage, out / CONTENTS)
    else:
        _overlay(build, tree, workshop)
        bring_program(workshop, tree, runner)
        write_file(out / TEMPLATES, json.dumps(read_templates(tree / TEMPLATE_TREE), sort_keys=True, indent=1))
        with timed(observer, build.name, "file system"), ThreadPoolExecutor(1) as aside:
            settle_tree(tree)
            listing = aside.submit(write_contents, tree, out / CONTENTS)
            make_filesystem(tree, work / "root.img", seed=seed, runner=runner)
            listing.result()
        with timed(observer, build.name, "chunks"):
            index = write_chunks(work / "root.img", out / "root.zst")
        mapped = index.mapped
        write_file(out / INDEX, index.model_dump_json())
        if build.spec.squashfs:
            with timed(observer, build.name, "squashfs"):
                make_squashfs(tree, out, runner=runner)
    write_file(out / SBOM, render_sbom(build.name, parts, f"provisioner-{version('provisioner')}"))
    ident, files, sizes = describe_files(build.name, out)
    return Image(
        id=ident,
        name=build.name,
        files=files,
        sizes=sizes,
        mapped=mapped,
        elements=build.spec.elements,
        layers=layers,
        kind="ramdisk" if build.name == RAMDISK else "root",
        inputs=dict(inputs),
        packages={part.name: part.version for part in parts},
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
        for unit in agent_units(workshop):
            shutil.copyfile(unit, tree / "etc/systemd/system" / unit.name)
    for path, place in find_templates(workshop.source, build.spec.templates).items():
        target = tree / TEMPLATE_TREE / path
        if os.path.lexists(target):
            raise ImageError(
                "an element of the image has put a template there already",
                where=str(place),
                cause=f"/{TEMPLATE_TREE}/{path} is in the tree that diskimage-builder made",
                hint="let only one of them bring it",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(place, target)
    for script in (tree / "usr/libexec/os-refresh-config").rglob("*"):
        if script.is_file():
            script.chmod(0o755)


def read_templates(folder: Path) -> dict[str, str]:
    """Text by relative path, control files too: what the agent will find there.

    :raises ImageError: a file is no text, with which the agent could render none of them; or it is a link that leads
        out of the folder, and so to a file of this host.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise _bad_template(name, f"a link to {path.readlink()}")
        if path.is_file():
            try:
                found[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise _bad_template(name, str(error)) from error
    return found


def _bad_template(name: str, cause: str) -> ImageError:
    return ImageError(
        "a template is no file of UTF-8 text",
        where=f"/{TEMPLATE_TREE}/{name}",
        cause=cause,
        hint="correct templates/, or the element that puts it there",
    )
