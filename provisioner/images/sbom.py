"""The parts list of an image with their licences: SPDX 2.3 (ISO/IEC 5962), as JSON.

Licences are what each package's ``copyright`` file declares: Debian's machine-readable form (DEP-5), or the common
licences that an older one points to. Nothing is concluded beyond that.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from provisioner.images.disk import EPOCH
from provisioner.system.run import Runner

SPDX_NAMES = {
    "apache-2": "Apache-2.0", "apache-2.0": "Apache-2.0", "artistic": "Artistic-1.0-Perl", "artistic-2": "Artistic-2.0",
    "artistic-2.0": "Artistic-2.0", "bsd": "BSD-3-Clause", "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause", "bsl-1.0": "BSL-1.0", "cc0": "CC0-1.0",
    "cc0-1.0": "CC0-1.0", "expat": "MIT", "isc": "ISC", "mit": "MIT", "mpl-1.1": "MPL-1.1", "mpl-2.0": "MPL-2.0",
    "openssl": "OpenSSL", "psf-2": "PSF-2.0", "unlicense": "Unlicense", "zlib": "Zlib", "zpl-2.1": "ZPL-2.1",
}  # fmt: skip
"""Debian's short names of licences → those of SPDX; the GNU ones follow a rule."""
GNU = re.compile(r"^(?P<family>a?gpl|lgpl|gfdl)-(?P<version>\d(?:\.\d)?)(?P<later>\+)?$")
COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9][A-Za-z0-9.+-]*[A-Za-z0-9+])")
FIELD = re.compile(r"^License:[ \t]*(\S.*)$", re.MULTILINE | re.IGNORECASE)
DEP5 = re.compile(r"^Format(-Specification)?:", re.MULTILINE | re.IGNORECASE)
UNKNOWN = "NOASSERTION"
LICENCE_TEXT = "The text is in the image: /usr/share/doc/PACKAGE/copyright of each package that names this licence."
FORMAT = "${Package} ${Version} ${Architecture} ${source:Package}\n"


@dataclass(frozen=True)
class Part:
    """One Debian package of an image. ``licence``: an SPDX expression."""

    name: str
    version: str
    arch: str
    source: str
    licence: str

    @property
    def purl(self) -> str:
        """The package as a URL (package-url specification, type deb)."""
        version = self.version.replace(":", "%3A").replace("+", "%2B").replace("~", "~")
        return f"pkg:deb/debian/{self.name.replace('+', '%2B')}@{version}?arch={self.arch}"


def read_parts(tree: Path, runner: Runner) -> list[Part]:
    """The packages installed in ``tree``, by name."""
    listed = runner.run(["dpkg-query", f"--admindir={tree}/var/lib/dpkg", "-W", "-f", FORMAT]).stdout
    rows = sorted(line.split(" ") for line in listed.splitlines() if line.count(" ") == 3)
    return [Part(name, ver, arch, source, read_licence(tree, name)) for name, ver, arch, source in rows]


def used_parts(parts: Sequence[Part], tree: Path, taken: Path) -> list[Part]:
    """Those of which at least one file of ``tree`` was taken into the folder ``taken``; a link there is busybox's."""
    info = tree / "var/lib/dpkg/info"

    def used(part: Part) -> bool:
        listed = next(
            (path for path in (info / f"{part.name}.list", info / f"{part.name}:{part.arch}.list") if path.is_file()),
            None,
        )
        names = listed.read_text().splitlines() if listed else []
        return any((file := taken / name.lstrip("/")).is_file() and not file.is_symlink() for name in names)

    return [part for part in parts if used(part)]


def read_licence(tree: Path, package: str) -> str:
    """What the package's copyright file declares; ``NOASSERTION`` without one."""
    path = tree / "usr/share/doc" / package / "copyright"
    if not path.is_file() or not path.resolve().is_relative_to(tree.resolve()):
        return UNKNOWN
    return parse_licence(path.read_text(errors="replace"))


def parse_licence(text: str) -> str:
    """The SPDX expression for a copyright file: all that it names, joined by ``AND``."""
    if DEP5.search(text[:2000]):
        found: Iterable[str] = FIELD.findall(text)
    else:
        found = COMMON.findall(text)
    expressions = sorted({expression for name in found if (expression := _expression(name.strip()))})
    joined = " AND ".join(f"({e})" if " OR " in e and len(expressions) > 1 else e for e in expressions)
    return joined or UNKNOWN


def _expression(text: str) -> str:
    """One ``License:`` line, such as ``GPL-2+ or Artistic``."""
    alternatives = [
        " AND ".join(_identifier(word) for word in re.split(r",? and |, ", one) if word.strip(" ,"))
        for one in re.split(r",? or |\|", text)
        if one.strip(" ,")
    ]
    if len(alternatives) == 1:
        return alternatives[0]
    return " OR ".join(f"({one})" if " AND " in one else one for one in alternatives)


def _identifier(name: str) -> str:
    plain = name.strip(" ,.()").lower()
    plain = re.sub(r"\.0(?=\+?$)", "", plain) if plain.startswith(("gpl", "lgpl", "agpl")) else plain
    if match := GNU.match(plain):
        version = match["version"] if "." in match["version"] else f"{match['version']}.0"
        family = match["family"].upper()
        version = "1.1" if (family, version) == ("GFDL", "1.0") else version
        return f"{family}-{version}-{'or-later' if match['later'] else 'only'}"
    if plain in SPDX_NAMES:
        return SPDX_NAMES[plain]
    return "LicenseRef-" + (re.sub(r"[^A-Za-z0-9.-]+", "-", name.strip(" ,.()")).strip("-") or "unnamed")


def render_sbom(name: str, parts: Sequence[Part], tool: str) -> str:
    """The document, the same for the same parts. :param tool: name and version of what made it."""
    rows = [_package(part) for part in parts]
    digest = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([name, [part.purl for part in parts]]))
    named = sorted({ref for part in parts for ref in re.findall(r"LicenseRef-[A-Za-z0-9.-]+", part.licence)})
    created = datetime.fromtimestamp(int(EPOCH), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:uuid:{digest}",
        "creationInfo": {"created": created, "creators": [f"Tool: {tool}"]},
        "packages": rows,
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": row["SPDXID"]}
            for row in rows
        ],
        "hasExtractedLicensingInfos": [
            {
                "licenseId": ref,
                "name": ref.removeprefix("LicenseRef-"),
                "extractedText": LICENCE_TEXT,
            }
            for ref in named
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _package(part: Part) -> dict[str, object]:
    return {
        "SPDXID": "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", lambda match: f"-{ord(match[0]):x}-", part.name),
        "name": part.name,
        "versionInfo": part.version,
        "sourceInfo": f"built from the source package {part.source}",
        "supplier": "Organization: Debian",
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": part.licence,
        "copyrightText": UNKNOWN,
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": part.purl}
        ],
    }
