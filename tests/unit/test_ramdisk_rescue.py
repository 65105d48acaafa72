"""The ramdisk lets an operator in."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner_agent.ramdisk.fakehost import FakeHost
from provisioner_agent.ramdisk.host import Finished
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.rescue import do_rescue

KEYS = ["ssh-ed25519 AAAA one@desk", "ssh-ed25519 BBBB two@desk"]
SAID = "Public key portion is:\nssh-ed25519 AAAA\nFingerprint: SHA256:0123abcd\n"


def test_keys_are_let_in_and_the_hosts_own_is_told(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, {"/dev/ttyS0": ""})
    written: dict[str, bytes] = {}
    host.write_file = lambda path, data, mode: written.update({path: data})  # type: ignore[method-assign]
    host.ensure_folder = lambda path: None  # type: ignore[method-assign]
    host.programs["dropbearkey"] = lambda argv, stdin: Finished(0, SAID if "-y" in argv else "")
    assert do_rescue(host, {"keys": KEYS}) == {"consoles": ["ttyS0"], "fingerprint": "SHA256:0123abcd"}
    assert written["/root/.ssh/authorized_keys"] == f"{KEYS[0]}\n{KEYS[1]}\n".encode()
    assert written["/etc/passwd"].endswith(b":/bin/sh\n")
    started = [run for run in host.runs if run[0] == "dropbear"]
    assert len(started) == 1 and "-s" in started[0], "no password lets anybody in"


def test_without_a_key_there_are_only_the_consoles(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, {"/dev/ttyS0": "", "/dev/tty0": ""})
    assert do_rescue(host, {"keys": []}) == {"consoles": ["ttyS0", "tty0"]}
    assert [run[0] for run in host.runs] == ["/bin/busybox"] * 2
    assert all(run[3].startswith("setsid -f ") and run[3].endswith(">/dev/null 2>&1") for run in host.runs)


def test_a_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    host.write_file = lambda path, data, mode: None  # type: ignore[method-assign]
    host.ensure_folder = lambda path: None  # type: ignore[method-assign]
    host.programs["dropbear"] = lambda argv, stdin: Finished(1, "", "address in use")
    with pytest.raises(OrderFailed, match="dropbear does not"):
        do_rescue(host, {"keys": KEYS})
