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
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import uvloop
from starlette.types import ASGIApp

from provisioner import __version__
from provisioner.errors import Conflict
from provisioner.events import Event, Observer
from provisioner.model.duty import Duty
from provisioner.model.operator import Operator
from provisioner.server.access import OperatorGuard
from provisioner.server.changes import Changes
from provisioner.server.desk import Desk, ForGuests, ForOperators
from provisioner.server.fence import Fence, handover_app
from provisioner.server.handover import Handover, mode_of
from provisioner.server.house import build_house
from provisioner.server.listener import OperatorDoors, ServiceLock, open_listener
from provisioner.server.log import Log, LogHandler
from provisioner.server.operators import operator_app
from provisioner.server.provisioning import PathOf, agent_app, boot_app
from provisioner.server.running import Served, answer
from provisioner.store.duty import read_duty
from provisioner.system.address import Addresses, HostAddresses
from provisioner.system.clock import HostClock
from provisioner.system.memory import give_back, keep_young, tune_memory
from provisioner.system.run import HostRunner
from provisioner.system.settings import Settings
from provisioner.trust.ca import ensure_server
from provisioner_agent.protocol.servers import BETWEEN

READY = "serve.ready"
"""Kind of the log line that says that both listeners answer."""
GIVE_BACK_SECONDS = 30.0
"""Between two times that memory which is free goes back to the system."""


BURIED = (False, False)
"""Mode of a service that answers nobody but operators."""


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

    @property
    def handover(self) -> Handover | None:
        """The duty of this service, and how it is given away; None where that cannot be."""

    def start(self) -> None:
        """Begin the work: conductor and dnsmasq. The sockets are open by then."""

    def rest(self) -> None:
        """Instead of ``start`` where the records are not in force: see to it that nothing is done from here."""

    def stop(self) -> None:
        """End it. Called also when ``start`` failed."""


