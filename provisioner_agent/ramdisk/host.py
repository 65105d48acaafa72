"""The door to the node: its programs, files, block devices and clock. The fake stands in :mod:`.fakehost`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import select
import selectors
import socket
import struct
import subprocess
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from provisioner_agent.ramdisk import kernel
from provisioner_agent.ramdisk.problem import OrderFailed

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C", "HOME": "/root"}
PIPE_BYTES = 1 << 20
ZEROS = bytes(1 << 20)
BLKFLSBUF = 0x1261
BLKZEROOUT = 0x127F
SOL_PACKET, ADD_MEMBERSHIP, MULTICAST, FRAME = 263, 1, 0, 2048
"""packet(7)."""
LLDP_GROUP = bytes.fromhex("0180c200000e0000")
"""The nearest bridge (IEEE 802.1AB, table 7-1), which a network card does not listen to by itself."""
KVM_CREATE_VM = 0xAE01
BMC_DEVICE, BMC_SECONDS = "/dev/ipmi0", 5.0
BMC_ADDRESS = struct.pack("@iHBx", 0x0C, 0x0F, 0)
"""The system interface: type, channel, unit."""
IPMICTL_SEND_COMMAND, IPMICTL_RECEIVE_MSG_TRUNC = 0x8028690D, 0xC030690B
LIMIT = 120.0
"""Seconds a program may take unless its caller knows better."""


@dataclass(frozen=True)
class Finished:
    """How a program ended. 127: it is not there; 124: it was killed because it took too long."""

    code: int
    output: str = ""
    errors: str = ""

    @property
    def said(self) -> str:
        """The last lines of what it wrote, for a cause."""
        lines = [line.strip() for line in (self.errors or self.output).splitlines() if line.strip()]
        return f"exit code {self.code}" + (": " + "; ".join(lines[-4:]) if lines else "")


class BlockFile(Protocol):
    """A partition, open for writing. Offsets and lengths in bytes. Its calls may come from several threads."""

    def read_into(self, offset: int, view: memoryview) -> int:
        """:returns: bytes read; fewer than ``view`` has only at the end. :raises OSError:"""

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data`` and let the kernel begin to bring it to the disk. :raises OSError:"""

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros, by the disk's own command where it has one. :raises OSError:"""

    def flush(self) -> None:
        """Come back when everything is on the disk. :raises OSError:"""

    def forget(self) -> None:
        """Drop what memory holds of it, so that the next read asks the disk."""

    def close(self) -> None: ...


class Decompressor(Protocol):
    """A running ``zstd -dc``: frames in at one end, their data out at the other."""

    def feed(self, data: memoryview) -> bool:
        """:returns: False when the program has ended."""

    def end_input(self) -> None: ...

    def read_into(self, view: memoryview) -> int:
        """:returns: bytes read; fewer than ``view`` has when its output has ended."""

    def kill(self) -> None:
        """End it, whatever it does; called again, nothing."""


