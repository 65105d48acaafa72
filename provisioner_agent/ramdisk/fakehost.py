"""A node for trials: what the kernel and programs say is given, disks are files, and nobody ever waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from provisioner_agent.ramdisk.host import LIMIT, BlockFile, FileBlocks, Finished, LinuxHost
from provisioner_agent.ramdisk.problem import OrderFailed

Program = Callable[[Sequence[str], str], Finished]
"""(argv, standard input) → how it ended."""


class FakeHost(LinuxHost):
    """``zstd`` and files below ``folder`` are real; nothing else of this machine is read or changed.

    :param texts: what files of the kernel hold; folders and existence follow from them and from ``links``.
    ``devices`` maps a device to the regular file that stands for it, ``trees`` to the folder that mounting it shows.
    ``sizes``: (bytes, sector) of a device that is not as large as its file.
    ``programs`` answers by the first word; what is not there ends well and says nothing. What the kernel does itself
    (``mount``, ``umount``, ``grow``) is found among the programs too.
    """

    def __init__(self, folder: Path, texts: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.texts = dict(texts or {})
        self.links: dict[str, str] = {}
        self.devices: dict[str, Path] = {}
        self.sizes: dict[str, tuple[int, int]] = {}
        self.trees: dict[str, Path] = {}
        self.programs: dict[str, Program] = {}
        self.runs: list[tuple[str, ...]] = []
        self.inputs: list[str] = []
        self.said: list[str] = []
        self.time = 1_700_000_000.0
        self.slept: list[float] = []
        self.off = False
        self.jumped = False
        self.tables = b""
        self.frames: dict[str, bytes] = {}
        self.kvm = False
        self.bmc: dict[tuple[int, int, bytes], bytes] | None = None
        self._folders = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def run(self, argv: Sequence[str], *, stdin: str = "", limit: float = LIMIT) -> Finished:
        self.runs.append(tuple(argv))
        self.inputs.append(stdin)
        if argv[0] == "mount" and argv[-2] in self.trees:
            Path(argv[-1]).rmdir()
            Path(argv[-1]).symlink_to(self.trees[argv[-2]])
        elif argv[0] == "umount" and Path(argv[-1]).is_symlink():
            Path(argv[-1]).unlink()
            Path(argv[-1]).mkdir()
        program = self.programs.get(argv[0])
        return program(argv, stdin) if program else Finished(0)

    def stream(self, argv: Sequence[str], limit: float) -> Iterator[str]:
        finished = self.run(argv, limit=limit)
        yield from finished.output.splitlines()
        if finished.code:
            raise OrderFailed(f"{argv[0]} ended with exit code {finished.code}", finished.said)

    def read_text(self, path: str) -> str:
        return self.texts.get(path, "").strip()

    def names(self, folder: str) -> list[str]:
        top = f"{folder}/"
        known = [*self.texts, *self.links]
        return sorted({path.removeprefix(top).split("/")[0] for path in known if path.startswith(top)})

    def exists(self, path: str) -> bool:
        if self._is_own(path):
            return super().exists(path)
        return path in self.devices or path in self.texts or bool(self.names(path))

    def real(self, path: str) -> str:
        return self.links.get(path, path)

    def read_tables(self, path: str) -> bytes:
        return self.tables

    def listen(self, names: Sequence[str], ethertype: int, seconds: float) -> dict[str, bytes]:
        self.time += seconds
        return {name: frame for name, frame in self.frames.items() if name in names}

    def ask_bmc(self, function: int, command: int, data: bytes) -> bytes | None:
        return None if self.bmc is None else self.bmc.get((function, command, data), b"\xc1")

    def makes_machine(self) -> bool:
        return self.kvm

    def machine(self) -> str:
        return "x86_64"

    def cpus(self) -> int:
        return 2

    def make_folder(self) -> str:
        self._folders += 1
        made = self.folder / f"mount-{self._folders}"
        made.mkdir()
        return str(made)

    def write_file(self, path: str, data: bytes, mode: int) -> None:
        if path.startswith("/run/"):
            self.texts[path] = data.decode()
            return
        assert self._is_own(path), f"{path} is outside of {self.folder}"
        super().write_file(path, data, mode)

    def ensure_folder(self, path: str) -> None:
        assert self._is_own(path), f"{path} is outside of {self.folder}"
        super().ensure_folder(path)

    def open_block(self, path: str) -> BlockFile:
        if path not in self.devices:
            raise FileNotFoundError(path)
        return FileBlocks(str(self.devices[path]))

    def measure(self, device: str) -> tuple[int, int]:
        if device in self.sizes:
            return self.sizes[device]
        if device not in self.devices:
            raise FileNotFoundError(device)
        return self.devices[device].stat().st_size, 512

    def mount(self, device: str, folder: str, filesystem: str, *, read_only: bool) -> None:
        options = [*(["-t", filesystem] if filesystem else []), *(["-o", "ro"] if read_only else [])]
        self._must("mount", *options, device, folder)

    def unmount(self, folder: str) -> None:
        self._must("umount", folder)

    def grow(self, folder: str, size: int) -> None:
        self._must("grow", folder, str(size))

    def _must(self, *argv: str) -> None:
        done = self.run(argv)
        if done.code:
            raise OSError(done.code, done.said)

    def now(self) -> float:
        return self.time

    def set_clock(self, seconds: float) -> None:
        self.time = seconds

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def power_off(self) -> None:
        self.off = True

    def jump(self) -> None:
        self.jumped = True

    def _is_own(self, path: str) -> bool:
        return Path(path).is_relative_to(self.folder)
