"""A case as a file: documents separated by lines ``=== NAME``."""

from __future__ import annotations

import re
from dataclasses import replace

from provisioner.manifest.cloud import parse_desired
from provisioner.manifest.elements import ElementText
from provisioner.model.role import Desired


def split_case(text: str) -> dict[str, str]:
    """The documents by name."""
    parts = re.split(r"^=== (\S+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def parse_case(files: dict[str, str]) -> Desired:
    """The cloud of a case, with the zones and elements that its documents are by their names."""
    files = dict(files)
    zones = {name: files.pop(name) for name in list(files) if name.startswith("zones/")}
    elements: dict[str, ElementText] = {}
    for path in [name for name in files if name.startswith("elements/")]:
        text, name = files.pop(path), path.split("/")[1]
        known = elements.get(name, ElementText(f"elements/{name}/values.yaml"))
        told = {"needs": tuple(text.split())} if path.endswith("element-deps") else {"text": text}
        elements[name] = replace(known, **told)
    return parse_desired("cloud.yaml", files, zones=zones, elements=elements)
