"""The door to the instance: its files, its programs, its clock. The fake beside it lives in memory.

All paths are absolute as the instance sees them; the real door may be rooted in another folder, for trials.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT_OUTPUT = 64 * 1024
SLOW_SECONDS, AGAIN_SECONDS = 5.0, 300.0
"""After which it is worth a word what still runs; and again, before the server takes who said it for dead."""
UNFINISHED = ".unfinished"
"""Names of files that are being written end with it."""
SYSTEMD = Path("/run/systemd/system")
"""There while systemd is the first process (sd_booted(3))."""


@dataclass(frozen=True)
class FileState:
    """A file as it stands: content, permission bits and the names of owner and group."""

    data: bytes
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"


@dataclass(frozen=True)
class Finished:
    """How a program ended. ``output`` is the end of both its outputs, at most 64 KiB."""

    code: int
    output: str
    timed_out: bool = False


class Host(Protocol):
    @property
    def owns(self) -> bool:
        """Whether owners of files are kept; if not, :meth:`read` calls each owner root."""

    @property
    def has_units(self) -> bool:
        """Whether systemd runs here, and its units are this instance's and may be restarted."""

    @property
    def processors(self) -> int:
        """How many this instance may use; at least 1."""

    def read(self, path: str) -> FileState | None:
        """A file; None when there is none, but maybe a folder, or a file where a folder should be."""

    def write(self, path: str, state: FileState) -> None:
        """Replace a file at once and flush it to the disk; a crash leaves the old one or the new one.

        An empty folder gives way to it.
        """

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all it holds; nothing there is good too."""

    def sweep(self, path: str) -> None:
        """Remove what writes of this file that were cut off left beside it; flush what became of its name."""

    def hold(self, path: str, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold the lock of that name until the end of the block, or of this process; whether it is held, since without
        ``wait`` somebody else may have it."""

    def tree(self, folder: str) -> dict[str, str]:
        """All regular files below a folder: text by relative path."""

    def scripts(self, folder: str) -> list[str]:
        """Names of the executable regular files in a folder, sorted; none when there is no folder."""

    def real(self, path: str) -> str:
        """The path by which programs find the file."""

    def run(
        self,
        argv: Sequence[str],
        *,
        limit: float,
        env: Mapping[str, str] | None = None,
        slow: Callable[[], None] | None = None,
    ) -> Finished:
        """Run a program with nothing on its standard input; after ``limit`` seconds it and its children are killed.

        :param slow: called when it has run for ``SLOW_SECONDS``, and each ``AGAIN_SECONDS`` while it runs on.
        """

    def boot_id(self) -> str:
        """Differs after each boot of the kernel."""

    def root_argument(self) -> str:
        """The root file system that the kernel was told to use, as it was told (``PARTUUID=...``)."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class LinuxHost:
    """The real door. Below another root than ``/``, or without being root, files keep this process's owner."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    @property
    def owns(self) -> bool:
        return os.geteuid() == 0 and self.root == Path("/")

    @property
    def has_units(self) -> bool:
        return self.owns and SYSTEMD.is_dir()

    @property
    def processors(self) -> int:
        return len(os.sched_getaffinity(0))

    def _at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def real(self, path: str) -> str:
        return str(self._at(path))

    def read(self, path: str) -> FileState | None:
        file = self._at(path)
        try:
            stat = file.stat()
            data = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        if not self.owns:
            return FileState(data, stat.st_mode & 0o7777)
        return FileState(data, stat.st_mode & 0o7777, _user_name(stat.st_uid), _group_name(stat.st_gid))

    def write(self, path: str, state: FileState) -> None:
        file = self._at(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _open_new(file.parent, f".{file.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(state.data)
                if self.owns:
                    os.fchown(stream.fileno(), _user_id(state.owner), _group_id(state.group))
                os.fchmod(stream.fileno(), state.mode)
                stream.flush()
                os.fsync(stream.fileno())
            if file.is_dir() and not file.is_symlink():
                file.rmdir()
            os.replace(temporary, file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush_folder(file.parent)

    def remove(self, path: str) -> None:
        file = self._at(path)
        if file.is_dir() and not file.is_symlink():
            _remove_tree(file)
        else:
            with suppress(FileNotFoundError, NotADirectoryError):
                file.unlink()
        if file.parent.is_dir():
            _flush_folder(file.parent)

    def sweep(self, path: str) -> None:
        file = self._at(path)
        if not file.parent.is_dir():
            return
        for beside in list(file.parent.iterdir()):
            if beside.name.startswith(f".{file.name}.") and beside.name.endswith(UNFINISHED):
                beside.unlink(missing_ok=True)
        _flush_folder(file.parent)

    @contextmanager
    def hold(self, path: str, *, wait: bool = True) -> Iterator[bool]:
        file = self._at(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)  # the disk may be read-only by now
        try:
            yield _lock(handle, wait)
        finally:
            os.close(handle)

    def tree(self, folder: str) -> dict[str, str]:
        top = self._at(folder)
        return {str(p.relative_to(top)): p.read_text() for p in sorted(top.rglob("*")) if p.is_file()}

    def scripts(self, folder: str) -> list[str]:
        top = self._at(folder)
        if not top.is_dir():
            return []
        return sorted(p.name for p in top.iterdir() if p.is_file() and os.access(p, os.X_OK))

    def run(
        self,
        argv: Sequence[str],
        *,
        limit: float,
        env: Mapping[str, str] | None = None,
        slow: Callable[[], None] | None = None,
    ) -> Finished:
        base = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root"}
        with _open_unnamed() as output:  # a daemon that a script leaves behind may hold a pipe open
            try:
                process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=base | dict(env or {}),
                    cwd=self.root,
                    start_new_session=True,
                )
            except OSError as error:
                return Finished(127, f"{argv[0]}: {error.strerror}")
            late, end = False, time.monotonic() + limit
            try:
                pause = SLOW_SECONDS
                while slow is not None and time.monotonic() + pause < end and not _ends(process, pause):
                    slow()
                    pause = AGAIN_SECONDS
                code = process.wait(timeout=max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                code, late = process.wait(), True
            size = output.seek(0, os.SEEK_END)
            output.seek(max(0, size - KEPT_OUTPUT))
            return Finished(code, output.read().decode(errors="replace"), late)

    def boot_id(self) -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def root_argument(self) -> str:
        words = Path("/proc/cmdline").read_text().split()
        return next((word.partition("=")[2] for word in reversed(words) if word.startswith("root=")), "")

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it ends within these seconds."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _open_new(folder: Path, prefix: str) -> tuple[int, Path]:
    """A new file of a name that nobody else has; :mod:`tempfile` would cost the agent half a megabyte for ever."""
    path = folder / f"{prefix}{secrets.token_hex(8)}{UNFINISHED}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), path


def _open_unnamed() -> IO[bytes]:
    """A file that ends when it is closed."""
    handle, path = _open_new(Path(os.environ.get("TMPDIR", "/tmp")), "provisioner-agent-")  # noqa: S108 - O_EXCL
    path.unlink()
    return os.fdopen(handle, "w+b")


def _lock(handle: int, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _remove_tree(folder: Path) -> None:
    """A folder with all that it holds; where links lead to stays."""
    for path in list(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            _remove_tree(path)
        else:
            path.unlink()
    folder.rmdir()


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user_id(name: str) -> int:
    return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid


def _group_id(name: str) -> int:
    return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid


class Killed(BaseException):
    """The process was killed, as tests play it."""


Script = Callable[[tuple[str, ...], Mapping[str, str]], Finished]


class FakeHost:
    """An instance in memory. ``programs`` answers what is run, by the first word; what is not there succeeds.

    ``slow``: what is run for long. ``kill_before`` counts down on each write and removal; at zero the process is
    :class:`Killed` before it.
    """

    def __init__(self, files: Mapping[str, FileState] | None = None) -> None:
        self.owns = True
        self.has_units = True
        self.processors = 1
        self.files: dict[str, FileState] = dict(files or {})
        self.programs: dict[str, Script] = {}
        self.runs: list[tuple[tuple[str, ...], dict[str, str]]] = []
        self.locks: set[str] = set()
        self.boot = "boot-1"
        self.time = 1_700_000_000.0
        self.slow: set[tuple[str, ...]] = set()
        self.kill_before: int | None = None
        self.on_sleep: Callable[[float], None] | None = None

    def _step(self) -> None:
        if self.kill_before is not None:
            self.kill_before -= 1
            if self.kill_before < 0:
                raise Killed

    def read(self, path: str) -> FileState | None:
        return self.files.get(path)

    def write(self, path: str, state: FileState) -> None:
        self._step()
        self.files[path] = state

    def remove(self, path: str) -> None:
        self._step()
        for name in [name for name in self.files if name == path or name.startswith(f"{path}/")]:
            del self.files[name]

    def sweep(self, path: str) -> None:
        """A write in memory is never half done."""

    @contextmanager
    def hold(self, path: str, *, wait: bool = True) -> Iterator[bool]:
        if path in self.locks:
            assert not wait, f"{path} is waited for by the one thread that there is"
            yield False
            return
        self.locks.add(path)
        try:
            yield True
        finally:
            self.locks.remove(path)

    def tree(self, folder: str) -> dict[str, str]:
        top = f"{folder}/"
        return {
            path.removeprefix(top): state.data.decode() for path, state in self.files.items() if path.startswith(top)
        }

    def scripts(self, folder: str) -> list[str]:
        found = (path.removeprefix(f"{folder}/") for path, state in self.files.items() if state.mode & 0o100)
        return sorted(name for name in found if "/" not in name)

    def real(self, path: str) -> str:
        return path

    def run(
        self,
        argv: Sequence[str],
        *,
        limit: float,
        env: Mapping[str, str] | None = None,
        slow: Callable[[], None] | None = None,
    ) -> Finished:
        words = tuple(argv)
        self.runs.append((words, dict(env or {})))
        if slow is not None and words in self.slow:
            slow()
        program = self.programs.get(words[0])
        return program(words, dict(env or {})) if program else Finished(0, "")

    def boot_id(self) -> str:
        return self.boot

    def root_argument(self) -> str:
        return "PARTUUID=1"

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        if self.on_sleep is not None:
            self.on_sleep(seconds)
