"""The service's side of a serial console: a process that carries bytes between a node and whoever looks at it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from provisioner.bmc.hints import silent, trouble_error, where
from provisioner.errors import BmcError, BmcRefused
from provisioner.model.hardware import BmcAddress
from provisioner.system.run import base_environment

CONSOLE = (sys.executable, "-m", "provisioner.bmc.console_main")
CHUNK = 4096
END_SECONDS = 5.0


class SerialConsole:
    """One console, opened by the constructor. One thread may read while another writes and closes."""

    def __init__(self, bmc: BmcAddress, password: str, *, force: bool = True, command: Sequence[str] = CONSOLE) -> None:
        """:param force: take it over from whoever has it, to type; without it, only to listen.

        :raises BmcRefused: the driver has no console.
        """
        if bmc.driver != "ipmi":
            raise BmcRefused(
                "the console is reached by IPMI only",
                where=where(bmc),
                cause=f"its driver is {bmc.driver}, which has no console of its own",
                hint="use the console of the controller's web page or its SSH",
            )
        self._bmc = bmc
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=base_environment(),
            start_new_session=True,
        )
        way: dict[str, object] = {"address": bmc.address, "port": bmc.port, "username": bmc.username}
        way |= {"password": password, "force": force}
        self.write(json.dumps(way).encode() + b"\n")

    def read(self) -> bytes:
        """What the node wrote; waits for it. Empty at the end. :raises BmcError: it was not the end asked for."""
        assert self._process.stdout is not None
        try:
            data = self._process.stdout.read1(CHUNK)  # type: ignore[attr-defined]
            return bytes(data) or self._ended()
        except ValueError:
            return b""  # closed meanwhile

    def write(self, data: bytes) -> None:
        """Type it; what cannot be typed any more is lost."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (OSError, ValueError):
            pass  # it has ended; who reads is told why

    def close(self) -> None:
        """End the session and the process."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()  # a reader has its end by now

    def _ended(self) -> bytes:
        assert self._process.stderr is not None
        code = self._process.wait()
        if code == 0:
            return b""
        try:
            said = json.loads(self._process.stderr.read().splitlines()[-1])
            raise trouble_error(self._bmc, said["kind"], said["summary"], said["cause"], said["hint"])
        except (json.JSONDecodeError, LookupError):
            pass
        if code == 2:
            raise silent(self._bmc, "no session for the console within 10 s")
        raise BmcError("the console ended", where=where(self._bmc), cause=f"its process ended with code {code}")
