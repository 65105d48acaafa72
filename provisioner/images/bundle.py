"""Everything that a site without any mirror needs, in one file: ``image export --bundle``.

A tar with the source tree, the images, what builds can reuse (layers, packages), wheels of this program and of what it
stands on, and the Debian packages of a seed as an apt repository. ``source/seed/bootstrap --bundle`` takes it in.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from provisioner.errors import HostError, ImageError
from provisioner.events import Event, Observer
from provisioner.images.cache import save_cache
from provisioner.images.catalogue import Catalogue
from provisioner.images.exchange import export_image, fresh_file
from provisioner.images.workshop import Workshop, read_sources
from provisioner.model.image import Image
from provisioner.system.run import Runner
from provisioner.trust.keys import SiteKeys

SOURCE, CACHE, IMAGES, WHEELS, PACKAGES = "source", "cache", "images", "wheels", "packages"
LEFT_OUT = (".git", ".tox", "__pycache__", "*.egg-info", ".*_cache", "build")
LISTS = ("packages", "packages.lab")
BUILDERS = ("setuptools>=66", "wheel")
"""What pip needs to install the program from its source."""
SECONDS = 1800


def write_bundle(
    target: Path,
    images: Sequence[Image],
    used: Sequence[Path],
    *,
    catalogue: Catalogue,
    keys: SiteKeys,
    workshop: Workshop,
    work: Path,
    runner: Runner,
    observer: Observer,
) -> None:
    """Write the bundle; whole or not at all.

    :param used: what builds can reuse, below the workshop's state. :param work: an empty folder on the state's disk.
    :raises ImageError: the mirror or the index of Python packages does not answer. :raises OSError: the disk is full.
    """

    def say(what: str) -> None:
        observer(Event("image.bundle", f"bundle: {what}", data={"image": "bundle", "phase": what}))

    say("source, layers and packages of the images")
    shutil.copytree(workshop.source, work / SOURCE, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (work / "sources.list").write_text("".join(f"{source.line()}\n" for source in read_sources(workshop.apt)))
    save_cache(work / CACHE, workshop, used)
    (work / IMAGES).mkdir()
    for image in images:
        export_image(catalogue, image, keys, work / IMAGES / f"{image.id}.tar")
    try:
        say("wheels")
        _collect_wheels(work, runner)
        say("Debian packages of the seed")
        _collect_packages(work, runner)
    except HostError as error:
        raise ImageError(
            "the bundle could not be filled",
            where=error.summary,
            cause=error.cause,
            hint="apt-get update and pip download show whether the mirrors answer; nothing was written",
        ) from error
    say("one file")
    with fresh_file(target) as fresh, tarfile.open(fresh, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(work.iterdir()):
            tar.add(path, path.name)


def _collect_wheels(work: Path, runner: Runner) -> None:
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
        "--wheel-dir",
        work / WHEELS,
    ]
    runner.run([*pip, *BUILDERS, work / SOURCE / "provisioner_agent", work / SOURCE], deadline=SECONDS)
    for folder in (work / SOURCE, work / SOURCE / "provisioner_agent"):  # what building the wheels left
        for path in (*folder.glob("*.egg-info"), folder / "build"):
            shutil.rmtree(path, ignore_errors=True)


def _collect_packages(work: Path, runner: Runner) -> None:
    """The seed's packages with all they depend on, as if nothing were installed, and apt's index of them."""
    folder = work / PACKAGES
    (folder / "partial").mkdir(parents=True)
    lists = [(work / SOURCE / "seed" / name).read_text().splitlines() for name in LISTS]
    names = [word for lines in lists for line in lines if (word := line.partition("#")[0].strip())]
    options = {"Dir::State::status": "/dev/null", "Dir::Cache::archives": folder, "Debug::NoLocking": "1"}
    words: list[str | Path] = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    words += ["-o", "APT::Sandbox::User=root"]
    runner.run(
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", "--download-only", *words, *names],
        deadline=SECONDS,
    )
    shutil.rmtree(folder / "partial")
    (folder / "lock").unlink(missing_ok=True)
    index = [_describe(path, runner) for path in sorted(folder.glob("*.deb"))]
    (folder / "Packages").write_text("\n".join(index))


def _describe(package: Path, runner: Runner) -> str:
    """One paragraph of a ``Packages`` index (deb822(5), apt's repository format)."""
    control = runner.run(["dpkg-deb", "-f", package]).stdout.rstrip("\n")
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    return f"{control}\nFilename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n"
