"""The host's own Debian package sources: what builds install from, so that no mirror is named anywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.errors import ImageError

KEYRING = "debian-archive"
POCKETS = ("", "-updates", "-security")


@dataclass(frozen=True)
class Source:
    """One package source, as ``sources.list(5)`` has them."""

    uri: str
    suite: str
    components: tuple[str, ...]

    def line(self) -> str:
        return f"deb {self.uri} {self.suite} {' '.join(self.components)}"


def parse_sources(files: Mapping[str, str], release: str) -> tuple[Source, ...]:
    """The sources of Debian ``release`` and its updates in the host's files (one-line and deb822 form).

    Entries of other vendors are left out: another suite, or a key that is not Debian's. Only the component main is
    kept.

    :param files: path → text of ``/etc/apt/sources.list`` and ``/etc/apt/sources.list.d/*``.
    :raises ImageError: there is none for the release itself.
    """
    suites = {release + pocket for pocket in POCKETS}
    found: dict[Source, None] = {}
    for path, text in sorted(files.items()):
        entries = _deb822(text) if path.endswith(".sources") else _one_line(text)
        for source, key in entries:
            foreign = key is not None and KEYRING not in key
            if source.suite in suites and "main" in source.components and not foreign:
                found[Source(source.uri, source.suite, ("main",))] = None
    if release not in {source.suite for source in found}:
        raise ImageError(
            f"this host has no package source for Debian {release}",
            where=", ".join(sorted(files)) or "/etc/apt",
            hint=f"add one for the suite {release}, component main, to /etc/apt/sources.list.d",
        )
    return tuple(found)


def _one_line(text: str) -> list[tuple[Source, str | None]]:
    found: list[tuple[Source, str | None]] = []
    for raw in text.splitlines():
        words = raw.partition("#")[0].split()
        if not words or words[0] != "deb":
            continue
        key = None
        rest = words[1:]
        if rest and rest[0].startswith("["):
            end = next((at for at, word in enumerate(rest) if word.endswith("]")), len(rest) - 1)
            options = " ".join(rest[: end + 1]).strip("[] ").split()
            key = next((option.partition("=")[2] for option in options if option.startswith("signed-by=")), None)
            rest = rest[end + 1 :]
        if len(rest) >= 3:
            found.append((Source(rest[0], rest[1], tuple(rest[2:])), key))
    return found


def _deb822(text: str) -> list[tuple[Source, str | None]]:
    found: list[tuple[Source, str | None]] = []
    for fields in _stanzas(text):
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        found += [
            (Source(uri, suite, tuple(fields.get("components", "").split())), fields.get("signed-by"))
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        ]
    return found


def _stanzas(text: str) -> list[dict[str, str]]:
    stanzas: list[dict[str, str]] = [{}]
    name = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            stanzas.append({})
        elif line[0].isspace():
            stanzas[-1][name] = f"{stanzas[-1].get(name, '')} {line.strip()}"
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            stanzas[-1][name] = value.strip()
    return [stanza for stanza in stanzas if stanza]
