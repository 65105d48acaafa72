"""The listening sockets, and the lock that keeps a second service from the same folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import ExitStack
from pathlib import Path

from provisioner.errors import Conflict, HostError
from provisioner.system.settings import Settings

BACKLOG = 128
IP_FREEBIND = 15
"""Of Linux (ip(7)); Python has no name for it."""
LOCK = "serve.lock"
PID = "serve.pid"


class ServiceLock:
    """Held while the service lives; a process that dies in any way gives it back."""

    def __init__(self, folder: Path) -> None:
        ensure_private_folder(folder)
        self._folder = folder
        self._file = (folder / LOCK).open("a")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise _already_running(folder) from None
        (folder / PID).write_text(f"{os.getpid()}\n")

    def release(self) -> None:
        (self._folder / PID).unlink(missing_ok=True)
        self._file.close()


def _already_running(folder: Path) -> Conflict:
    try:
        pid = (folder / PID).read_text().strip()
    except FileNotFoundError:
        pid = ""
    return Conflict(
        "the service runs already",
        where=str(folder),
        cause=f"process {pid} holds the folder" if pid else "another process holds the folder",
        hint="provisioner node list talks to it; end it before starting another",
    )


def ensure_private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, or take the others' rights from it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_mode & 0o777 != 0o700:
        folder.chmod(0o700)


def open_operator_socket(path: Path) -> socket.socket:
    """Listen on a unix socket of mode 0600.

    Linux creates the file with the mode of the socket's own inode, so it never has wider rights. What a dead
    process left there is removed.

    :raises Conflict: somebody answers on it.
    :raises HostError: the path cannot be bound.
    """
    ensure_private_folder(path.parent)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise HostError(
            "the operator socket cannot be opened", where=str(path), cause=str(error), hint="set run_dir to another"
        ) from error
    return listener


class OperatorDoors:
    """Where operators call: the unix socket, and the address of ``[operators] listen`` if one is set.

    They stay open while the service begins anew: who calls then waits for the next round instead of being told that
    there is no service.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._doors: list[socket.socket] = []

    def for_round(self) -> list[socket.socket]:
        """The unix socket and then the other one, opened by the first call: each a duplicate that the caller closes.

        :raises Conflict: somebody answers on the unix socket. :raises HostError: one of them cannot be opened.
        """
        if not self._doors:
            path, listen = self._settings.socket, self._settings.operators_listen
            doors = [self._stack.enter_context(open_operator_socket(path))]
            self._stack.callback(path.unlink, missing_ok=True)
            if listen:
                host, _, port = listen.rpartition(":")
                host = host.strip("[]")
                moves = host == self._settings.service
                doors.append(self._stack.enter_context(open_listener(host, int(port), "operators'", moves=moves)))
            self._doors = doors
        return [door.dup() for door in self._doors]

    def close(self) -> None:
        self._stack.close()


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                raise _already_running(path.parent) from error
            path.unlink(missing_ok=True)
            return
    raise _already_running(path.parent)


def open_listener(address: str, port: int, what: str, *, moves: bool = False) -> socket.socket:
    """Listen on ``address:port``; 0 lets the kernel choose the port.

    :param what: for the words of errors. :param moves: this host may have the address at times (ip(7), IP_FREEBIND).
    :raises HostError: this host does not have the address, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if moves:
            listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        hint = (
            "another program listens there: ss -ltnp"
            if error.errno == errno.EADDRINUSE
            else "give the interface its address (ip addr), or correct address in the configuration file"
        )
        raise HostError(
            f"the {what} listener cannot be opened", where=f"{address}:{port}", cause=str(error), hint=hint
        ) from error
    return listener
