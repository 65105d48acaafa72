"""The image writer over loopback HTTP, with the real zstd, onto a file that was full of something else."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import zstandard
from stand_in_api import serving

from provisioner_agent.protocol.servers import Servers
from provisioner_agent.ramdisk.download import HttpSource
from provisioner_agent.ramdisk.fakehost import FakeHost
from provisioner_agent.ramdisk.host import BlockFile, FileBlocks, Finished
from provisioner_agent.ramdisk.image import MOST_WORKERS, do_write_image
from provisioner_agent.ramdisk.index import parse_index
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.progress import NoMeter

KIB = 1024
SIZE = 6 * 1024 * KIB
IMAGE = "galera-0123456789ab"
GUID = "5f0e6b0e-0000-4000-8000-000000000001"


@dataclass
class Shop:
    """What the server serves, and how it misbehaves, by requests of ``root.zst``."""

    files: dict[str, bytes]
    cut_after: list[int | None] = field(default_factory=list)
    damage: dict[int, int] = field(default_factory=dict)
    """Byte of ``root.zst`` → how many more times it is served wrong."""
    status: list[int] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)


def serve(shop: Shop) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rsplit("/", 1)[1]
            data = shop.files.get(name)
            if data is None:
                self.send_error(404)
                return
            wanted = self.headers.get("Range")
            if wanted is None:
                self._send(200, data, {})
                return
            shop.ranges.append(wanted)
            if shop.status:
                self.send_error(shop.status.pop(0))
                return
            begin, end = (int(word) for word in wanted.removeprefix("bytes=").split("-"))
            piece = bytearray(data[begin : end + 1])
            for at, times in shop.damage.items():
                if begin <= at <= end and times > 0:
                    piece[at - begin] ^= 0xFF
                    shop.damage[at] -= 1
            cut = shop.cut_after.pop(0) if shop.cut_after else None
            self._send(206, bytes(piece), {"Content-Range": f"bytes {begin}-{end}/{len(data)}"}, cut)

        def _send(self, status: int, data: bytes, headers: dict[str, str], cut: int | None = None) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                self.wfile.write(data if cut is None else data[:cut])
            except OSError:
                pass  # the agent has heard enough

        def log_message(self, format: str, *args: Any) -> None: ...

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def build_image() -> tuple[bytes, dict[str, bytes]]:
    """(the file system, files of the image): gaps at the start, in the middle and at the end; two frames of noise."""
    chance = random.Random(7)
    plain = bytearray(SIZE)
    chunks, store = [], bytearray()
    for offset, length in (
        (64 * KIB, 700 * KIB),
        (800 * KIB, 64 * KIB),
        (864 * KIB, 900 * KIB),
        (4096 * KIB, 512 * KIB),
    ):
        data = (
            chance.randbytes(length // 2) + b"galera" * (length // 12) + bytes(length - length // 2 - length // 12 * 6)
        )
        plain[offset : offset + length] = data
        frame = zstandard.ZstdCompressor(level=3, write_content_size=True).compress(data)
        digest = hashlib.sha256(data).hexdigest()
        chunks.append(
            {"offset": offset, "length": length, "sha256": digest, "frame": len(store), "frame_length": len(frame)}
        )
        store += frame
    index = json.dumps({"size": SIZE, "chunks": chunks}).encode()
    return bytes(plain), {"root.zst": bytes(store), "index.json": index}


@dataclass
class Bench:
    host: FakeHost
    shop: Shop
    source: HttpSource
    plain: bytes
    disk: Path

    def order(self, **changes: Any) -> dict[str, Any]:
        digest = hashlib.sha256(self.shop.files["index.json"]).hexdigest()
        order = {"root": "/dev/vda2", "image": IMAGE, "index_sha256": digest, "grow": False}
        return order | {"filesystem": "ext4"} | changes

    def write(self, **changes: Any) -> dict[str, Any]:
        return do_write_image(self.host, self.source, self.order(**changes), NoMeter())

    def frame(self, number: int) -> tuple[int, int]:
        chunk = parse_index(self.shop.files["index.json"]).chunks[number]
        return chunk.frame, chunk.frame + chunk.frame_length


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    plain, files = build_image()
    host = FakeHost(tmp_path)
    disk = tmp_path / "vda2"
    disk.write_bytes(b"\xaa" * (SIZE + 64 * KIB))
    host.devices["/dev/vda2"] = disk
    shop = Shop(files)
    with serving(serve(shop)) as server:
        yield Bench(host, shop, HttpSource(Servers(f"http://127.0.0.1:{server.server_address[1]}")), plain, disk)


def check(bench: Bench) -> None:
    written = bench.disk.read_bytes()
    assert written[:SIZE] == bench.plain
    assert written[SIZE:] == b"\xaa" * 64 * KIB, "nothing behind the image is touched"


def test_a_dirty_disk_gets_exactly_the_image(bench: Bench) -> None:
    detail = bench.write()
    check(bench)
    assert detail["bytes"] == (700 + 64 + 900 + 512) * KIB
    assert detail["zeroed"] == SIZE - detail["bytes"]
    assert (detail["connections"], detail["again"], detail["grown"]) == (1, 0, False)


def test_a_cut_connection_goes_on_where_it_was(bench: Bench) -> None:
    second = bench.frame(1)[1]
    bench.shop.cut_after = [second + 1000, 0]
    detail = bench.write()
    check(bench)
    assert detail["connections"] == 3
    begins = [int(wanted.removeprefix("bytes=").split("-")[0]) for wanted in bench.shop.ranges]
    assert begins[0] == 0
    assert 0 < begins[1] <= second, "what came whole is not asked for again"
    assert begins[1] == begins[2]


def test_a_server_that_is_restarted_is_waited_for(bench: Bench) -> None:
    bench.shop.status = [503, 503, 502]
    assert bench.write()["connections"] == 1
    check(bench)
    assert bench.host.slept == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("place", ["first byte", "noise", "last byte"])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_damaged_frame_is_asked_for_again(bench: Bench, number: int, place: str) -> None:
    begin, end = bench.frame(number)
    bench.shop.damage = {{"first byte": begin, "noise": begin + 5000, "last byte": end - 1}[place]: 2}
    if place == "noise" and begin + 5000 >= end:
        pytest.fail("the frame is too short for this test")
    detail = bench.write()
    check(bench)
    assert detail["again"] >= 1


def test_a_frame_that_is_always_damaged_is_named(bench: Bench) -> None:
    bench.shop.damage = {bench.frame(2)[0] + 5000: 1000}
    with pytest.raises(OrderFailed, match=f"chunk 2 of the image {IMAGE} arrives damaged") as failed:
        bench.write()
    assert "4 times" in failed.value.cause
    assert bench.shop.damage[bench.frame(2)[0] + 5000] == 1000 - 4
    offset = parse_index(bench.shop.files["index.json"]).chunks[2].offset
    with bench.disk.open("rb") as file:
        file.seek(offset)
        assert file.read(900 * KIB) == b"\xaa" * 900 * KIB, "what is damaged is never written"


def test_another_index_is_refused_before_anything_is_written(bench: Bench) -> None:
    before = bench.disk.read_bytes()
    with pytest.raises(OrderFailed, match="is not the one that was ordered"):
        bench.write(index_sha256="0" * 64)
    assert bench.disk.read_bytes() == before


def test_a_missing_file_is_not_waited_for(bench: Bench) -> None:
    del bench.shop.files["root.zst"]
    with pytest.raises(OrderFailed, match="does not give"):
        bench.write()
    assert bench.host.slept == []


def test_a_silent_server_is_given_up_after_minutes(bench: Bench) -> None:
    bench.shop.status = [503] * 1000
    begun = bench.host.time
    with pytest.raises(OrderFailed, match="has sent nothing for 300 s"):
        bench.write()
    assert 300 < bench.host.time - begun < 320


def test_an_image_larger_than_the_partition(bench: Bench) -> None:
    with bench.disk.open("r+b") as file:
        file.truncate(SIZE - 512)
    with pytest.raises(OrderFailed, match="does not fit"):
        bench.write()


class Forgetful(FileBlocks):
    """A disk that loses the first ``losses`` writes at an offset."""

    def __init__(self, path: str, offset: int, losses: int) -> None:
        super().__init__(path)
        self.offset, self.losses = offset, losses

    def write_at(self, offset: int, data: bytes | bytearray) -> None:
        if offset == self.offset and self.losses > 0:
            self.losses -= 1
            return
        super().write_at(offset, data)


class ForgetfulHost(FakeHost):
    losses = 0

    def open_block(self, path: str) -> BlockFile:
        return Forgetful(str(self.devices[path]), 800 * KIB, self.losses)


def test_what_the_disk_lost_is_written_again_once(bench: Bench, tmp_path: Path) -> None:
    host = ForgetfulHost(tmp_path)
    host.devices, host.programs, host.losses = bench.host.devices, bench.host.programs, 1
    assert do_write_image(host, bench.source, bench.order(), NoMeter())["again"] == 1
    check(bench)
    bench.disk.write_bytes(b"\xaa" * (SIZE + 64 * KIB))
    host.losses = 2
    with pytest.raises(OrderFailed, match="does not keep what is written"):
        do_write_image(host, bench.source, bench.order(), NoMeter())


class Counting(FileBlocks):
    """Counts how many of its calls run at once."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def write_at(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        super().write_at(offset, data)
        with self.lock:
            self.now -= 1


