"""Whether the same inputs give the same bytes: everything is built twice, aside, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from provisioner.events import Observer
from provisioner.images.build import BUILD, build_images
from provisioner.images.catalogue import CONTENTS, Catalogue
from provisioner.images.contents import compare_contents, read_contents
from provisioner.images.provenance import Keys
from provisioner.images.workshop import BuildSpec, Workshop
from provisioner.model.image import Image
from provisioner.system.run import StoppableRunner
from provisioner.system.scratch import held_folder, sweep_folders


@dataclass(frozen=True)
class Verdict:
    """How two builds of one image compare. ``differences``: the paths that differ and how, sorted; none: not a byte."""

    id: str
    differences: tuple[str, ...] = ()


def check_images(
    specs: Sequence[BuildSpec],
    *,
    among: Sequence[BuildSpec],
    workshop: Workshop,
    keys: Keys,
    runner: StoppableRunner,
    observer: Observer,
) -> list[Verdict]:
    """Build ``specs`` twice from nothing but the pool of packages, and compare.

    :param among: all images of the site. :raises ImageError: a build failed.
    """
    sweep_folders(workshop.state / "work", BUILD)
    with held_folder(workshop.state / "work", BUILD) as folder:
        catalogues = []
        for name in ("first", "second"):
            aside = replace(workshop, state=folder / name)
            catalogues.append(Catalogue(folder / name / "images", keys))
            build_images(specs, among=among, workshop=aside, catalogue=catalogues[-1], runner=runner, observer=observer)
        return [_compare(spec.name, *catalogues) for spec in specs]


def _compare(name: str, first: Catalogue, second: Catalogue) -> Verdict:
    one, two = first.newest(name), second.newest(name)
    assert one is not None and two is not None
    return Verdict(one.id, () if one.files == two.files else find_differences(first, one, second, two))


def find_differences(first: Catalogue, one: Image, second: Catalogue, two: Image) -> tuple[str, ...]:
    """The paths inside the images that differ, or the images' own files when what is inside does not."""
    old, new = (read_contents(catalogue.path(image.id, CONTENTS)) for catalogue, image in ((first, one), (second, two)))
    inside = tuple(f"{found.path} ({found.what})" for found in compare_contents(old, new, times=True))
    return inside or tuple(name for name in sorted(one.files) if one.files[name] != two.files.get(name))
