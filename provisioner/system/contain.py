"""Programs that do not outlive who started them: this process goes on as the first one of a PID namespace.

When the first process of a namespace ends, however it ends, the kernel kills all others in it (pid_namespaces(7)). So
a build that is killed leaves no chroot with a package manager running in it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

CLONE_NEWPID, CLONE_NEWNS, PR_SET_PDEATHSIG = 0x20000000, 0x00020000, 1
MS_REC, MS_PRIVATE = 0x4000, 0x40000
KILLED = 128
"""Added to a signal's number, it is the exit code of who was ended by it (as shells say it)."""


def contain() -> None:
    """Go on in a child that is the first of a new PID namespace; this process only waits and ends as the child does.

    Call it before threads are started. Where it is not allowed, without root, everything goes on as it was.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWPID) != 0:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if libc.unshare(CLONE_NEWNS) == 0 and libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0:
            libc.mount(b"proc", b"/proc", b"proc", 0, None)  # of this namespace: ps looks itself up in it
        os.setpgid(0, 0)  # what the terminal sends comes once, by the parent
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(KILLED + signal.SIGTERM))  # the first process has no defaults
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda given, _frame: _tell(child, given))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(status if status >= 0 else KILLED - status)


def _tell(child: int, number: int) -> None:
    try:
        os.kill(child, signal.SIGTERM if number == signal.SIGHUP else number)
    except ProcessLookupError:
        pass  # it has ended; waitpid says how