def test_a_hundred_processors_do_not_need_a_hundred_times_the_memory(bench: Bench, tmp_path: Path) -> None:
    class Large(FakeHost):
        def cpus(self) -> int:
            return 128

        def open_block(self, path: str) -> BlockFile:
            self.block = Counting(str(self.devices[path]))
            return self.block

    host = Large(tmp_path)
    host.devices, host.programs = bench.host.devices, bench.host.programs
    do_write_image(host, bench.source, bench.order(), NoMeter())
    check(bench)
    assert 1 <= host.block.most <= MOST_WORKERS


def test_a_file_system_grows_while_it_is_mounted(bench: Bench) -> None:
    assert bench.write(grow=True)["grown"] is True
    folder = bench.host.runs[-1][-1]
    assert bench.host.runs[-3:] == [
        ("mount", "-t", "ext4", "/dev/vda2", folder),
        ("grow", folder, str(SIZE + 64 * KIB)),
        ("umount", folder),
    ]
    bench.host.programs["grow"] = lambda argv, stdin: Finished(1, "", "no room")
    with pytest.raises(OrderFailed, match="cannot be grown"):
        bench.write(grow=True)
    assert bench.host.runs[-1][0] == "umount"


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b'{"size": 10}',
        b'{"size": 10, "chunks": [{"offset": 0, "length": 20, "sha256": "", "frame": 0, "frame_length": 9}]}',
        b'{"size": 10, "chunks": [{"offset": 0, "length": 2, "sha256": "", "frame": 1, "frame_length": 9}]}',
    ],
)
def test_an_index_that_makes_no_sense(text: bytes) -> None:
    with pytest.raises(OrderFailed, match="index cannot be understood"):
        parse_index(text)


def test_gaps_between_chunks_that_overlap() -> None:
    places = ((10, 10), (15, 10), (16, 2), (30, 5))
    chunks = [
        {"offset": offset, "length": length, "sha256": "", "frame": number * 9, "frame_length": 9}
        for number, (offset, length) in enumerate(places)
    ]
    assert parse_index(json.dumps({"size": 40, "chunks": chunks}).encode()).gaps() == [(0, 10), (25, 5), (35, 5)]
