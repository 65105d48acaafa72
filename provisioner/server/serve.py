"""``provisioner serve``: the one daemon. It builds the house, opens both listeners, and ends when it is told to.

It may be killed at any moment. Started again it removes what was left in its folder, and the conductor goes on where
the records say.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import uvloop

from provisioner import __version__
from provisioner.events import Event, Observer
from provisioner.model.operator import Operator
from provisioner.server.access import OperatorGuard
from provisioner.server.changes import Changes
from provisioner.server.desk import Desk, ForGuests, ForOperators
from provisioner.server.house import build_house
from provisioner.server.listener import ServiceLock, open_listener, open_operator_socket
from provisioner.server.log import Log, LogHandler
from provisioner.server.operators import operator_app
from provisioner.server.provisioning import PathOf, agent_app, boot_app
from provisioner.server.running import Served, answer
from provisioner.system.clock import HostClock
from provisioner.system.memory import give_back, keep_young, tune_memory
from provisioner.system.settings import Settings
from provisioner.trust.ca import ensure_server

READY = "serve.ready"
"""Kind of the log line that says that both listeners answer."""
GIVE_BACK_SECONDS = 30.0
"""Between two times that memory which is free goes back to the system."""


class Conductor(ForOperators, ForGuests, Protocol):
    """All that the two listeners ask for."""


class House(Protocol):
    """What stands behind the listeners."""

    @property
    def conductor(self) -> Conductor: ...

    def images(self) -> list[Any]:
        """The images of the catalogue."""

    @property
    def path_of(self) -> PathOf: ...

    def forget(self) -> None:
        """Drop what is kept to be read faster, and can be read again."""

    def start(self) -> None:
        """Begin the work: conductor and dnsmasq. The sockets are open by then."""

    def stop(self) -> None:
        """End it. Called also when ``start`` failed."""


def serve(settings: Settings, build: Callable[[Settings, Observer], House] = build_house) -> None:
    """Serve until SIGTERM or SIGINT.

    :raises Conflict: the service runs already. :raises HostError: an address cannot be listened on.
    """
    tune_memory()
    log = Log(HostClock())
    with ExitStack() as stack:
        lock = ServiceLock(settings.run_dir)
        stack.callback(lock.release)
        stack.enter_context(_library_log(log))
        # asyncio's own TLS takes a quarter of a megabyte for each agent that waits, uvloop's an eighth of that.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, build, log))
    log(Event("serve.ended", "the service has ended"))


async def _serve(settings: Settings, build: Callable[[Settings, Observer], House], log: Log) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with ExitStack() as stack:
        operators = open_operator_socket(settings.socket)
        stack.callback(settings.socket.unlink, missing_ok=True)
        stack.callback(operators.close)
        guests = []
        if settings.interface:
            for port, what in ((settings.http_port, "provisioning"), (settings.https_port, "agents'")):
                guests.append(open_listener(settings.host, port, what))
                stack.callback(guests[-1].close)
        remote = None
        if settings.operators_listen:
            place, _, door = settings.operators_listen.rpartition(":")
            remote = open_listener(place.strip("[]"), int(door), "operators'")
            stack.callback(remote.close)
        house = await asyncio.to_thread(build, settings, log)
        stack.callback(house.stop)
        desk = Desk()
        stack.callback(desk.close)
        changes = Changes(house.conductor)
        stack.callback(changes.close)
        app = operator_app(house.conductor, house.images, _about(settings), desk, changes)

        def certify() -> tuple[Path, Path]:
            return ensure_server(settings.keys, settings.run_dir, _names(settings), HostClock().now())

        async def note(event: Event) -> None:
            await desk.for_operator(house.conductor.observe, event)

        async def recognise(token: str) -> Operator | None:
            return await desk.for_operator(house.conductor.recognise, token)

        all_served = [Served(OperatorGuard(app, None, note), operators)]
        if remote is not None:
            all_served.append(Served(OperatorGuard(app, recognise, note), remote, certify))
        if guests:
            boot, agents = guests
            all_served.append(Served(boot_app(house.conductor, house.path_of, desk), boot))
            all_served.append(Served(agent_app(house.conductor, house.path_of, desk, changes), agents, certify))
        await asyncio.to_thread(house.start)
        keep_young()
        stack.callback(asyncio.create_task(_give_back(house)).cancel)
        await answer(all_served, stop, ready=lambda: _say_ready(settings, log), ending=changes.close)
        _notify("STOPPING=1")
        log(Event("serve.ending", "told to end: deployments go on at the next start"))


async def _give_back(house: House) -> None:
    while True:
        await asyncio.sleep(GIVE_BACK_SECONDS)
        await asyncio.to_thread(house.forget)
        await asyncio.to_thread(give_back)


def _names(settings: Settings) -> list[str]:
    """By which this host is reached."""
    places = [settings.operators_listen.rpartition(":")[0].strip("[]"), settings.host]
    return [name for name in (*places, "localhost", socket.gethostname(), socket.getfqdn()) if name]


def _about(settings: Settings) -> dict[str, Any]:
    return {
        "version": __version__,
        "pid": os.getpid(),
        "interface": settings.interface or None,
        "url": settings.url if settings.interface else None,
        "state_dir": str(settings.state_dir),
    }


def _say_ready(settings: Settings, log: Log) -> None:
    if settings.interface:
        nodes = f"nodes on {settings.interface} at {settings.url}"
    else:
        nodes = "no nodes: interface is not set in the configuration file, so nothing can be deployed from here"
    log(Event(READY, f"operators on {settings.socket}; {nodes}"))
    _notify("READY=1")


def _notify(state: str) -> None:
    """Tell systemd, if it started us (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        try:
            door.connect("\0" + address[1:] if address.startswith("@") else address)
            door.send(state.encode())
        except OSError:
            pass  # it only waits longer


@contextmanager
def _library_log(log: Log) -> Iterator[None]:
    handler = LogHandler(log)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