class Host(Protocol):
    def say(self, text: str) -> None:
        """One line on the console."""

    def run(self, argv: Sequence[str], *, stdin: str = "", limit: float = LIMIT) -> Finished:
        """Run a program; after ``limit`` seconds it is killed."""

    def stream(self, argv: Sequence[str], limit: float) -> Iterator[str]:
        """The lines of a program as it writes them; after ``limit`` seconds it is killed.

        :raises OrderFailed: it could not be started, or ended badly.
        """

    def read_text(self, path: str) -> str:
        """A file's text, without white space around it; empty when it cannot be read."""

    def names(self, folder: str) -> list[str]:
        """Sorted names in a folder, none when there is no folder."""

    def exists(self, path: str) -> bool: ...

    def real(self, path: str) -> str:
        """The path with all links followed."""

    def read_tables(self, path: str) -> bytes:
        """What the firmware left there; nothing when it left nothing."""

    def listen(self, names: Sequence[str], ethertype: int, seconds: float) -> dict[str, bytes]:
        """The first frame of an Ethernet type that each interface hears; ends when all have heard one."""

    def makes_machine(self) -> bool:
        """Whether the kernel makes a virtual machine when asked (KVM_CREATE_VM)."""

    def ask_bmc(self, function: int, command: int, data: bytes) -> bytes | None:
        """A command to the node's own controller; its answer with the completion code. None: there is none."""

    def machine(self) -> str:
        """The processor architecture as the kernel calls it, ``x86_64``."""

    def cpus(self) -> int: ...

    def make_folder(self) -> str:
        """A new empty folder to mount on."""

    def drop_folder(self, path: str) -> None:
        """Remove an empty folder."""

    def link_target(self, path: str) -> str | None:
        """Where a symbolic link points, None when it is not one."""

    def is_folder(self, path: str) -> bool:
        """Whether it is a folder itself, not a link to one."""

    def ensure_folder(self, path: str) -> None:
        """Make one folder (0755) whose parent exists."""

    def write_file(self, path: str, data: bytes, mode: int) -> None:
        """Replace what is at ``path``, even a link, by a file; flushed to the disk. :raises OSError:"""

    def read_file(self, path: str) -> bytes:
        """:raises OSError:"""

    def open_block(self, path: str) -> BlockFile:
        """:raises OSError:"""

    def measure(self, device: str) -> tuple[int, int]:
        """(its size, its logical sector), in bytes. :raises OSError: it is not there."""

    def mount(self, device: str, folder: str, filesystem: str, *, read_only: bool) -> None:
        """By the kernel alone, since a program for it takes longer. :param filesystem: empty: whichever it is.

        :raises OSError: it cannot be mounted.
        """

    def unmount(self, folder: str) -> None:
        """:raises OSError: it is in use."""

    def grow(self, folder: str, size: int) -> None:
        """Let the ext4 that is mounted there fill ``size`` bytes. :raises OSError:"""

    def decompressor(self) -> Decompressor:
        """:raises OrderFailed: there is no program for it."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def set_clock(self, seconds: float) -> None: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

    def power_off(self) -> None: ...

    def jump(self) -> None:
        """Give way to the kernel that was loaded (kexec(8)); comes back only if that fails."""


def run_checked(host: Host, argv: Sequence[str], summary: str, *, stdin: str = "", limit: float = LIMIT) -> str:
    """The output of a program that must succeed. :raises OrderFailed: with ``summary`` and what it said."""
    finished = host.run(argv, stdin=stdin, limit=limit)
    if finished.code != 0:
        raise OrderFailed(summary, f"{argv[0]}: {finished.said}")
    return finished.output


class FileBlocks:
    """A block device; a regular file serves as well."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def read_into(self, offset: int, view: memoryview) -> int:
        have = 0
        while have < len(view) and (count := os.preadv(self.fd, [view[have:]], offset + have)):
            have += count
        return have

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += os.pwrite(self.fd, view[done:], offset + done)
        # Linux begins write-back of a range that is not needed any more: the disk works while the next chunk comes.
        os.posix_fadvise(self.fd, offset, len(data), os.POSIX_FADV_DONTNEED)

    def zero(self, offset: int, length: int) -> None:
        try:
            fcntl.ioctl(self.fd, BLKZEROOUT, offset.to_bytes(8, "little") + length.to_bytes(8, "little"))
        except OSError:  # not a block device, or the range is not made of whole sectors
            for at in range(offset, offset + length, len(ZEROS)):
                self.write_at(at, ZEROS[: min(len(ZEROS), offset + length - at)])

    def flush(self) -> None:
        os.fsync(self.fd)

    def forget(self) -> None:
        with contextlib.suppress(OSError):  # a regular file has no such call
            fcntl.ioctl(self.fd, BLKFLSBUF)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        os.close(self.fd)


