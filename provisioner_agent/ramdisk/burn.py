"""The program that loads processors or memory and tells what they got wrong.

``burn cpu SECONDS`` reckons the same known sum on every processor; ``burn memory MIB`` writes patterns into so much
memory and reads them back. One worker for each processor, each kept on its own. Lines on standard output: ``done
NUMBER`` (rounds or bytes) as it goes, ``fault TEXT`` for what was wrong. The exit code is 0 however many there were.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

MIB = 1 << 20
BLOCK = 256 * 1024
"""Bytes written or compared at once: it fits a processor's own cache, so that the rest of the time is memory's."""
STRIDE = 4099
"""By how much the pattern shifts from block to block; a prime, so that equal blocks are far from each other."""
TELL = 64
"""Blocks after which progress is told."""
MOST_FAULTS = 4
KNOWN = "c4ca3cd3"
"""What :func:`reckon` gives on a processor that works (CRC-32 of all of its parts)."""

Say = Callable[[str], None]


class Memory(Protocol):
    """What :class:`mmap.mmap` offers of it."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: slice, /) -> bytes: ...

    def __setitem__(self, where: slice, value: bytes, /) -> None: ...


def reckon() -> str:
    """A sum that uses whole numbers, fractions, wide registers and caches; the same on every processor.

    Only operations whose result IEEE 754 fixes to the last bit are used of fractions.
    """
    digest = hashlib.pbkdf2_hmac("sha512", b"burn", b"salt", 2000)
    digest += hashlib.scrypt(b"burn", salt=b"salt", n=1 << 10, r=8, p=1)
    number = pow(3, int.from_bytes(digest[:64], "big") | 1, (1 << 1279) - 1)
    fraction = 1.0
    for step in range(1, 20_000):
        fraction = (fraction + step) / (1.0 + step / 3.0) * 1.0000001
    packed = zlib.compress(bytes(index * index >> 3 & 0xFF for index in range(20_000)), 6)
    unpacked = zlib.decompress(packed)
    parts = digest + number.to_bytes(160, "big") + fraction.hex().encode() + unpacked
    return f"{zlib.crc32(parts):08x}"


def burn_cpu(seconds: float, say: Say, monotonic: Callable[[], float] = time.monotonic, known: str = KNOWN) -> None:
    """Reckon until ``seconds`` have passed, at least once."""
    end, faults, rounds = monotonic() + seconds, 0, 0
    while rounds == 0 or monotonic() < end:
        found = reckon()
        rounds += 1
        if found != known and faults < MOST_FAULTS:
            faults += 1
            say(f"fault it reckoned {found} instead of {known} in round {rounds}")
    say(f"done {rounds}")


def patterns(base: bytes) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    """(name, block number → what stands there). :param base: ``2 * BLOCK`` bytes, the second half as the first."""
    for value in (0x00, 0xFF, 0x55, 0xAA):
        block = bytes((value,)) * BLOCK
        yield f"0x{value:02x}", lambda number, block=block: block  # type: ignore[misc]
    inverse = bytes(byte ^ 0xFF for byte in base[:BLOCK]) * 2
    for name, source in (("random", base), ("random, inverted", inverse)):
        yield name, lambda number, source=source: _shifted(source, number)  # type: ignore[misc]


def _shifted(source: bytes, number: int) -> bytes:
    """Another block for each place, so that an address line that does nothing is found too."""
    at = number * STRIDE % BLOCK
    return source[at : at + BLOCK]


def burn_memory(memory: Memory, say: Say, base: bytes | None = None) -> None:
    """Each pattern is written everywhere before any of it is read back."""
    half = os.urandom(BLOCK)
    blocks, faults = len(memory) // BLOCK, 0
    for name, block in patterns(base or half + half):
        for number in range(blocks):
            memory[number * BLOCK : (number + 1) * BLOCK] = block(number)
            _tell(number, say)
        for number in range(blocks):
            wanted, found = block(number), memory[number * BLOCK : (number + 1) * BLOCK]
            if wanted != found and faults < MOST_FAULTS:
                faults += 1
                at = next(at for at in range(BLOCK) if wanted[at] != found[at])
                place = (number * BLOCK + at) // MIB
                say(f"fault pattern {name}: 0x{wanted[at]:02x} was written, 0x{found[at]:02x} read, in its MiB {place}")
            _tell(number, say)
        rest = blocks % TELL
        if rest:
            say(f"done {2 * rest * BLOCK}")


def passes() -> int:
    """How often :func:`burn_memory` goes over the memory, writing and reading."""
    return 2 * sum(1 for _ in patterns(bytes(2 * BLOCK)))


def _tell(number: int, say: Say) -> None:
    if (number + 1) % TELL == 0:
        say(f"done {TELL * BLOCK}")


def main(argv: list[str]) -> int:
    kind, amount = argv[1], float(argv[2])
    cpus = sorted(os.sched_getaffinity(0))
    workers = {}
    for cpu in cpus:
        child = os.fork()
        if child == 0:
            _work(cpu, kind, amount / len(cpus) if kind == "memory" else amount)
        workers[child] = cpu
    while workers:
        ended, status = os.wait()
        cpu = workers.pop(ended)
        if status:
            how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"code {os.WEXITSTATUS(status)}"
            _write(f"fault CPU {cpu}: its worker ended with {how}")
    return 0


def _work(cpu: int, kind: str, amount: float) -> None:
    """The life of a worker, which never comes back. Should memory run out, it is the one to go."""
    code = 1
    try:
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        os.sched_setaffinity(0, {cpu})

        def say(text: str) -> None:
            _write(text.replace("fault ", f"fault CPU {cpu}: ", 1))

        if kind == "cpu":
            burn_cpu(amount, say)
        else:
            with mmap.mmap(-1, max(BLOCK, int(amount * MIB) // BLOCK * BLOCK)) as memory:
                burn_memory(memory, say)
        code = 0
    finally:
        os._exit(code)


def _write(text: str) -> None:
    os.write(1, f"{text}\n".encode())  # in one piece, whoever else writes


if __name__ == "__main__":
    sys.exit(main(sys.argv))
