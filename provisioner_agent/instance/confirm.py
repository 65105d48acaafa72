"""Confirmed commit: what may cut the node off stays only if the server is heard again, over a connection of its own.

The link with which the agent speaks otherwise proves nothing: its connections were made before the change, and its
addresses were read when it started. So each try reads the agent's configuration again and makes a new connection.
What the change leaves no agent to take back, :mod:`.watch` does.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from provisioner_agent.instance.host import Host
from provisioner_agent.instance.permits import back_off
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.auth import AuthError
from provisioner_agent.protocol.link import Link, Refused, ServerAway

TRY_SECONDS = 10.0
PAUSE = 2.0

LOG = logging.getLogger("provisioner-agent")


class Confirmer:
    """Asks the server whether it hears the node.

    :param open_link: gives a link without a connection, from the configuration as it is now; raises OSError,
        ValueError, KeyError or AuthError when that cannot be read. :param report: the message that asks, of a
        generation. :param waiting: is told why, each time the reason changes. :param newest: the newest generation
        that has come.
    """

    def __init__(
        self,
        host: Host,
        open_link: Callable[[], Link],
        chance: random.Random,
        report: Callable[[int], Mapping[str, Any]],
        waiting: Callable[[str | None], None],
        newest: Callable[[], int],
    ) -> None:
        self.host = host
        self.open_link = open_link
        self.chance = chance
        self.newest = newest
        self.report = report
        self.waiting = waiting

    def reach(self, generation: int) -> bool:
        """Before the change: wait until the server is heard, however long that takes; False when a newer one came."""
        failures = 0
        try:
            while True:
                why = self._ask("GET", f"{messages.METADATA}?since={generation}&wait=0", None, TRY_SECONDS)
                if why is None:
                    return True
                failures += 1
                self.waiting(f"the change may cut the node off, so the server must be heard before it: {why}")
                if self.newest() > generation:
                    return False
                self.host.sleep(back_off(failures, self.chance))
        finally:
            self.waiting(None)

    def confirm(self, generation: int, seconds: float) -> str | None:
        """After the change: None as soon as the server is heard; why not, when it was not within ``seconds``."""
        end = self.host.monotonic() + seconds
        until = time.strftime("%H:%M:%S", time.gmtime(self.host.now() + seconds))
        why = "the time was over before the agent started again"
        try:
            while (left := end - self.host.monotonic()) > 0:
                body = {**self.report(generation), "confirming": generation}
                said = self._ask("POST", messages.REPORT, body, min(TRY_SECONDS, left))
                if said is None:
                    LOG.info("generation %s is confirmed: the server was heard over a new connection", generation)
                    return None
                why = said
                self.waiting(f"generation {generation} is taken back at {until} UTC if the server is not heard: {why}")
                self.host.sleep(min(PAUSE, max(0.0, end - self.host.monotonic())))
            return why
        finally:
            self.waiting(None)

    def _ask(self, method: str, target: str, body: Mapping[str, Any] | None, seconds: float) -> str | None:
        """None when an answer came that only the server can give; else why not."""
        try:
            link = self.open_link()
        except (OSError, ValueError, KeyError, AuthError) as error:
            return f"the agent's configuration {messages.AGENT_CONFIG} cannot be used: {type(error).__name__}: {error}"
        try:
            link.call(method, target, body, timeout=seconds)
        except Refused:
            pass  # its answer was authentic, so it was heard
        except ServerAway as error:
            return str(error)
        finally:
            link.close()
        return None
