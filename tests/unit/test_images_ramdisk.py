"""The ramdisk's archive and what is packed into it."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest

from provisioner.errors import ImageError
from provisioner.images.cpio import write_cpio
from provisioner.images.ramdisk import pack_ramdisk
from provisioner.system.run import Completed, FakeRunner


def parse_cpio(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Name → mode, content, device numbers, by the kernel's description of the format."""
    found: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701" and at % 4 == 0
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        at += -(-(110 + fields[11]) // 4) * 4
        content = data[at : at + fields[6]]
        at += -(-fields[6] // 4) * 4
        if name == "TRAILER!!!":
            return found
        assert fields[2:4] == [0, 0] and fields[5] == 0  # root's, without a time
        found[name] = (fields[1], content, (fields[9], fields[10]))


def make_stage(folder: Path) -> Path:
    (folder / "usr" / "bin").mkdir(parents=True)
    (folder / "init").write_text("#!/bin/sh\n")
    (folder / "init").chmod(0o755)
    (folder / "bin").symlink_to("usr/bin")
    (folder / "usr" / "bin" / "odd").write_bytes(b"12345")
    return folder


def archive(folder: Path) -> bytes:
    out = io.BytesIO()
    write_cpio(folder, out)
    return out.getvalue()


def test_entries_have_modes_contents_and_devices(tmp_path: Path) -> None:
    found = parse_cpio(archive(make_stage(tmp_path)))
    assert found["init"] == (0o100755, b"#!/bin/sh\n", (0, 0))
    assert found["bin"] == (0o120777, b"usr/bin", (0, 0))
    assert found["usr/bin/odd"][1] == b"12345"
    assert found["dev/console"] == (0o020600, b"", (5, 1))
    names = list(found)
    assert names.index("usr") < names.index("usr/bin") < names.index("usr/bin/odd")


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    assert archive(make_stage(tmp_path / "one")) == archive(make_stage(tmp_path / "two"))


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed here")
def test_the_usual_program_reads_it(tmp_path: Path) -> None:
    data = archive(make_stage(tmp_path))
    listed = subprocess.run(["cpio", "-t", "--quiet"], input=data, capture_output=True, check=True).stdout.decode()
    assert {"init", "bin", "usr/bin/odd", "dev/console"} <= set(listed.split())


VERSION = "6.1.0-1-amd64"
LDD = """\
/bin/busybox:
\tlinux-vdso.so.1 (0x00007ffd)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f)
"""


class Chroot(FakeRunner):
    """Programs of the tree; what the packer compresses is kept as it is."""

    def run(self, argv, **options):  # type: ignore[no-untyped-def]
        words = [str(word) for word in argv]
        if words[0] == "zstd":
            shutil.copyfile(words[-3], words[-1])
            return Completed(tuple(words), 0, "", "")
        return super().run(argv, **options)


def make_tree(tree: Path) -> Path:
    files = {
        f"boot/vmlinuz-{VERSION}": "kernel",
        "usr/bin/busybox": "busybox",
        "usr/bin/unwanted": "unwanted",
        "usr/lib/x86_64-linux-gnu/libc-2.36.so": "libc",
        "usr/lib/x86_64-linux-gnu/ld.so": "ld",
        "usr/lib/python3.11/json.py": "json",
        "usr/lib/python3.11/turtle.py": "turtle",
        "usr/lib/python3.11/lib-dynload/_ssl.so": "ssl",
        "usr/lib/python3.11/lib-dynload/_json.so": "json",
        "etc/passwd": "root:x:0:0",
        "etc/group": "root:x:0",
        "etc/alternatives/tool": "tool",
    }
    modules = f"usr/lib/modules/{VERSION}"
    dep = "kernel/drivers/nvme/nvme.ko: kernel/lib/core.ko\nkernel/lib/core.ko:\nkernel/sound/snd.ko:\n"
    files |= {f"{modules}/{line.partition(':')[0]}": "module" for line in dep.splitlines()}
    files |= {f"{modules}/modules.{word}": "" for word in ("order", "builtin", "builtin.modinfo")}
    files[f"{modules}/modules.dep"] = dep
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    for name in ("bin", "lib", "sbin", "lib64"):
        (tree / "usr" / name).mkdir(exist_ok=True)
        (tree / name).symlink_to(f"usr/{name}")
    (tree / "usr/lib/x86_64-linux-gnu/libc.so.6").symlink_to("libc-2.36.so")
    (tree / "usr/lib64/ld-linux-x86-64.so.2").symlink_to("/lib/x86_64-linux-gnu/ld.so")
    (tree / "usr/bin/tool").symlink_to("/etc/alternatives/tool")
    return tree


def pack(tmp_path: Path, programs: str) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    tree, stage, element, agent = (tmp_path / name for name in ("tree", "stage", "element", "agent"))
    make_tree(tree)
    stage.mkdir()
    element.mkdir()
    (element / "programs").write_text(programs)
    (element / "modules").write_text("drivers/nvme  # disks\n")
    (element / "init").write_text("#!/bin/busybox sh\n")
    for room in ("ramdisk", "protocol", "instance"):
        (agent / room).mkdir(parents=True)
        (agent / room / "main.py").write_text(room)
    (agent / "__init__.py").write_text("")
    runner = Chroot({f"chroot {tree} ldd": (0, LDD), f"chroot {stage}": (0, ""), "depmod": (0, "")})
    pack_ramdisk(tree, element, agent, stage, tmp_path / "out", runner=runner)
    assert (tmp_path / "out" / "kernel").read_text() == "kernel"
    return parse_cpio((tmp_path / "out" / "initramfs").read_bytes())


def test_only_what_is_named_and_what_it_needs_is_packed(tmp_path: Path) -> None:
    found = pack(tmp_path, "/bin/busybox\n/bin/tool\n")
    assert found["usr/bin/busybox"][1] == b"busybox"
    assert "usr/bin/unwanted" not in found
    assert found["usr/lib/x86_64-linux-gnu/libc.so.6"][1] == b"libc-2.36.so"
    assert found["usr/lib/x86_64-linux-gnu/libc-2.36.so"][1] == b"libc"
    assert found["usr/lib/x86_64-linux-gnu/ld.so"][1] == b"ld"
    assert found["etc/alternatives/tool"][1] == b"tool"
    modules = {name.rpartition("/")[2] for name in found if name.endswith(".ko")}
    assert modules == {"nvme.ko", "core.ko"}
    library = "usr/lib/python3.11"
    assert f"{library}/json.py" in found and f"{library}/turtle.py" not in found
    assert f"{library}/lib-dynload/_json.so" in found and f"{library}/lib-dynload/_dbm.so" not in found
    assert found[f"{library}/provisioner_agent/ramdisk/main.py"][1] == b"ramdisk"
    assert f"{library}/provisioner_agent/instance/main.py" not in found
    assert found["init"][0] == 0o100755


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="/sbin/sfdisk") as caught:
        pack(tmp_path, "/bin/busybox\n/sbin/sfdisk\n")
    assert "package-installs" in str(caught.value.hint)
