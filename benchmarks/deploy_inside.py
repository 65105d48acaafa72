"""Runs in the ramdisk in the agent's place: writes and reads an image both ways by turns. See ``deploy.py``.

``deploy_inside.py ROUNDS URL IMAGE INDEX_SHA256``; the result is one line of JSON on the second serial port.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from provisioner_agent.protocol.servers import Servers
from provisioner_agent.ramdisk.download import HttpSource
from provisioner_agent.ramdisk.host import LinuxHost
from provisioner_agent.ramdisk.image import ImageWriter
from provisioner_agent.ramdisk.index import Index, fetch_index
from provisioner_agent.ramdisk.progress import NoMeter

DISK = "/dev/vda"
MB = 1 << 20


class Host(LinuxHost):
    def say(self, text: str) -> None:
        """Nobody listens."""


def run(script: str) -> float:
    begun = time.monotonic()
    subprocess.run(["bash", "-c", f"set -o pipefail; {script}"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def forget() -> None:
    """No way may read what the one before left in memory."""
    subprocess.run(["blockdev", "--flushbufs", DISK], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")


def memory() -> float:
    """MiB of this process and its children, shared pages counted once."""
    total = 0.0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if os.getpid() not in (int(process.name), parent):
                continue
            lines = (process / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has ended
        total += next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)
    return total


def ours(url: str, image: str, index: Index, peaks: list[float]) -> tuple[float, float]:
    """(seconds to write, seconds to read back and compare)."""
    end = threading.Event()

    def watch() -> None:
        while not end.wait(0.5):
            peaks.append(memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    host = Host()
    blocks = host.open_block(DISK)
    begun = time.monotonic()
    try:
        detail = ImageWriter(host, HttpSource(Servers(url)), image, index, blocks, NoMeter()).write()
    finally:
        took = time.monotonic() - begun
        end.set()
        watcher.join()
        blocks.close()
    return took - detail["read_back_seconds"], detail["read_back_seconds"]


def extents(index: Index) -> list[tuple[int, int]]:
    """(offset, length) of what is mapped; chunks that follow each other are one."""
    found: list[tuple[int, int]] = []
    for chunk in index.chunks:
        if found and sum(found[-1]) == chunk.offset:
            found[-1] = (found[-1][0], found[-1][1] + chunk.length)
        else:
            found.append((chunk.offset, chunk.length))
    return found


def main() -> None:
    rounds, url, image, digest = int(sys.argv[1]), *sys.argv[2:5]
    index = fetch_index(Host(), HttpSource(Servers(url)), image, digest)
    write = (
        f"curl -sS {url}/images/{image}/root.zst | tee >(sha256sum >/tmp/sum) | zstd -dcq | "
        f"dd of={DISK} bs=1M conv=sparse,nocreat,fsync iflag=fullblock status=none"
    )
    one = f"dd if={DISK} bs=1M iflag=skip_bytes,count_bytes skip=%d count=%d status=none"
    read = "{ " + "; ".join(one % extent for extent in extents(index)) + "; } | sha256sum"
    times: dict[str, list[float]] = {"write": [], "read": [], "programs_write": [], "programs_read": []}
    peaks: list[float] = []
    for _ in range(rounds):
        forget()
        times["programs_write"].append(run(write))
        forget()
        times["programs_read"].append(run(read))
        forget()
        wrote, compared = ours(url, image, index, peaks)
        times["write"].append(wrote)
        times["read"].append(compared)
    result = {"mapped": index.mapped / MB, "extents": len(extents(index)), "peak": max(peaks, default=memory())} | times
    Path("/dev/ttyS1").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
