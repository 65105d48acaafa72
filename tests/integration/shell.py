"""A shell in a machine of the rack, by SSH over the rack's network."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rack import INSIDE


class Shell:
    """As root of a machine that lets in ``public``. :param folder: of the key, which is made if there is none."""

    def __init__(self, folder: Path, address: str) -> None:
        self._address = address
        self.key = folder / "key"
        if not self.key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)

    @property
    def public(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    def run(self, command: str, codes: tuple[int, ...] = (0,), timeout: float = 300) -> str:
        done = self._run(command, b"", timeout)
        said = done.stdout.decode()
        assert done.returncode in codes, f"{command!r} ended with {done.returncode}\n{said}\n{done.stderr.decode()}"
        return said.strip()

    def put(self, file: Path, path: str) -> None:
        """A copy of a file, readable by its owner."""
        done = self._run(f"umask 077 && cat >{path}", file.read_bytes(), 300)
        assert done.returncode == 0, done.stderr.decode()

    def _run(self, command: str, given: bytes, timeout: float) -> subprocess.CompletedProcess[bytes]:
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=60"]
        words = [word for option in options for word in ("-o", option)]
        argv = [*INSIDE, "ssh", "-q", "-i", str(self.key), *words, f"root@{self._address}", command]
        return subprocess.run(argv, capture_output=True, timeout=timeout, input=given)
