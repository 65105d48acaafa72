"""The instance's kernel, loaded beside the ramdisk's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from provisioner_agent.ramdisk.fakehost import FakeHost
from provisioner_agent.ramdisk.host import Finished
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.restart import do_restart

ORDER = {"root": "/dev/vda2", "stacked": False, "raids": {"root": "1-2"}, "cmdline": "root=PARTUUID=1 ro quiet"}


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path)
    root = tmp_path / "root"
    (root / "boot").mkdir(parents=True)
    for name in ("vmlinuz", "initrd.img"):
        (root / "boot" / f"{name}-6").write_text(name)
        (root / name).symlink_to(f"boot/{name}-6")
    host.trees["/dev/vda2"] = root
    host.devices["/dev/vda2"] = tmp_path / "vda2"
    host.devices["/dev/vda2"].write_bytes(b"")
    return host


def test_kernel_and_initrd_of_the_image_are_loaded(host: FakeHost) -> None:
    loaded: list[Sequence[str]] = []

    def kexec(argv: Sequence[str], stdin: str) -> Finished:
        assert [Path(word.removeprefix("--initrd=")).read_text() for word in argv[3:5]] == ["vmlinuz", "initrd.img"]
        loaded.append(argv)
        return Finished(0)

    host.programs["kexec"] = kexec
    assert do_restart(host, ORDER) == {}
    assert loaded[0][-1] == "--command-line=root=PARTUUID=1 ro quiet"
    assert [argv[0] for argv in host.runs] == ["mount", "kexec", "umount"]
    assert not host.jumped, "the server hears of it first"


def test_stacks_are_opened_for_it_and_closed_again(host: FakeHost) -> None:
    host.texts["/sys/block/md127/size"] = "1"
    do_restart(host, ORDER | {"stacked": True})
    words = [argv[:2] for argv in host.runs]
    assert ("mdadm", "--assemble", "--run", "/dev/md/root", "--uuid=1-2") in host.runs
    assert words.index(("mdadm", "--assemble")) < words.index(("kexec", "--kexec-syscall-auto"))
    assert words.index(("mdadm", "--stop")) > words.index(("kexec", "--kexec-syscall-auto"))


def test_a_kernel_that_does_not_allow_it_says_so(host: FakeHost) -> None:
    host.programs["kexec"] = lambda argv, stdin: Finished(255, "", "kexec_load failed: Operation not permitted")
    with pytest.raises(OrderFailed, match="Operation not permitted"):
        do_restart(host, ORDER)
    assert host.runs[-1][0] == "umount"
