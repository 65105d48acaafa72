"""How long a silent server is waited for."""

from __future__ import annotations

from provisioner_agent.ramdisk.host import Host
from provisioner_agent.ramdisk.problem import OrderFailed

LONGEST_SILENCE = 300.0
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 5.0


class Pace:
    """Pauses between tries: each twice as long as the one before, up to :data:`LONGEST_PAUSE` seconds."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._pause = FIRST_PAUSE

    def rest(self) -> None:
        self._host.sleep(self._pause)
        self._pause = min(LONGEST_PAUSE, self._pause * 2)

    def reset(self) -> None:
        self._pause = FIRST_PAUSE


class Patience:
    """Waits between connections; ends when no byte has come for :data:`LONGEST_SILENCE` seconds."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._pace = Pace(host)
        self._silent_since: float | None = None
        self._said = ""

    def heard(self) -> None:
        """A byte came. From any thread."""
        self._silent_since = None
        self._pace.reset()

    def wait(self, why: str) -> None:
        """:raises OrderFailed: it has been silent for too long."""
        now = self._host.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since > LONGEST_SILENCE:
            raise OrderFailed(f"the server has sent nothing for {LONGEST_SILENCE:.0f} s", why)
        if why != self._said:
            self._host.say(f"{why}; tried again")
            self._said = why
        self._pace.rest()
