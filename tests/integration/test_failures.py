"""What goes wrong on the way is named, with node, step, cause and what to do; and ``apply``, run again, goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rack import Rack, started_rack

TOO_MUCH = "500G"
"""More than the node has of disk."""


@contextmanager
def stays_off(rack: Rack, node: str) -> Iterator[None]:
    """The machine does not start meanwhile, although its controller takes the command."""
    path = rack.state / "lab" / node / "machine.json"
    before = path.read_text()
    path.write_text(json.dumps({order: ["true"] for order in json.loads(before)}))
    try:
        yield
    finally:
        path.write_text(before)


def refuse(rack: Rack, step: str, **values: Any) -> str:
    """What is said when a cloud with these values of galera is applied, which fails in ``step``."""
    said = rack.run("apply", str(rack.cloud(count=1, values={"galera": values})), "--wait", codes=(1,))
    assert "where: node1" in said and "cloud lab is failed" in said, said
    member = rack.member("galera-0")
    assert member["step"] == step and member["failure"]["cause"], said
    assert f"next:  {member['failure']['hint']}" in said, said
    return said


def goes_on(rack: Rack) -> None:
    """The same command mends it, once its reason is gone."""
    cloud = rack.cloud(count=1)
    planned = rack.run("plan", str(cloud), codes=(2,))
    assert "galera-0 on node1" in planned, planned
    rack.run("apply", str(cloud), "--wait")
    assert rack.member("galera-0")["failure"] is None
    assert "Nothing to change" in rack.run("plan", str(cloud))


@pytest.mark.rack
def test_each_failure_on_the_way_is_named_and_apply_goes_on(tmp_path: Path) -> None:
    with started_rack(tmp_path, 1) as rack:
        rack.run("node", "enroll", str(tmp_path / "hardware.yaml"))
        said = rack.run("apply", str(rack.cloud(count=1, values={"galera": {"gcache_size": "a lot"}})), codes=(1,))
        assert "cloud.yaml:" in said and "gcache_size" in said, said
        assert rack.json("node", "list")[0]["deployment"] is None, "nothing was begun"
        with stays_off(rack, "node1"):
            said = refuse(rack, "power")
        assert "power" in said, said
        said = refuse(rack, "configure", gcache_size=TOO_MUCH)
        assert "exceeds available storage space" in said, said
        goes_on(rack)
