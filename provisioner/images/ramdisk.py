"""Packs the deploy ramdisk out of a built tree: a kernel, and an initramfs with what the agent needs, nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from provisioner.errors import ImageError
from provisioner.images.cpio import write_cpio
from provisioner.system.run import Runner

MERGED = ("bin", "sbin", "lib", "lib64")
STDLIB = "usr/lib/python3.11"
UNUSED_LIBRARY = frozenset(
    {
        "asyncio", "config-3.11-x86_64-linux-gnu", "curses", "dbm", "distutils", "ensurepip", "idlelib",
        "lib2to3", "multiprocessing", "pydoc.py", "pydoc_data", "sqlite3", "test", "tkinter", "turtle.py",
        "turtledemo", "unittest", "venv", "wsgiref", "xml", "xmlrpc",
    }
)  # fmt: skip
UNUSED_EXTENSIONS = (
    "_codecs_", "_ctypes_test", "_sqlite3", "_curses", "_tkinter", "_dbm", "_asyncio", "_multiprocessing",
    "_decimal", "_test", "_lsprof", "_xx", "readline", "audioop", "_elementtree", "nis", "ossaudiodev",
)  # fmt: skip
LISTED = ("order", "builtin", "builtin.modinfo")


def pack_ramdisk(tree: Path, element: Path, agent: Path, stage: Path, out: Path, *, runner: Runner) -> None:
    """Write ``out/kernel`` and ``out/initramfs``.

    :param tree: the built root file system. :param element: folder with ``init``, ``programs``, ``modules``.
    :param agent: folder of the package ``provisioner_agent``. :param stage: an empty folder to work in.
    """
    kernels = sorted((tree / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise ImageError("the ramdisk's tree has no kernel", where=str(tree / "boot"))
    version = kernels[-1].name.removeprefix("vmlinuz-")
    for name in MERGED:
        (stage / name).symlink_to(f"usr/{name}")
        (stage / "usr" / name).mkdir(parents=True, exist_ok=True)
    for name in ("proc", "sys", "run", "tmp", "mnt", "etc", "root", "var"):
        (stage / name).mkdir()
    _copy_programs(tree, stage, _words(element / "programs"), runner)
    _copy_python(tree, stage, agent, runner)
    _copy_modules(tree, stage, version, _words(element / "modules"), runner)
    shutil.copy2(element / "init", stage / "init")
    (stage / "init").chmod(0o755)
    for name in ("passwd", "group"):
        shutil.copy2(tree / "etc" / name, stage / "etc" / name)
    (stage / "etc" / "mtab").symlink_to("/proc/self/mounts")
    runner.run(["chroot", stage, "/bin/busybox", "--install", "-s", "/usr/bin"])
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(kernels[-1], out / "kernel")
    archive = stage.with_suffix(".cpio")
    with archive.open("wb") as file:
        write_cpio(stage, file)
    runner.run(["zstd", "-q", "-T0", "-12", archive, "-o", out / "initramfs"], deadline=300)


def _words(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def _copy(tree: Path, stage: Path, name: str) -> None:
    """Copy a file and, if it is a link, what it leads to; folders that are links to ``usr`` are followed."""
    path = tree / name.lstrip("/")
    resolved = path.parent.resolve() / path.name
    if not resolved.is_relative_to(tree.resolve()):  # an absolute link of the tree leads into the tree
        resolved = tree / str(resolved).lstrip("/")
    if not os.path.lexists(resolved):
        raise ImageError(f"the ramdisk's tree has no {name}", hint="name its package in package-installs.yaml")
    inside = stage / resolved.relative_to(tree.resolve())
    if inside.exists() or inside.is_symlink():
        return
    inside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(resolved, inside, follow_symlinks=False)
    if resolved.is_symlink():
        target = resolved.readlink()
        _copy(tree, stage, str(target if target.is_absolute() else inside.relative_to(stage).parent / target))


def _copy_programs(tree: Path, stage: Path, programs: Iterable[str], runner: Runner) -> None:
    wanted = list(programs)
    for name in wanted:
        _copy(tree, stage, name)
    for library in _libraries(tree, wanted, runner):
        _copy(tree, stage, library)


def _libraries(tree: Path, files: Iterable[str], runner: Runner) -> set[str]:
    """The shared libraries of programs and libraries, by the tree's own ``ldd``."""
    found = set()
    for line in runner.run(["chroot", tree, "ldd", *files], check=False).stdout.splitlines():
        words = line.split()
        found |= {word for word in words if word.startswith("/") and not word.endswith(":")}
    return found


def _copy_python(tree: Path, stage: Path, agent: Path, runner: Runner) -> None:
    source, target = tree / STDLIB, stage / STDLIB

    def unused(folder: str, names: list[str]) -> set[str]:
        top = Path(folder) == source
        skipped = {name for name in names if top and name in UNUSED_LIBRARY}
        return skipped | {name for name in names if name.startswith(UNUSED_EXTENSIONS) and "lib-dynload" in folder}

    shutil.copytree(source, target, symlinks=True, ignore=unused)
    extensions = [f"/{path.relative_to(stage)}" for path in sorted((target / "lib-dynload").glob("*.so"))]
    for library in _libraries(tree, extensions, runner):
        _copy(tree, stage, library)
    (stage / "usr/bin/python3").symlink_to("python3.11")
    package = stage / "usr/lib/python3.11/provisioner_agent"
    for room in ("", "protocol", "ramdisk"):
        (package / room).mkdir(parents=True, exist_ok=True)
        for path in sorted((agent / room).glob("*.py")):
            shutil.copyfile(path, package / room / path.name)
    # Compiling at start-up costs seconds on a slow processor; the sources' times do not matter in an archive.
    compiling = ["-m", "compileall", "-q", "-f", "--invalidation-mode=unchecked-hash", f"/{STDLIB}"]
    runner.run(["chroot", stage, "/usr/bin/python3.11", *compiling], deadline=300, check=False)


def _copy_modules(tree: Path, stage: Path, version: str, names: Iterable[str], runner: Runner) -> None:
    source = tree / "usr/lib/modules" / version
    target = stage / "usr/lib/modules" / version
    needs: dict[str, list[str]] = {}
    for line in (source / "modules.dep").read_text().splitlines():
        module, _, others = line.partition(":")
        needs[module] = others.split()
    chosen: set[str] = set()
    for name in names:
        prefix = f"kernel/{name}"
        hits = [module for module in needs if module == prefix or module.startswith(f"{prefix}/")]
        for module in hits:
            chosen |= {module, *needs[module]}
    for module in sorted(chosen):
        (target / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / module, target / module)
    for word in LISTED:
        shutil.copyfile(source / f"modules.{word}", target / f"modules.{word}")
    runner.run(["depmod", "-b", stage, version])
