"""The order ``write-image``: chunks from the server to the root partition, each hashed before it is written.

A thread feeds what comes from the network to ``zstd``; this one cuts its output into chunks; a pool hashes and writes
them. So download, decompression, hashing and writing overlap, and order does not matter where it need not.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from provisioner_agent.ramdisk.disks import device_size, mounted, opened
from provisioner_agent.ramdisk.download import Away, Body, Source
from provisioner_agent.ramdisk.host import BlockFile, Decompressor, Host
from provisioner_agent.ramdisk.index import Chunk, Index, fetch_index
from provisioner_agent.ramdisk.patience import Patience
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.progress import Meter

ROOT_FILE = "root.zst"
READ = 256 * 1024
MOST_WORKERS = 4
"""Threads that hash and write: more only need more memory, since four processors hash faster than disks write."""
TRIES = 3
"""How often a damaged chunk is asked for again."""
ZERO_STEP = 64 << 20


def do_write_image(host: Host, source: Source, order: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    """Write, read back, grow.

    :returns: ``bytes``, ``seconds``, ``rate`` (bytes per second), ``read_back_seconds``, ``zeroed`` (bytes),
        ``connections``, ``again`` (chunks asked for more than once), ``grown``.
    :raises OrderFailed: the image does not fit, does not arrive undamaged, or the disk does not keep it.
    """
    root = str(order["root"])
    room = device_size(host, root)
    image = str(order["image"])
    index = fetch_index(host, source, image, str(order["index_sha256"]))
    if index.size > room:
        raise OrderFailed(f"the image does not fit on {root}", f"it needs {index.size} bytes, there are {room}")
    host.say(f"{root}: image {image} is written, {index.mapped >> 20} MiB in {len(index.chunks)} chunks")
    with opened(host, root, f"{root} cannot be written or read") as blocks:
        detail = ImageWriter(host, source, image, index, blocks, meter).write()
    grows = bool(order.get("grow")) and str(order.get("filesystem", "ext4")).startswith("ext")
    if grows:
        grow(host, root, room)
    rate = detail["rate"] / 1e6
    host.say(f"{root}: written in {detail['seconds']} s ({rate:.1f} MB/s), read back and found right")
    return detail | {"grown": grows}


def grow(host: Host, device: str, size: int) -> None:
    """Let an ext2, 3 or 4 fill its partition. It was read back whole, so it needs no check. :raises OrderFailed:"""
    host.say(f"{device}: the file system is grown")
    with mounted(host, device, "ext4") as folder:
        try:
            host.grow(folder, size)
        except OSError as error:
            raise OrderFailed(f"the file system on {device} cannot be grown", str(error)) from error


class Feeder:
    """Carries ``expected`` bytes of a body into the decompressor, in a thread. ``cut`` says why it could not."""

    def __init__(self, body: Body, pipe: Decompressor, expected: int, heard: Callable[[], None]) -> None:
        self.cut = ""
        self._body, self._pipe, self._left, self._heard = body, pipe, expected, heard
        self._thread = threading.Thread(target=self._run, name="download", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        view = memoryview(bytearray(READ))
        try:
            while self._left:
                count = self._body.readinto(view[: min(READ, self._left)])
                if count == 0:
                    self.cut = "the connection ended too early"
                    return
                self._heard()
                self._left -= count
                if not self._pipe.feed(view[:count]):
                    return
        except Away as error:
            self.cut = str(error)
        finally:
            self._pipe.end_input()

    def join(self) -> None:
        self._thread.join()


class ImageWriter:
    """One image onto one partition; see :func:`do_write_image`."""

    def __init__(self, host: Host, source: Source, image: str, index: Index, blocks: BlockFile, meter: Meter) -> None:
        self._host, self._source, self._image = host, source, image
        self._index, self._blocks, self._meter = index, blocks, meter
        self._workers = min(host.cpus(), MOST_WORKERS)
        self._pool = ThreadPoolExecutor(self._workers + 1)  # one more, for the zeros
        self._running: deque[Future[None]] = deque()
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(self._workers + 1):  # one more, which is filled while the others are written
            self._free.put(memoryview(bytearray(max((chunk.length for chunk in index.chunks), default=0))))
        self._bad: deque[int] = deque()
        self._patience = Patience(host)
        self.connections = 0
        self.again = 0

    def write(self) -> dict[str, Any]:
        """:returns: the detail of the result. :raises OrderFailed: :raises OSError: of the disk."""
        begun = self._host.monotonic()
        gaps = self._index.gaps()
        self._meter.begin("write", self._index.mapped)
        stop = threading.Event()
        try:
            zeroing = self._pool.submit(self._zero, gaps, stop)
            self._download()
            zeroing.result()
            self._blocks.flush()
            written = self._host.monotonic()
            self._read_back()
        finally:
            stop.set()
            self._pool.shutdown(cancel_futures=True)
        seconds = written - begun
        return {
            "bytes": self._index.mapped,
            "seconds": round(seconds, 1),
            "rate": round(self._index.mapped / seconds) if seconds else 0,
            "read_back_seconds": round(self._host.monotonic() - written, 1),
            "zeroed": sum(length for _, length in gaps),
            "connections": self.connections,
            "again": self.again,
        }

    def _zero(self, gaps: list[tuple[int, int]], stop: threading.Event) -> None:
        for offset, length in gaps:
            for at in range(offset, offset + length, ZERO_STEP):
                if stop.is_set():
                    return
                self._blocks.zero(at, min(ZERO_STEP, offset + length - at))

    def _download(self) -> None:
        """Every chunk once; a connection that is cut goes on at the first chunk that did not come whole."""
        at, end = 0, len(self._index.chunks)
        while at < end:
            at, cut = self._stream(at, end)
            if at < end and not cut and not self._bad:  # zstd gave up on what came
                self._bad.append(at)
                at += 1
            while self._bad:
                self._fetch_again(self._bad.popleft())
            if cut:
                self._patience.wait(f"image {self._image}, chunk {at} of {end}: {cut}")

    def _stream(self, first: int, last: int) -> tuple[int, str]:
        """Chunks ``first`` up to ``last`` in one connection, until one is bad.

        :returns: the first chunk that was not taken, and why the connection was cut, if it was.
        """
        chunks = self._index.chunks
        begin, end = chunks[first].frame, chunks[last - 1].frame + chunks[last - 1].frame_length
        try:
            body = self._source.open(self._image, ROOT_FILE, begin, end)
        except Away as error:
            return first, str(error)
        self.connections += 1
        pipe = self._host.decompressor()
        feeder = Feeder(body, pipe, end - begin, self._patience.heard)
        at, cut = first, ""
        try:
            while at < last and not self._bad:
                buffer = self._free.get()
                if pipe.read_into(buffer[: chunks[at].length]) < chunks[at].length:
                    self._free.put(buffer)
                    cut = feeder.cut
                    break
                self._hand_over(at, buffer)
                at += 1
        finally:
            pipe.kill()
            body.abort()
            feeder.join()
            body.close()
        while self._running:
            self._running.popleft().result()
        return at, cut

    def _hand_over(self, number: int, buffer: memoryview) -> None:
        """To the pool; it raises what an earlier chunk's write raised."""
        while self._running and self._running[0].done():
            self._running.popleft().result()
        self._running.append(self._pool.submit(self._put, number, buffer))

    def _put(self, number: int, buffer: memoryview) -> None:
        chunk = self._index.chunks[number]
        data = buffer[: chunk.length]
        try:
            if hashlib.sha256(data).hexdigest() != chunk.sha256:
                self._bad.append(number)
                return
            self._blocks.write_at(chunk.offset, data)
            self._meter.add(chunk.length)
        finally:
            self._free.put(buffer)

    def _fetch_again(self, number: int) -> None:
        """One chunk by itself. :raises OrderFailed: it is damaged each time."""
        self.again += 1
        attempt = 0
        while attempt < TRIES:
            self._host.say(f"image {self._image}: chunk {number} is damaged and asked for again")
            at, cut = self._stream(number, number + 1)
            if cut:
                self._patience.wait(f"image {self._image}, chunk {number}: {cut}")
                continue
            if at > number and not self._bad:
                return
            self._bad.clear()
            attempt += 1
        chunk = self._index.chunks[number]
        raise OrderFailed(
            f"chunk {number} of the image {self._image} arrives damaged",
            f"{TRIES + 1} times; its frame is at byte {chunk.frame} of {ROOT_FILE}",
        )

    def _read_back(self) -> None:
        """Compare what the disk returns; what differs is written once more. :raises OrderFailed: it differs again."""
        self._blocks.forget()
        self._meter.begin("read back", self._index.mapped)
        wrong = self._compare()
        for number in wrong:
            self._fetch_again(number)
        if wrong:
            self._blocks.flush()
            self._blocks.forget()
        buffer = self._free.get()
        for number in wrong:
            if not self._is_right(number, buffer):
                offset = self._index.chunks[number].offset
                raise OrderFailed("the disk does not keep what is written to it", f"at byte {offset} of the partition")
        self._free.put(buffer)

    def _compare(self) -> list[int]:
        """Numbers of chunks that the disk returns otherwise; the workers take turns. :raises OSError: of the disk."""
        numbers, lock, wrong = iter(range(len(self._index.chunks))), threading.Lock(), list[int]()

        def compare() -> None:
            buffer = self._free.get()
            try:
                while True:
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    if not self._is_right(number, buffer):
                        wrong.append(number)
            finally:
                self._free.put(buffer)

        for worker in [self._pool.submit(compare) for _ in range(self._workers)]:
            worker.result()
        return sorted(wrong)

    def _is_right(self, number: int, buffer: memoryview) -> bool:
        chunk: Chunk = self._index.chunks[number]
        data = buffer[: self._blocks.read_into(chunk.offset, buffer[: chunk.length])]
        self._meter.add(chunk.length)
        return hashlib.sha256(data).hexdigest() == chunk.sha256
