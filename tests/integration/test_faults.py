"""Disks that fail and power that is cut while an image is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rack import INSIDE, PROGRAM, ROOT, Rack, started_rack

from provisioner.lab.powercut import cut_power

MIB = 1 << 20
CABLE = "tap00770001"
"""The node's end of the wire."""
CUT_SECONDS = 45
"""Longer than the ramdisk waits for a byte."""
ROOT_MIB = 129
"""Where the root partition begins: behind the table and the boot partition."""


def one_member(folder: Path) -> Path:
    text = (ROOT / "cloud-lab.yaml").read_text().replace("count: 3", "count: 1")
    path = folder / "one.yaml"
    path.write_text(text)
    return path


def step(rack: Rack, name: str) -> dict[str, Any]:
    deployment = rack.json("node", "show", "node1")["deployment"] or {"steps": []}
    return next((step for step in deployment["steps"] if step["name"] == name), {"state": "waiting", "detail": {}})


@contextmanager
def applying(rack: Rack, cloud: Path) -> Iterator[None]:
    words = [PROGRAM, "--config", str(rack.config), "apply", str(cloud), "--wait"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.rack
def test_a_disk_that_fails_in_the_middle_is_named(tmp_path: Path) -> None:
    def bad_place(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
        (image,) = sorted(
            (ROOT / ".tox/rack/images").glob("galera-*/index.json"), key=lambda path: path.stat().st_mtime
        )[-1:]
        chunks = json.loads(image.read_text())["chunks"]
        middle = next(chunk for chunk in chunks[len(chunks) // 2 :] if chunk["length"] > 2 * MIB)
        lab["nodes"][0]["bad_mib"] = ROOT_MIB + middle["offset"] // MIB + 1

    cloud = one_member(tmp_path)
    with started_rack(tmp_path, 1, cloud=cloud, change=bad_place) as rack:
        rack.run("node", "enroll", str(tmp_path / "hardware.yaml"))
        said = rack.run("apply", str(cloud), "--wait", codes=(1,))
        assert "could not do write-image" in said and "node retry node1" in said
        assert step(rack, "write-image")["state"] == "failed"
        shown = rack.run("node", "show", "node1")
        assert "Input/output error" in shown or "does not keep" in shown, shown


@pytest.mark.rack
def test_a_power_cut_while_the_image_is_written_costs_a_retry_and_nothing_else(tmp_path: Path) -> None:
    def logged(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
        lab["nodes"][0]["log_writes"] = True

    cloud = one_member(tmp_path)
    with started_rack(tmp_path, 1, cloud=cloud, change=logged) as rack:
        rack.run("node", "enroll", str(tmp_path / "hardware.yaml"))
        machine = rack.state / "lab" / "node1"
        with applying(rack, cloud):

            def half() -> bool:
                detail = step(rack, "write-image")["detail"]
                return detail.get("bytes", 0) > detail.get("total", 1) / 2

            rack.wait("half of the image is written", half, 600)
            os.kill(int((machine / "qemu.pid").read_text()), signal.SIGKILL)
            before = (machine / "disk.raw").stat().st_blocks
            assert cut_power(machine / "writes.log", machine / "disk.raw") > 0, "the table was flushed"
            assert (machine / "disk.raw").stat().st_blocks < before / 2, "the image was on its way"
            rack.wait(
                "the node has failed", lambda: rack.json("node", "show", "node1")["node"]["state"] == "failed", 300
            )
        assert "power is off" in rack.run("node", "show", "node1")
        rack.run("node", "retry", "node1")
        rack.wait("the cloud is ready", lambda: rack.json("cloud", "status", "lab")["ready"], 900)


@contextmanager
def flipped(path: Path, offset: int) -> Iterator[None]:
    """One byte of a file is another one meanwhile."""
    with path.open("r+b") as file:

        def flip() -> None:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 0xFF]))
            file.flush()

        flip()
        try:
            yield
        finally:
            flip()


@pytest.mark.rack
def test_a_chunk_that_was_tampered_with_is_named_and_a_line_that_is_cut_costs_another_connection(
    tmp_path: Path,
) -> None:
    cloud = one_member(tmp_path)
    with started_rack(tmp_path, 1, cloud=cloud) as rack:
        rack.run("node", "enroll", str(tmp_path / "hardware.yaml"))
        image = rack.state / "images" / (rack.state / "images" / "galera.newest").read_text().strip()
        chunks = json.loads((image / "index.json").read_text())["chunks"]
        number = len(chunks) // 2
        with flipped(image / "root.zst", chunks[number]["frame"] + chunks[number]["frame_length"] // 2):
            said = rack.run("apply", str(cloud), "--wait", codes=(1,))
        assert f"chunk {number} of the image {image.name} arrives damaged" in said
        rack.run("node", "retry", "node1")

        def half() -> bool:
            detail = step(rack, "write-image")["detail"]
            return detail.get("phase") == "write" and detail.get("bytes", 0) > detail.get("total", 1) / 2

        rack.wait("half of the image is written", half, 600)
        cable = [*INSIDE, "ip", "link", "set", CABLE]
        subprocess.run([*cable, "down"], check=True)
        written = step(rack, "write-image")["detail"]["bytes"]
        time.sleep(CUT_SECONDS)
        assert step(rack, "write-image")["state"] == "running"
        assert step(rack, "write-image")["detail"]["bytes"] < written + 64 * MIB, "the line was cut"
        subprocess.run([*cable, "up"], check=True)
        rack.wait("the cloud is ready", lambda: rack.json("cloud", "status", "lab")["ready"], 900)
        assert step(rack, "write-image")["detail"]["connections"] > 1