class Zstd:
    """The program ``zstd`` with large pipes at both ends."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["zstd", "-dcq"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={"PATH": PATH},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        for pipe in (self.input, self.output):
            with contextlib.suppress(OSError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def feed(self, data: memoryview) -> bool:
        try:
            while data:
                data = data[os.write(self.input.fileno(), data) :]
        except OSError:
            return False
        return True

    def end_input(self) -> None:
        with contextlib.suppress(OSError):
            self.input.close()

    def read_into(self, view: memoryview) -> int:
        have = 0
        while have < len(view) and (count := os.readv(self.output.fileno(), [view[have:]])):
            have += count
        return have

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.output.close()


class LinuxHost:
    """The real door."""

    def say(self, text: str) -> None:
        print(f"ramdisk: {text}", flush=True)

    def run(self, argv: Sequence[str], *, stdin: str = "", limit: float = LIMIT) -> Finished:
        try:
            ended = subprocess.run(
                list(argv),
                input=stdin.encode(),
                capture_output=True,
                timeout=limit,
                check=False,
                env=ENVIRONMENT,
            )
        except subprocess.TimeoutExpired:
            return Finished(124, "", f"it did not end within {limit:.0f} s")
        except OSError as error:
            return Finished(127, "", f"{error.strerror}")
        return Finished(ended.returncode, ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace"))

    def stream(self, argv: Sequence[str], limit: float) -> Iterator[str]:
        try:
            process = subprocess.Popen(
                list(argv),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=ENVIRONMENT,
            )
        except OSError as error:
            raise OrderFailed(f"{argv[0]} cannot be started", f"{error.strerror}") from error
        killer = threading.Timer(limit, process.kill)
        killer.start()
        last = ""
        try:
            assert process.stdout is not None
            for line in process.stdout:
                last = line.rstrip("\n")
                yield last
            code = process.wait()
        finally:
            killer.cancel()
            process.kill()  # nothing, when it has ended
            process.communicate()
        if code != 0:
            raise OrderFailed(f"{argv[0]} ended with exit code {code}", last)

    def read_text(self, path: str) -> str:
        try:
            return Path(path).read_bytes().decode(errors="replace").strip("\0 \t\r\n")
        except OSError:
            return ""

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(folder))  # noqa: PTH208 names are wanted, not paths
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def real(self, path: str) -> str:
        return os.path.realpath(path)

    def read_tables(self, path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError:
            return b""

    def listen(self, names: Sequence[str], ethertype: int, seconds: float) -> dict[str, bytes]:
        heard: dict[str, bytes] = {}
        with contextlib.ExitStack() as doors, selectors.DefaultSelector() as selector:
            for name in names:
                door = doors.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype)))
                door.bind((name, ethertype))
                index = struct.pack("iHH8s", socket.if_nametoindex(name), MULTICAST, 6, LLDP_GROUP)
                door.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, index)
                selector.register(door, selectors.EVENT_READ, name)
            end = time.monotonic() + seconds
            while len(heard) < len(names) and (left := end - time.monotonic()) > 0:
                for ready, _ in selector.select(left):
                    frame = ready.fileobj.recv(FRAME)  # type: ignore[union-attr]
                    heard.setdefault(ready.data, frame)
        return heard

    def makes_machine(self) -> bool:
        try:
            door = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.close(fcntl.ioctl(door, KVM_CREATE_VM, 0))
        except OSError:
            return False
        finally:
            os.close(door)
        return True

    def ask_bmc(self, function: int, command: int, data: bytes) -> bytes | None:
        try:
            door = os.open(BMC_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return _ask_bmc(door, function, command, data)
        except OSError:
            return None
        finally:
            os.close(door)

    def machine(self) -> str:
        return platform.machine()

    def cpus(self) -> int:
        return os.cpu_count() or 1

    def make_folder(self) -> str:
        return tempfile.mkdtemp(prefix="ramdisk-")

    def drop_folder(self, path: str) -> None:
        with contextlib.suppress(OSError):
            Path(path).rmdir()

    def link_target(self, path: str) -> str | None:
        try:
            return str(Path(path).readlink())
        except OSError:
            return None

    def is_folder(self, path: str) -> bool:
        return Path(path).is_dir() and not Path(path).is_symlink()

    def ensure_folder(self, path: str) -> None:
        with contextlib.suppress(FileExistsError):
            Path(path).mkdir(mode=0o755)

    def write_file(self, path: str, data: bytes, mode: int) -> None:
        file = Path(path)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                with contextlib.suppress(PermissionError):  # FAT knows no modes
                    os.fchmod(stream.fileno(), mode)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def read_file(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def open_block(self, path: str) -> BlockFile:
        return FileBlocks(path)

    def measure(self, device: str) -> tuple[int, int]:
        return kernel.measure(device)

    def mount(self, device: str, folder: str, filesystem: str, *, read_only: bool) -> None:
        kernel.mount(device, folder, filesystem, read_only=read_only)

    def unmount(self, folder: str) -> None:
        kernel.unmount(folder)

    def grow(self, folder: str, size: int) -> None:
        kernel.grow(folder, size)

    def decompressor(self) -> Decompressor:
        try:
            return Zstd()
        except OSError as error:
            raise OrderFailed("the program zstd cannot be started", str(error)) from error

    def now(self) -> float:
        return time.time()

    def set_clock(self, seconds: float) -> None:
        time.clock_settime(time.CLOCK_REALTIME, seconds)
        self.run(["hwclock", "-w", "-u"])  # the instance looks at certificates, too, before it has heard of NTP

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def power_off(self) -> None:
        os.sync()
        self.run(["poweroff", "-f"])

    def jump(self) -> None:
        os.sync()
        self.run(["kexec", "--exec"])


def _ask_bmc(door: int, function: int, command: int, data: bytes) -> bytes | None:
    """One request and its answer through the kernel's IPMI device (include/uapi/linux/ipmi.h, x86-64)."""
    target, body = array("B", BMC_ADDRESS), array("B", data or b"\0")
    at = (target.buffer_info()[0], len(target), 1, function, command, len(data), body.buffer_info()[0])
    fcntl.ioctl(door, IPMICTL_SEND_COMMAND, bytearray(struct.pack("@QIxxxxqBBHxxxxQ", *at)), True)
    if not select.select([door], [], [], BMC_SECONDS)[0]:
        return None
    sender, answer = array("B", bytes(32)), array("B", bytes(256))
    into = (0, sender.buffer_info()[0], len(sender), 0, 0, 0, len(answer), answer.buffer_info()[0])
    received = bytearray(struct.pack("@ixxxxQIxxxxqBBHxxxxQ", *into))
    fcntl.ioctl(door, IPMICTL_RECEIVE_MSG_TRUNC, received, True)
    length = struct.unpack_from("@H", received, 34)[0]
    return answer.tobytes()[:length]
