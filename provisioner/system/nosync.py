"""Runs a program whose calls to flush files to the disk do nothing: ``python -m provisioner.system.nosync PROGRAM…``.

What a build installs is thrown away when the machine fails, so its thousands of flushes buy nothing. A seccomp filter
answers them with success before they reach the kernel's file systems (seccomp(2), SECCOMP_RET_ERRNO with errno 0); all
children inherit it, also across chroot(2), and nothing is put into the tree that is built. Where the kernel refuses the
filter, the program runs without it.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
AUDIT_ARCH_X86_64 = 0xC000003E
SYSCALLS = {"fsync": 74, "fdatasync": 75, "sync": 162, "sync_file_range": 277, "syncfs": 306}
"""Numbers of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl of Linux)."""
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
OFFSET_NUMBER, OFFSET_ARCH = 0, 4
RETURN_ALLOW, RETURN_ERRNO = 0x7FFF0000, 0x00050000
MISSING = 127


def build_filter() -> bytes:
    """The filter as ``struct sock_filter`` has it: two bytes of code, two jumps, four bytes of value each (bpf(4))."""
    numbers = sorted(SYSCALLS.values())
    program = [
        (LOAD_WORD, 0, 0, OFFSET_ARCH),
        (JUMP_EQUAL, 0, len(numbers) + 1, AUDIT_ARCH_X86_64),  # another architecture: to the line that allows
        (LOAD_WORD, 0, 0, OFFSET_NUMBER),
        *((JUMP_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)),
        (RETURN, 0, 0, RETURN_ALLOW),
        (RETURN, 0, 0, RETURN_ERRNO),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in program)


def suppress_sync() -> bool:
    """From here on this process and its children flush nothing; False where the kernel refuses."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    code = build_filter()
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def main() -> None:
    suppress_sync()
    try:
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - to be that program is all this does
    except FileNotFoundError:
        print(f"{sys.argv[1]} is not installed", file=sys.stderr)
        sys.exit(MISSING)


if __name__ == "__main__":
    main()
