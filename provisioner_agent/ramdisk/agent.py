"""The agent's life: hello, then one order after the other, each answered until the server has heard it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from provisioner_agent.protocol.auth import build_record
from provisioner_agent.protocol.link import RamdiskLink, Refused, ServerAway
from provisioner_agent.protocol.messages import HELLO, LONG_POLL, ORDER, RESULT
from provisioner_agent.ramdisk.bmc import write_record
from provisioner_agent.ramdisk.host import Host
from provisioner_agent.ramdisk.patience import Pace
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.progress import Meter, Progress

POWER_OFF, RESTART = "power-off", "restart"
ANSWER_SECONDS = 15.0
CLOCK_SLACK = 60.0
POWER_OFF_TRIES = 3
SECRET = "/run/provisioner-secret"
BOOT_ID = "/proc/sys/kernel/random/boot_id"

Work = Callable[[Mapping[str, Any], Meter], dict[str, Any]]
"""An order's work: (order, meter) → detail of its result; raises OrderFailed."""


class Agent:
    """``works``: by step name. ``hardware``: reads the report; done anew for each hello. ``proves``: by the BMC."""

    def __init__(
        self,
        host: Host,
        link: RamdiskLink,
        works: Mapping[str, Work],
        hardware: Callable[[], Mapping[str, Any]],
        proves: bool = False,
    ) -> None:
        self._proves = proves
        self._host, self._link, self._works, self._hardware = host, link, works, hardware
        self._pace = Pace(host)
        self._trouble = ""
        self._answered: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        """Come back when the node is to be off, or to run its instance."""
        self.say_hello()
        while not (last := self.serve_once()):
            pass
        if last == RESTART:
            self._host.say("the instance is started")
            self._host.jump()
        else:
            self._host.say("the server orders the node off")
            self._host.power_off()

    def say_hello(self) -> None:
        """Until the server takes it; sets the clock if it is wrong."""
        hardware = dict(self._hardware())
        secret = self._own_secret()
        body: dict[str, Any] = {"boot_id": self._host.read_text(BOOT_ID), "secret": secret, "hardware": hardware}
        if self._proves:
            body["proof"] = write_record(self._host, build_record(secret))
        disks = ", ".join(f"{disk['name']} {disk['size'] / 1e9:.1f} GB" for disk in hardware.get("disks", []))
        self._host.say(f"hardware: {hardware.get('cpus')} CPUs; disks: {disks or 'none'}")
        while (answer := self._call("POST", HELLO, body)) is None:
            pass
        self._link.speak_under(secret)
        self._host.say("the server knows this node; orders are waited for")
        clock = answer.get("clock")
        if isinstance(clock, int | float):
            correct_clock(self._host, float(clock), CLOCK_SLACK)

    def _own_secret(self) -> str:
        """The same for each agent of this boot: one that was started again is not taken for somebody else."""
        secret = self._host.read_text(SECRET)
        if not secret:
            secret = secrets.token_urlsafe(32)
            self._host.write_file(SECRET, secret.encode(), 0o600)
        return secret

    def serve_once(self) -> str:
        """Wait for an order, do it, answer it. :returns: its step when nothing can come after it, else nothing."""
        begun = self._host.monotonic()
        said = self._call("GET", f"{ORDER}?wait={LONG_POLL:.0f}", None, LONG_POLL + ANSWER_SECONDS)
        if said is None:
            return ""
        order = said.get("order")
        if not isinstance(order, dict) or "id" not in order:
            if self._host.monotonic() - begun < 1:  # the server did not hold the request
                self._host.sleep(1)
            return ""
        ident, step = str(order["id"]), str(order.get("step"))
        known = ident in self._answered
        if not known:
            self._answered[ident] = self._do(ident, step, order)
        off = step == POWER_OFF
        heard = self._answer(self._answered[ident], POWER_OFF_TRIES if off else None)
        if known and heard:
            self._host.sleep(1)  # it was heard before, too, and the order came all the same
        jumps = step == RESTART and heard and self._answered[ident]["ok"] is True
        return step if off or jumps else ""

    def _do(self, ident: str, step: str, order: Mapping[str, Any]) -> dict[str, Any]:
        """:returns: the body of the result."""
        if step == POWER_OFF:
            return {"order": ident, "ok": True, "detail": {}}
        self._host.say(f"order: {step}")
        begun = self._host.monotonic()
        try:
            detail = self._work(ident, step, order)
        except OrderFailed as error:
            self._host.say(f"order failed: {step}: {error}")
            problem = {"summary": error.summary, "cause": error.cause}
            return {"order": ident, "ok": False, "detail": {}, "error": problem}
        self._host.say(f"order done: {step}, {self._host.monotonic() - begun:.1f} s")
        return {"order": ident, "ok": True, "detail": detail}

    def _work(self, ident: str, step: str, order: Mapping[str, Any]) -> dict[str, Any]:
        work = self._works.get(step)
        if work is None:
            raise OrderFailed(f"this ramdisk does not know the step {step!r}", "its image is older than the server")
        try:
            with Progress(self._host, self._link, ident) as meter:
                return work(order, meter)
        except (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
            # The server must hear of it: an agent that ended here would be silent until the step's deadline.
            raise OrderFailed(f"{step} went wrong in a way that nobody thought of", repr(error)) from error

    def _answer(self, result: Mapping[str, Any], tries: int | None) -> bool:
        """Post a result until it is heard, or ``tries`` times; a refused one is left to the next order."""
        left = tries
        while left is None or left > 0:
            refusals: list[Refused] = []
            if self._call("POST", RESULT, result, refusals=refusals) is not None:
                return True
            if refusals:
                return False
            left = None if left is None else left - 1
        return False

    def _call(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None,
        timeout: float = ANSWER_SECONDS,
        refusals: list[Refused] | None = None,
    ) -> dict[str, Any] | None:
        """One try. None, after a pause, when the server is away or says no; the console hears of changes only."""
        try:
            answer = self._link.call(method, target, body, timeout=timeout)
        except (ServerAway, Refused) as error:
            if isinstance(error, Refused) and refusals is not None:
                refusals.append(error)
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._host.say(f"{self._trouble}; tried again")
            self._pace.rest()
            return None
        if self._trouble:
            self._host.say("the server answers again")
            self._trouble = ""
        self._pace.reset()
        return answer if isinstance(answer, dict) else {}


def correct_clock(host: Host, server: float, slack: float) -> None:
    """Set the node's clock to the server's if it is off by more than ``slack`` seconds.

    :param server: its time, in seconds since the epoch.
    """
    if abs(server - host.now()) <= slack:
        return
    host.say("the clock is set to the server's")
    try:
        host.set_clock(server)
    except OSError as error:
        host.say(f"the clock cannot be set: {error}")
