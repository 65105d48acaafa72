"""Disks that fail and power that is cut while an image is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rack import PROGRAM, ROOT, Rack, started_rack

from provisioner.lab.powercut import cut_power

MIB = 1 << 20
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
