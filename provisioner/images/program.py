"""This program itself as a part of an image: an environment of Python that has it and what it needs to serve.

It is made of what runs here: the distributions of the environment in which the build runs, as their makers' files are,
without any that only building and tests need. So nothing is fetched, and what was tried here is what runs there.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from provisioner.errors import ImageError
from provisioner.images.inputs import IGNORED, folder_inputs
from provisioner.images.workshop import Workshop
from provisioner.system.run import Runner

ELEMENT = "undercloud"
"""Whose images have the program."""
PLACE = "opt/provisioner"
UNIT = "provisioner.service"
SOURCES = ("elements", "hardware", "roles", "templates")
"""What of the source a service needs beside the program: what roles and values there are."""
LEFT_OUT = frozenset({"provisioner-agent", "diskimage-builder"})
"""Ours, whose files come from the source; and what only building images needs, with all that nothing else asks for."""
KEPT = frozenset({"METADATA", "entry_points.txt", "LICENSE", "LICENSE.txt", "COPYING"})
"""Of a distribution's own folder; the rest says how and from where it was installed here."""
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")
EXTRA = re.compile(r";.*\bextra\b")
SECONDS = 600.0


def program_inputs(workshop: Workshop) -> dict[str, str]:
    """All that decides about the program in an image, by name."""
    inputs = folder_inputs("program", workshop.source / "provisioner")
    for name in SOURCES:
        inputs |= folder_inputs(f"program/{name}", workshop.source / name)
    inputs |= folder_inputs("program/seed", workshop.source / "seed", (UNIT,))
    inputs["program/python"] = python_version()
    return inputs | {f"program/{one.name}": one.version for one in find_distributions(workshop.source)}


def python_version() -> str:
    """Of the language: compiled modules of one do not run on another."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def find_distributions(source: Path) -> list[Distribution]:
    """What this program needs to serve, without itself, by name.

    :param source: whose ``setup.cfg`` says what that is. :raises ImageError: something of it is not installed here.
    """
    setup = ConfigParser()
    setup.read(source / "setup.cfg")
    found: dict[str, Distribution] = {}

    def visit(wanted: str, by: str) -> None:
        match = NAME.match(wanted)
        key = "" if match is None else re.sub(r"[-_.]+", "-", match[0]).lower()
        if match is None or EXTRA.search(wanted) or key in found or key in LEFT_OUT:
            return
        try:
            found[key] = one = distribution(match[0])
        except PackageNotFoundError:
            if not by:
                hint = "seed/bootstrap installs it"
                raise ImageError(f"{match[0]} is not installed", where=sys.prefix, hint=hint) from None
            return  # asked for on another system, or by another version of Python
        for needed in one.requires or ():
            visit(needed, key)

    for wanted in setup["options"]["install_requires"].split("\n"):
        visit(wanted.strip(), "")
    return [found[key] for key in sorted(found)]


def bring_program(workshop: Workshop, tree: Path, runner: Runner) -> None:
    """Put the program into a tree that has a place for it; nothing is enabled by that.

    :raises ImageError: the tree has another version of Python than this environment. :raises OSError: the disk is full.
    """
    target = tree / PLACE
    if not target.is_dir():
        return
    python = f"python{python_version()}"
    if not (tree / "usr/bin" / python).exists():
        raise ImageError(
            "the image has another Python than this environment",
            where=f"/usr/bin/{python}",
            cause="compiled modules of this one do not run there",
            hint="build on Debian 12, in an environment of its own python3 (seed/bootstrap)",
        )
    packages = target / "lib" / python / "site-packages"
    packages.mkdir(parents=True)
    for one in find_distributions(workshop.source):
        for path in _files(one):
            source, place = Path(str(one.locate_file(path))), packages / path
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
    ignore = shutil.ignore_patterns(*(f"*{name}" for name in IGNORED))
    shutil.copytree(workshop.source / "provisioner", packages / "provisioner", ignore=ignore)
    shutil.copytree(workshop.agent, packages / "provisioner_agent", ignore=ignore)
    for name in SOURCES:
        shutil.copytree(workshop.source / name, target / "share" / name, ignore=ignore, symlinks=True)
    _write_commands(target, python)
    text = (workshop.source / "seed" / UNIT).read_text().replace("@PROVISIONER@", f"/{PLACE}/bin/provisioner")
    (tree / "etc/systemd/system" / UNIT).write_text(text)
    _compile(packages, tree, runner)


def _files(one: Distribution) -> Iterator[str]:
    """The files of a distribution, below the folder of packages."""
    for path in one.files or ():
        parts = path.parts
        own = parts[0].endswith(".dist-info") and path.name not in KEPT
        if parts[0] in ("..", "/") or "__pycache__" in parts or own:
            continue
        if path.suffix in (".pth", ".pyc"):  # compiled modules are made in the tree, and virtualenv misnames them here
            continue
        yield str(path)


def _write_commands(target: Path, python: str) -> None:
    (target / "bin").mkdir()
    (target / "bin" / "python3").symlink_to(f"/usr/bin/{python}")
    (target / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    command = target / "bin" / "provisioner"
    command.write_text(f"#!/{PLACE}/bin/python3\nfrom provisioner.cli.main import main\n\nmain()\n")
    command.chmod(0o755)
    link = target.parents[1] / "usr/local/bin/provisioner"
    link.symlink_to(f"/{PLACE}/bin/provisioner")


def _compile(packages: Path, tree: Path, runner: Runner) -> None:
    """To what Python would make of the modules at their first use; by hash, since times differ between builds."""
    argv: list[str | Path] = [sys.executable, "-m", "compileall", "-q", "-j", "1"]
    argv += ["--invalidation-mode", "unchecked-hash", "-s", tree, "-p", "/", packages]
    runner.run(argv, env={"PYTHONHASHSEED": "0"}, deadline=SECONDS, check=False)  # some ship modules for other versions
