"""Who puts a file at which path of an image: two that claim one path are an error, since one of them would be hidden.

Claims are read from the source alone, so that the error comes before anything is built. What a hook writes when it runs
is not known then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from provisioner.errors import ImageError
from provisioner.images.elements import find_elements
from provisioner.images.inputs import IGNORED
from provisioner.images.workshop import BuildSpec, Workshop

Claim = tuple[str, Path]
"""(path in the instance, or of a hook among all hooks; the file of ours that is to be there)"""
AGENT_ELEMENT = "provisioner-agent"
TEMPLATES = "/usr/libexec/provisioner-agent/templates"
UNITS = "/etc/systemd/system"
PLACES = {"os-apply-config": "/", "os-refresh-config": "/usr/libexec/os-refresh-config/", "bin": "/usr/local/bin/"}
"""Where the folders of an element come in the instance; what os-apply-config holds is rendered from the root on."""


def template_folder(source: Path, name: str) -> Path:
    """Where a role's templates lie. :raises ImageError: they do not exist."""
    folder = source / "templates" / name
    if not folder.is_dir():
        raise ImageError(
            f"there are no templates {name}",
            where=str(folder),
            hint="correct the role's image.templates, or add the folder",
        )
    return folder


def find_templates(source: Path, names: Sequence[str]) -> dict[str, Path]:
    """The files of template trees by their path below the root of an instance, ``etc/motd``.

    :param source: holds ``templates/``. :raises ImageError: a tree does not exist, has something that is no file of its
        own, or two have one path.
    """
    found = list(_template_claims(source, names))
    _refuse_collisions(found)
    return {path.lstrip("/"): place for path, place in found}


def check_claims(build: BuildSpec, workshop: Workshop) -> None:
    """Whether all that elements and template trees bring has a path of its own.

    :raises ImageError: with each path that is claimed twice, and by which files.
    """
    elements = _leave_provided_out(find_elements(build.spec.elements, workshop.search))
    claims = [claim for folder in elements.values() for claim in _element_claims(folder)]
    if AGENT_ELEMENT in elements:
        claims += [(f"{UNITS}/{unit.name}", unit) for unit in agent_units(workshop)]
    claims += _template_claims(workshop.source, build.spec.templates)
    _refuse_collisions(claims)


def agent_units(workshop: Workshop) -> list[Path]:
    """The units of systemd that the config agent brings."""
    return sorted((workshop.agent / "instance").glob("*.service"))


def _leave_provided_out(elements: Mapping[str, Path]) -> dict[str, Path]:
    """Diskimage-builder takes no element that another one stands for (``element-provides``)."""
    lists = (folder / "element-provides" for folder in elements.values())
    provided = {name for path in lists if path.is_file() for name in path.read_text().split()}
    return {name: folder for name, folder in elements.items() if name not in provided}


def _template_claims(source: Path, names: Iterable[str]) -> Iterator[Claim]:
    for name in names:
        folder = template_folder(source, name)
        _refuse_strange(folder)
        for path in _files(folder):
            yield f"/{path.relative_to(folder)}", path


def _refuse_strange(folder: Path) -> None:
    """What would be left out without a word, or break the build when it is almost done."""
    for path in sorted(folder.rglob("*")):
        cause = None
        if path.is_symlink() and not path.is_file():
            cause = f"it is a link to {path.readlink()}, which is no file"
        elif any(letter == "\n" or "\ud800" <= letter <= "\udfff" for letter in path.name):
            cause = "its name has a line break, or is not UTF-8"
        if cause is not None:
            raise ImageError(
                "a template is no file of its own",
                where=ascii(str(path))[1:-1],
                cause=cause,
                hint="put the files themselves there",
            )


def _element_claims(folder: Path) -> Iterator[Claim]:
    for path in _files(folder):
        part, *rest = path.relative_to(folder).parts
        if rest and part in PLACES:
            yield PLACES[part] + "/".join(rest), path
        elif rest and part.endswith(".d"):
            yield "/".join((part, *rest)), path


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        there = path.is_file() or (path.is_symlink() and not path.is_dir())
        if there and not any(part.endswith(IGNORED) for part in path.parts):
            yield path


def _refuse_collisions(claims: Iterable[Claim]) -> None:
    """:raises ImageError: two claim one path, or one claims as a folder what another one claims as a file."""
    found: dict[str, list[Path]] = {}
    for path, place in claims:
        found.setdefault(path, []).append(place)
    wrong = {path: places for path, places in found.items() if len(places) > 1} | _files_as_folders(found)
    if wrong:
        told = [f"{path}: {' and '.join(str(place) for place in places)}" for path, places in sorted(wrong.items())]
        raise ImageError(
            "one path is claimed twice, so one file would hide the other",
            where=str(next(iter(wrong.values()))[-1]),
            cause="; ".join(told),
            hint="rename or remove one of them, or take its element or templates out of the role's image",
        )


def _files_as_folders(found: Mapping[str, Sequence[Path]]) -> dict[str, list[Path]]:
    wrong: dict[str, list[Path]] = {}
    for path, places in found.items():
        for above in PurePosixPath(path).parents:
            if str(above) in found:
                wrong[str(above)] = [found[str(above)][0], places[0]]
    return wrong
