"""Chains of layers: Debian at the bottom, then the packages that several images share, then those of one image.

A layer is a file tree with packages in it, made once and named by everything that decides about it. Configuration,
hooks and templates come on top of the last layer, so a change of them installs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from provisioner.images.debian import PACKAGES, debian_inputs
from provisioner.images.elements import LAYER_ELEMENT, PACKAGE_PART, adds_packages, find_elements
from provisioner.images.inputs import folder_inputs, hash_inputs
from provisioner.images.sources import Source
from provisioner.images.workshop import BuildSpec

RECIPE = "2"
"""Part of the name of every layer of packages: raise it when the way they are made changes what comes out."""
DEBIAN = "debian"


@dataclass(frozen=True)
class Layer:
    """One layer. ``elements``: those that make it, with their folders; none for the lowest, which mmdebstrap makes.

    :param inputs: what went in, by name; their hash is the layer's ``key``.
    """

    name: str
    parent: Layer | None
    elements: Mapping[str, Path]
    inputs: Mapping[str, str]

    @property
    def key(self) -> str:
        return hash_inputs(self.inputs)

    @property
    def chain(self) -> tuple[Layer, ...]:
        """This layer and those below it, the lowest first."""
        return (*(self.parent.chain if self.parent else ()), self)


def package_elements(spec: BuildSpec, search: Sequence[Path]) -> dict[str, Path]:
    """The elements of an image that bring packages, dependencies first."""
    found = find_elements(spec.spec.elements, search)
    return {
        name: folder
        for name, folder in found.items()
        if name != LAYER_ELEMENT and adds_packages(folder, frozenset(PACKAGES))
    }


def split_chains(chains: Mapping[str, Sequence[str]]) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Where the chains part: each chain as segments that are shared by the same images from end to end."""
    shared = Counter(tuple(chain[: end + 1]) for chain in chains.values() for end in range(len(chain)))
    split = {}
    for image, chain in chains.items():
        segments: list[tuple[str, ...]] = []
        begin = 0
        for end in range(1, len(chain) + 1):
            if end == len(chain) or shared[tuple(chain[:end])] != shared[tuple(chain[: end + 1])]:
                segments.append(tuple(chain[begin:end]))
                begin = end
        split[image] = tuple(segments)
    return split


def build_chains(
    specs: Sequence[BuildSpec], search: Sequence[Path], sources: tuple[Source, ...], lock: Mapping[str, str]
) -> dict[str, Layer]:
    """The highest layer of each image, by image; images that share a part of their chain share those layers.

    :param specs: all images of the site, since what they share decides where layers end.
    :raises ImageError: an element is missing, or its list of packages cannot be read.
    """
    folders = {spec.name: package_elements(spec, search) for spec in specs}
    split = split_chains({name: tuple(found) for name, found in folders.items()})
    debian = Layer(DEBIAN, None, {}, debian_inputs(sources, lock))
    base = find_elements((LAYER_ELEMENT,), search)
    tops: dict[str, Layer] = {}
    for image, segments in split.items():
        layer = debian
        for segment in segments:
            inputs = {
                "recipe": RECIPE,
                "diskimage-builder": version("diskimage-builder"),
                "parent": layer.key,
                "elements": " ".join(segment),
            }
            chosen = {**base, **{element: folders[image][element] for element in segment}}
            for element, folder in chosen.items():
                inputs |= folder_inputs(f"elements/{element}", folder, PACKAGE_PART)
            layer = Layer("+".join(segment), layer, chosen, inputs)
        tops[image] = layer
    return tops
