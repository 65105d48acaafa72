"""Programs whose flushes do nothing."""

from __future__ import annotations

import struct
import sys

from provisioner.system.nosync import JUMP_EQUAL, RETURN, RETURN_ALLOW, RETURN_ERRNO, SYSCALLS, build_filter
from provisioner.system.run import HostRunner


def run_filter(arch: int, number: int) -> int:
    """The filter's answer, by a small machine that knows the three instructions it uses."""
    lines = list(struct.iter_unpack("=HBBI", build_filter()))
    at, word = 0, 0
    while True:
        code, yes, no, value = lines[at]
        if code == RETURN:
            return int(value)
        if code == JUMP_EQUAL:
            at += yes if word == value else no
        else:
            word = {0: number, 4: arch}[value]
        at += 1


def test_only_flushes_of_this_architecture_are_answered() -> None:
    assert {run_filter(0xC000003E, number) for number in SYSCALLS.values()} == {RETURN_ERRNO}
    assert {run_filter(0xC000003E, number) for number in range(400)} == {RETURN_ERRNO, RETURN_ALLOW}
    assert [n for n in range(400) if run_filter(0xC000003E, n) == RETURN_ERRNO] == sorted(SYSCALLS.values())
    assert run_filter(0x40000003, SYSCALLS["fsync"]) == RETURN_ALLOW


def test_the_program_runs_with_its_code_whether_or_not_the_kernel_takes_the_filter() -> None:
    wrapped = [sys.executable, "-m", "provisioner.system.nosync"]
    assert HostRunner().run([*wrapped, "sh", "-c", "exit 3"], check=False).code == 3
    done = HostRunner().run([*wrapped, "no-such-program"], check=False)
    assert (done.code, done.stderr) == (127, "no-such-program is not installed\n")