def serve(
    settings: Settings,
    build: Callable[[Settings, Observer], House] = build_house,
    addresses: Addresses | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    What it does depends on its duty: it is the master, or gives that away, or has done so. When that changes it ends
    all that it does, and begins anew as it would after a kill.

    :raises Conflict: the service runs already; or another host has the address at which nodes find the service; or
        this host waits for a handover. :raises HostError: an address cannot be listened on.
    """
    tune_memory()
    log = Log(HostClock())
    door, told = addresses or HostAddresses(HostRunner()), threading.Event()
    with ExitStack() as stack:
        lock = ServiceLock(settings.run_dir)
        stack.callback(lock.release)
        stack.enter_context(_library_log(log))
        operators = OperatorDoors(settings)
        stack.callback(operators.close)
        # asyncio's own TLS takes a quarter of a megabyte for each agent that waits, uvloop's an eighth of that.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            while runner.run(_serve(settings, build, log, door, operators, told)):
                log(Event("serve.turned", "the duty of this service is another; it begins anew"))
    log(Event("serve.ended", "the service has ended"))


def read_own_duty(settings: Settings) -> Duty:
    """Of the records of this host; shared ones are never handed over.

    :raises Conflict: this host has none yet, and makes none.
    """
    if settings.database_url:
        return Duty()
    if settings.awaits and not settings.records.exists():
        raise Conflict(
            "this host gets its records by a handover, and makes none",
            where=str(settings.records),
            hint="provisioner handover NODE on the seed; here provisioner receive waits for it",
        )
    return read_duty(settings.records)


def take_address(settings: Settings, addresses: Addresses, duty: Duty) -> None:
    """The address at which nodes find the service is the master's, and nobody else's.

    :raises Conflict: another host has it: it is the master, or was and runs on.
    """
    interface, service = settings.interface, settings.service
    if not (interface and service):
        return
    if not duty.state.in_force:
        addresses.remove(interface, service)
        return
    if not addresses.has(interface, service):
        other = addresses.owner(interface, service)
        if other is not None:
            raise Conflict(
                "another host has the address at which nodes find the service",
                where=f"{service} on {interface}",
                cause=f"{other} answers for it",
                hint="there is one master: these records may be old, or the other host was not told to end",
            )
        addresses.add(interface, service)


async def _serve(
    settings: Settings,
    build: Callable[[Settings, Observer], House],
    log: Log,
    addresses: Addresses,
    doors: OperatorDoors,
    told: threading.Event,
) -> bool:
    """:param told: set when the service is told to end, also between two rounds.
    :returns: whether its duty has changed, so that it is to begin anew.
    """
    stop, turned = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        told.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    if told.is_set():
        return False
    duty = read_own_duty(settings)
    await asyncio.to_thread(take_address, settings, addresses, duty)
    with ExitStack() as stack:
        operators, *remote = [stack.enter_context(door) for door in doors.for_round()]
        boots, agents = [], []
        if settings.interface and mode_of(duty) != BURIED:
            for host in dict.fromkeys([settings.host, *_service(settings, duty)]):
                if duty.state.in_force:
                    boots.append(open_listener(host, settings.http_port, "provisioning"))
                    stack.callback(boots[-1].close)
                agents.append(open_listener(host, settings.https_port, "agents'"))
                stack.callback(agents[-1].close)
        house = await asyncio.to_thread(build, settings, log)
        stack.callback(house.stop)
        desk = Desk()
        stack.callback(desk.close)
        changes = Changes(house.conductor)
        stack.callback(changes.close)
        app: ASGIApp = operator_app(house.conductor, house.images, _about(settings, duty), desk, changes)
        handover = house.handover
        if handover is not None:

            def turn() -> None:
                turned.set()
                loop.call_soon_threadsafe(stop.set)

            handover.turn = turn
            app = Fence(app, handover_app(handover, desk), duty)

        def certify() -> tuple[Path, Path]:
            return ensure_server(settings.keys, settings.run_dir, _names(settings), HostClock().now())

        async def note(event: Event) -> None:
            if duty.state.in_force:
                await desk.for_operator(house.conductor.observe, event)
            else:
                log(event)

        async def recognise(token: str) -> Operator | None:
            return await desk.for_operator(house.conductor.recognise, token)

        all_served = [Served(OperatorGuard(app, None, note), operators)]
        all_served += [Served(OperatorGuard(app, recognise, note), door, certify) for door in remote]
        if boots:
            boot = boot_app(house.conductor, house.path_of, desk)
            all_served += [Served(boot, door) for door in boots]
        if agents:
            guests = agent_app(
                house.conductor,
                house.path_of,
                desk,
                changes,
                handover=handover,
                master=f"{duty.epoch} {BETWEEN.join(dict.fromkeys([settings.guest_url, settings.own_url]))}",
                frozen=not duty.state.in_force,
            )
            all_served += [Served(guests, door, certify) for door in agents]
        await asyncio.to_thread(house.start if duty.state.in_force else house.rest)
        keep_young()
        stack.callback(asyncio.create_task(_give_back(house)).cancel)
        await answer(all_served, stop, ready=lambda: _say_ready(settings, duty, log), ending=changes.close)
        if turned.is_set() and not told.is_set():
            return True
        _notify("STOPPING=1")
        log(Event("serve.ending", "told to end: deployments go on at the next start"))
        return False


async def _give_back(house: House) -> None:
    while True:
        await asyncio.sleep(GIVE_BACK_SECONDS)
        await asyncio.to_thread(house.forget)
        await asyncio.to_thread(give_back)


def _service(settings: Settings, duty: Duty) -> list[str]:
    return [settings.service] if settings.service and duty.state.in_force else []


def _names(settings: Settings) -> list[str]:
    """By which this host is reached."""
    places = [settings.operators_listen.rpartition(":")[0].strip("[]"), settings.host, settings.service]
    return [name for name in (*places, "localhost", socket.gethostname(), socket.getfqdn()) if name]


def _about(settings: Settings, duty: Duty) -> dict[str, Any]:
    return {
        "version": __version__,
        "pid": os.getpid(),
        "interface": settings.interface or None,
        "url": settings.url if settings.interface else None,
        "state_dir": str(settings.state_dir),
        "duty": str(duty.state),
        "epoch": duty.epoch,
    }


def _say_ready(settings: Settings, duty: Duty, log: Log) -> None:
    if not duty.state.in_force:
        nodes = f"nobody else: the records are not in force ({duty.state}; the duty is given to {duty.node})"
    elif settings.interface:
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
