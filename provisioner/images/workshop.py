"""What a build works with: where it reads and writes, and the host's own package sources and certificates."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from provisioner.events import Event, Observer
from provisioner.images.debian import RELEASE
from provisioner.images.sources import Source, parse_sources
from provisioner.model.role import ImageSpec

RAMDISK = "ramdisk"
RAMDISK_ELEMENT = "provisioner-ramdisk"
MIRROR_LIST = "mirror+file:"


@dataclass(frozen=True)
class BuildSpec:
    """An image to build. ``name`` is the role's, or ``ramdisk``."""

    name: str
    spec: ImageSpec


RAMDISK_SPEC = BuildSpec(RAMDISK, ImageSpec(elements=(RAMDISK_ELEMENT,)))


@dataclass(frozen=True)
class Workshop:
    """Where builds read and write.

    :param source: holds ``elements/`` and ``templates/``. :param agent: folder of ``provisioner_agent``.
    :param state: layers, trees and their records; the catalogue has its own folder. :param pool: packages that were
        fetched. :param lock: file of package versions; None for the newest of each.
    :param in_memory: whether to work in memory where there is enough; ``scratch`` is then where that is mounted.
    """

    source: Path
    agent: Path
    elements_path: tuple[Path, ...]
    state: Path
    pool: Path
    lock: Path | None
    apt: tuple[Path, ...] = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
    ca_bundle: Path | None = None
    in_memory: bool = False
    scratch: Path | None = None

    @property
    def search(self) -> tuple[Path, ...]:
        """Folders of elements, ours first."""
        return (self.source / "elements", *self.elements_path)

    @property
    def work(self) -> Path:
        """Where trees are unpacked and built; nothing there outlives the build."""
        return self.scratch or self.state / "work"

    @property
    def logs(self) -> Path:
        """What diskimage-builder said when each layer and image was last built."""
        return self.state / "logs"

    def record(self, name: str) -> Path:
        """What the newest image of ``name`` was made from."""
        return self.state / "records" / f"{name}.json"


def read_sources(places: Sequence[Path]) -> tuple[Source, ...]:
    """The Debian sources of this host."""
    paths = [path for place in places for path in (sorted(place.glob("*")) if place.is_dir() else [place])]
    files = {str(path): path.read_text() for path in paths if path.suffix in {".list", ".sources"} and path.is_file()}
    return tuple(_resolve_mirror(source) for source in parse_sources(files, RELEASE))


def _resolve_mirror(source: Source) -> Source:
    """``mirror+file:PATH``, as Debian's images for clouds have it, names a list that a chroot cannot see."""
    if not source.uri.startswith(MIRROR_LIST):
        return source
    path = Path("/" + source.uri.removeprefix(MIRROR_LIST).lstrip("/"))
    words = [line.split()[0] for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]
    return Source(words[0], source.suite, source.components) if words else source


def host_ca_bundle() -> Path | None:
    """The CA certificates this host trusts: a chroot knows none of them by itself."""
    named = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    return Path(named) if Path(named).is_file() else None


@contextmanager
def timed(observer: Observer, name: str, phase: str) -> Iterator[None]:
    start = monotonic()
    yield
    seconds = monotonic() - start
    told = {"image": name, "phase": phase, "seconds": seconds}
    observer(Event("image.timing", f"{name}: {phase} {seconds:.1f} s", data=told))
