"""One controller's requests, in a process of its own: log in once, keep the session, wait for effects, give up in time.

A process ends after any failure, so that nothing of a broken session outlives it; the next request starts a fresh one.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, TypeVar

from provisioner.bmc.driver import READINGS, Controller, Drivers, Switch, Way
from provisioner.bmc.quirks import Quirk, QuirkEntry, match_quirks
from provisioner.bmc.trouble import Busy, Failed, Silent, Stale, TimeUp, Trouble
from provisioner.model.hardware import BootDevice, Power
from provisioner.system.clock import Clock, HostClock

ANSWER_SECONDS = 7.5
"""A controller that has said nothing for so long is silent, however late the deadline is."""
MARGIN_SECONDS = 0.4
"""Kept back from a deadline, so that the answer of this process, which knows more, comes before its caller's own."""
FIRST_SPACING, SILENT_SPACING, LAST_SPACING, NO_SPACING = 0.1, 0.4, 1.0, 0.02
SPACING_DECAY = 0.8
FIRST_LOOK, LAST_LOOK, LOOK_GROWTH = 0.05, 1.0, 1.5

BY_HAND = "look at it by hand: {ipmitool}"
LAST_ORDER = "its operating system does not follow; switch it off without asking: provisioner node power {node} off"

Result = TypeVar("Result")


