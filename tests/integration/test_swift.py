"""Images of guests on three controllers, with real programs and no machines: one dies, one is new, one is the last."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from swift_rig import ROOT, SINGLE, Controller, Rig, started_rig

IMAGE = os.urandom(3 << 20)
MD5 = hashlib.md5(IMAGE).hexdigest()
READ = f"{MD5} {len(IMAGE)}"
FIRST, SECOND, THIRD = (f"8d2a1b6e-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))
DRAIN = "drain.d/50-swift"
AUDIT = ("/usr/bin/swift-object-auditor", "/etc/swift/object-server.conf", "once")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    tmp_path.chmod(0o755)
    tmp_path.parent.chmod(0o755)
    with started_rig(tmp_path) as rig:
        yield rig


def serve(rig: Rig, one: Controller) -> None:
    rig.serve(one, *SINGLE, "rsync")


DATABASE = ROOT / "tests" / "unit" / "glance_database.py"


@pytest.mark.integration
def test_images_outlive_controllers(rig: Rig) -> None:
    first = rig.add(0, "10.89.0.20")
    rig.configure(first)
    rig.serve(first, *SINGLE)
    assert not (first.folder / "etc/rsyncd.conf").exists(), "there is nobody to send anything to"
    with rig.keystone(first):
        said = rig.image(first, "put", FIRST, IMAGE)
        assert said == f"swift+config://swift/images/{FIRST} {len(IMAGE)} {MD5}"

        # One controller becomes three. Its disk was kept, and the users have other numbers in its new image.
        subprocess.run(["chown", "-R", "64999", first.folder / "node", first.folder / "images"], check=True)
        second, third = rig.add(1, "10.89.0.21"), rig.add(2, "10.89.0.22")
        for one in rig.controllers:
            rig.configure(one)
        assert ((first.folder / "images").owner(), (first.folder / "node").owner()) == ("root", "swift")
        for kind in ("account", "container", "object"):
            rings = {(one.folder / f"etc/swift/{kind}.ring.gz").read_bytes() for one in rig.controllers}
            assert len(rings) == 1, "all controllers look at the same places"
        rig.serve(first, "rsync")
        for one in (second, third):
            serve(rig, one)
        rig.phase(first, DRAIN)
        assert second.kept() == third.kept() == first.kept() != []

        # What a disk spoils is found, and comes anew.
        (spoilt,) = (third.folder / "node").rglob("*.data")
        spoilt.write_bytes(b"x" + spoilt.read_bytes()[1:])
        done = subprocess.run(third.inside(*AUDIT), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and third.kept() == [], done.stderr
        rig.phase(first, DRAIN)
        assert third.kept() == first.kept()

        # One dies, and an image of former times gets its place in Swift meanwhile.
        second.cut_power()
        assert rig.image(first, "get", FIRST) == READ
        (first.folder / "images" / SECOND).write_bytes(IMAGE)
        (first.folder / "bin" / "pymysql.py").write_text(DATABASE.read_text())
        places = [f"file:///var/lib/glance/images/{SECOND}"]
        (first.folder / "database").write_text(json.dumps({SECOND: {"checksum": None, "at": places}}))
        env = {"PYTHONPATH": "/usr/local/bin", "DATABASE": str(first.folder / "database"), "PATH": os.environ["PATH"]}
        program = str(ROOT / "elements/controller/bin/openstack-images")
        done = subprocess.run(
            first.inside("/usr/bin/python3", program), env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        places.append(f"swift+config://swift/images/{SECOND}")
        assert json.loads((first.folder / "database").read_text()) == {SECOND: {"checksum": None, "at": places}}

        # Its place is taken, at another address and with nothing on its disk.
        fresh = rig.add(1, "10.89.0.29")
        for one in rig.controllers:
            rig.configure(one)
        serve(rig, fresh)
    with rig.keystone(fresh):
        assert [rig.image(fresh, "get", name) for name in (FIRST, SECOND)] == [READ, READ], "the others have it"
        assert fresh.kept() == []
        said = rig.phase(first, DRAIN)
        assert "object: controller-1, controller-2 have all" in said
        assert fresh.kept() == first.kept() and len(fresh.kept()) == 2

        # The last one: what there is can be read, nothing is taken that would be there once.
        first.cut_power()
        assert "object: controller-0 did not take all" in rig.phase(third, DRAIN, code=1)
        third.cut_power()
        assert rig.image(fresh, "get", SECOND) == READ
        rig.image(fresh, "put", THIRD, IMAGE, good=False)

        # One that was away hears of what was deleted meanwhile.
        serve(rig, first)
        rig.image(fresh, "delete", FIRST)
        serve(rig, third)
        for one in (fresh, third):
            rig.phase(one, DRAIN)
        assert [len(one.kept()) for one in rig.controllers] == [1, 1, 1]