class Session:
    """Serves requests for one controller and paces its commands.

    :param spacing: seconds between two commands: none at first, more after each sign that the controller is busy,
        slowly less with each command that goes well.
    """

    def __init__(
        self,
        drivers: Drivers,
        clock: Clock,
        alarm: Callable[[float], None],
        quirks: Sequence[QuirkEntry] = (),
    ) -> None:
        self._drivers = drivers
        self._quirks = quirks
        self._clock = clock
        self._alarm = alarm
        self._controller: Controller | None = None
        self._credentials: tuple[str, str] = ("", "")
        self._last = -LAST_SPACING
        self._end = 0.0
        self.spacing = 0.0

    def serve(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request, which also says the new ``spacing``. ``error`` in it means: end this process."""
        self._end = self._clock.monotonic() + max(float(request["seconds"]) - MARGIN_SECONDS, 0.1)
        self.spacing = float(request["spacing"])
        answer: dict[str, Any] = {"id": request["id"]}
        self._alarm(min(self._left(), ANSWER_SECONDS))
        try:
            answer["result"] = self._do(request)
        except TimeUp:
            answer["error"] = _error(Silent("no answer", "the request did not end in time", "by hand: {ipmitool}"))
        except Trouble as trouble:
            answer["error"] = _error(trouble)
        except Exception as error:  # a fault of ours or of the library's: named by its kind, its words may hold secrets
            answer["error"] = _error(Failed("the driver failed", f"{type(error).__name__} in {request['verb']}"))
        finally:
            self._alarm(0)
        if self._controller is not None and answer.get("error", {}).get("kind") == "silent":
            self._slow_down(SILENT_SPACING)
        return answer | {"spacing": self.spacing}

    def close(self) -> None:
        if self._controller is not None:
            self._controller.close()
            self._controller = None

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        controller = self._log_in(request)
        verb, arguments = request["verb"], request["arguments"]
        if verb == "verify":
            return self._paced(controller.facts) | {"power": self._paced(controller.power)}
        if verb == "power":
            return {"power": self._paced(controller.power)}
        if verb == "set_power":
            return {"power": self._set_power(controller, arguments["want"])}
        if verb in READINGS:
            return {verb: self._paced(getattr(controller, verb))}
        if verb == "event_record":
            return {verb: self._paced(lambda: controller.event_record(arguments["record"])).hex()}
        if verb == "audit":
            return {"audit": self._paced(lambda: controller.audit(self._clock.now()))}
        if verb == "identify":
            self._paced(lambda: controller.identify(arguments["light"]))
            return {}
        if verb == "change_password":
            self._paced(lambda: controller.change_password(arguments["new"]))
            return {}
        device, uefi, persistent = (arguments[key] for key in ("device", "uefi", "persistent"))
        return self._set_boot_device(controller, BootDevice(device), bool(uefi), bool(persistent))

    def _log_in(self, request: dict[str, Any]) -> Controller:
        credentials = (request["way"]["username"], request["way"]["password"])
        if self._controller is not None:
            if credentials != self._credentials:
                self.close()
                raise Stale("the session was for other credentials")
            if not self._paced(self._controller.alive):
                raise Stale("the session is gone")
        else:
            connect = self._drivers[request["driver"]]
            self._controller = connect(Way(**request["way"]))
            if any(entry.match.get("driver") == request["driver"] for entry in self._quirks):
                identity = self._controller.identity()
                self._controller.quirks = match_quirks(self._quirks, request["driver"], identity)
            self._credentials = credentials
            self._last = self._clock.monotonic()
        self._alarm(self._left())
        return self._controller

    def _set_power(self, controller: Controller, want: str) -> Power:
        now = self._paced(controller.power)
        if want in ("reset", "cycle") and now is Power.ON:
            self._paced(lambda: controller.switch("reset" if want == "reset" else "cycle"))
            return self._wait_for(controller, Power.ON)
        goal = Power.OFF if want in ("off", "soft") else Power.ON
        if now is goal:
            return now
        word: Switch = "soft" if want == "soft" else "off" if goal is Power.OFF else "on"
        self._paced(lambda: controller.switch(word))
        return self._wait_for(controller, goal, LAST_ORDER if want == "soft" else BY_HAND)

    def _wait_for(self, controller: Controller, goal: Power, hint: str = BY_HAND) -> Power:
        """Look until the power is as wanted. The first look is at once: most controllers have done it by then."""
        start = self._clock.monotonic()
        pause = FIRST_LOOK
        while self._paced(controller.power) is not goal:
            if self._left() < pause:
                raise Failed(
                    f"the power did not turn {goal}",
                    f"the controller took the command, but {self._clock.monotonic() - start:.1f} s later says that"
                    f" the power is not {goal}",
                    hint,
                )
            self._clock.sleep(pause)
            pause = min(pause * LOOK_GROWTH, LAST_LOOK)
        return goal

    def _set_boot_device(
        self, controller: Controller, device: BootDevice, uefi: bool, persistent: bool
    ) -> dict[str, Any]:
        self._paced(lambda: controller.set_boot_device(device, uefi, persistent))
        kept = self._paced(controller.boot_device)
        if kept is None:
            return {"confirmed": False}
        if Quirk.BOOT_LIFETIME_UNKNOWN in controller.quirks:
            kept = replace(kept, persistent=None)
        otherwise = "the boot device is kept otherwise"
        if kept.device != device:
            raise _not_kept(f"the boot device is not {device}", f"the next boot is from {kept.device}")
        if kept.uefi not in (None, uefi):
            raise _not_kept(otherwise, f"it will boot by {'UEFI' if kept.uefi else 'BIOS'}")
        if kept.persistent not in (None, persistent):
            raise _not_kept(otherwise, f"it holds {'for ever' if kept.persistent else 'once'}")
        return {"confirmed": True}

    def _paced(self, command: Callable[[], Result]) -> Result:
        """Send one command; leave the controller alone for as long as it needs, and again while it says busy."""
        while True:
            pause = self._last + self.spacing - self._clock.monotonic()
            if pause > 0:
                self._clock.sleep(pause)
            try:
                result = command()
            except Busy:
                self._slow_down(LAST_SPACING)
                if self._left() < self.spacing:
                    raise
            else:
                slower = self.spacing * SPACING_DECAY
                self.spacing = slower if slower > NO_SPACING else 0.0
                return result
            finally:
                self._last = self._clock.monotonic()

    def _slow_down(self, limit: float) -> None:
        self.spacing = max(self.spacing, min(max(self.spacing * 2, FIRST_SPACING), limit))

    def _left(self) -> float:
        return self._end - self._clock.monotonic()


def _not_kept(summary: str, words: str) -> Failed:
    cause = f"the controller took the command, but says that {words}"
    return Failed(summary, cause, "look at it by hand: {ipmitool:chassis bootparam get 5}")


def _error(trouble: Trouble) -> dict[str, str]:
    return {"kind": trouble.kind, "summary": trouble.summary, "cause": trouble.cause, "hint": trouble.hint}


def run_session(drivers: Drivers, door: socket.socket, quirks: Sequence[QuirkEntry] = ()) -> None:
    """Serve the requests that come through ``door``, one line of JSON each, until it is closed or one fails."""
    signal.signal(signal.SIGALRM, _time_up)
    session = Session(drivers, HostClock(), _set_alarm, quirks)
    for line in _lines(door):
        answer = session.serve(json.loads(line))
        door.sendall(json.dumps(answer).encode() + b"\n")
        if "error" in answer:
            if answer["error"]["kind"] in ("silent", "stale"):
                return  # nobody there to say goodbye to
            break
    with _brief(1.0):
        session.close()


def _time_up(number: int, frame: FrameType | None) -> None:
    raise TimeUp


def _set_alarm(seconds: float) -> None:
    """:class:`TimeUp` after so long, and again each second should something have swallowed it; 0 takes it back."""
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0), 1.0 if seconds > 0 else 0)


@contextmanager
def _brief(seconds: float) -> Iterator[None]:
    _set_alarm(seconds)
    try:
        yield
    except (TimeUp, Trouble, OSError):
        pass
    finally:
        _set_alarm(0)


def _lines(door: socket.socket) -> Iterator[bytes]:
    with door.makefile("rb") as lines:
        yield from lines
