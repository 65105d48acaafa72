"""A cloud watched until it is ready: live on a terminal, as plain lines elsewhere, and the tables at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from provisioner.cli.options import Options, clean
from provisioner.cli.show import build_table, describe, seconds, terminal
from provisioner.client.client import Client
from provisioner.errors import DeadlinePassed, DeployError, ServerUnreachable
from provisioner.model.deployment import Deployment, StepName, StepState
from provisioner.model.states import NodeState
from provisioner.model.status import CloudStatus, MemberStatus, NodeView
from provisioner.system.clock import Clock

LOOK, PAUSES, LONGEST_PAUSE = 1.0, 20.0, 5.0
"""Seconds between two looks at the cloud; and at least so many times what a look took, since a large cloud's costs
work, but never longer than the last."""
PATIENCE = 15.0
"""Seconds that the service may be away, restarting, before the watch is given up."""
MEASURES = ("bytes", "total", "rate", "remaining")
"""What a step says of how far it is."""
SPEAK = 10.0
"""Seconds after which a node that is writing gets a plain line, though its step is the same."""

PHASES: dict[str, tuple[StepName, StepName]] = {
    "boot": (StepName.RESERVE, StepName.HELLO),
    "disk": (StepName.CHOOSE_DISK, StepName.STORAGE),
    "image": (StepName.WRITE_IMAGE, StepName.WRITE_IMAGE),
    "seed": (StepName.SEED_INSTANCE, StepName.BOOT_LOADER),
    "start": (StepName.BOOT_DISK, StepName.RESTART),
    "configure": (StepName.CONFIGURE, StepName.CONFIGURE),
    "probe": (StepName.PROBE, StepName.PROBE),
}
"""The first and the last step of each phase that the closing table shows."""


class Face(Protocol):
    def show(self, status: CloudStatus, elapsed: float) -> None:
        """What is known ``elapsed`` seconds after the beginning."""

    def close(self) -> None: ...


def watch(client: Client, status: CloudStatus, *, clock: Clock, timeout: float, face: Face) -> CloudStatus:
    """Look until the cloud is ready or failed.

    :raises DeadlinePassed: neither within ``timeout`` seconds. :raises DeployError: a member was taken out meanwhile.
    :raises ServerUnreachable: the service was away for longer than :data:`PATIENCE`.
    """
    begun = heard = clock.monotonic()
    took = 0.0
    try:
        while True:
            now = clock.monotonic()
            face.show(status, now - begun)
            if status.ready or status.failed:
                return status
            if now - begun >= timeout:
                raise _passed(status, timeout)
            clock.sleep(min(max(LOOK, took * PAUSES), LONGEST_PAUSE, max(0.05, timeout - (now - begun))))
            try:
                asked = clock.monotonic()
                before, status = status, client.cloud_status(status.cloud)
                heard = clock.monotonic()
                took = heard - asked
                _check_members(before, status)
            except ServerUnreachable:
                if clock.monotonic() - heard >= PATIENCE:
                    raise
    finally:
        face.close()


def _check_members(before: CloudStatus, status: CloudStatus) -> None:
    """Whoever was aborted, released or forgotten by somebody is not waited for."""
    gone = {member.hostname: member.node for member in before.members if member.hostname not in before.leaving}
    for member in status.members:
        gone.pop(member.hostname, None)
    if gone:
        raise DeployError(
            f"{', '.join(gone)} was taken out of the cloud while it was waited for",
            where=", ".join(gone.values()),
            cause="its node was aborted, released or forgotten; the others go on",
            hint="provisioner apply the cloud file again",
        )


def _passed(status: CloudStatus, timeout: float) -> DeadlinePassed:
    behind = [f"{member.node} {_now(member)}" for member in status.members if not _settled(member)]
    return DeadlinePassed(
        f"cloud {status.cloud} is not ready within {timeout:g} s; the work goes on",
        cause="; ".join(behind) or "; ".join(f"{role}: {text}" for role, text in status.roles.items()) or None,
        hint=f"provisioner cloud status {status.cloud}",
    )


def _settled(member: MemberStatus) -> bool:
    return member.state == "active" and member.applied == member.generation and member.healthy is not False


def _now(member: MemberStatus) -> str:
    """What a member is doing, in words."""
    words = [member.step or member.state]
    if member.state == "active" and not _settled(member):
        words.append(f"generation {member.applied} of {member.generation}")
        words += ["not healthy"] if member.healthy is False else []
    if detail := describe(member.detail):
        words.append(detail)
    if member.waiting:
        words.append(f"waits: {member.waiting}")
    return ", ".join(words)


class PlainFace:
    """A line for each change of a member's step, and every :data:`SPEAK` seconds while its image is written."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said: dict[str, tuple[object, ...]] = {}
        self._when: dict[str, float] = {}

    def show(self, status: CloudStatus, elapsed: float) -> None:
        for member in status.members:
            known = (member.state, member.step, member.waiting, member.applied, member.healthy)
            writing = member.step == StepName.WRITE_IMAGE and elapsed - self._when.get(member.node, 0.0) >= SPEAK
            if self._said.get(member.node) != known or writing:
                self._said[member.node] = known
                self._when[member.node] = elapsed
                self._say(clean(f"{elapsed:7.1f} s  {member.node:<10} {member.hostname:<14} {_now(member)}"))
        for role, text in status.roles.items():
            if self._said.get(f"role {role}") != (text,):
                self._said[f"role {role}"] = (text,)
                self._say(clean(f"{elapsed:7.1f} s  role {role}: {text}"))
        if self._said.get("leaving", ()) != tuple(status.leaving):
            self._said["leaving"] = tuple(status.leaving)
            self._say(clean(f"{elapsed:7.1f} s  to leave: {leaving_text(status)}"))

    def close(self) -> None:
        pass


class LiveFace:
    """A table that is drawn anew at each look."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, status: CloudStatus, elapsed: float) -> None:
        rows = [
            (m.node, m.hostname, m.state, m.step, describe(m.detail), seconds(m.seconds), m.waiting)
            for m in status.members
        ]
        table = build_table(("node", "host name", "state", "step", "progress", "seconds", "waits for"), rows)
        roles = "".join(f"{clean(role)}: {clean(text)}   " for role, text in status.roles.items())
        roles += clean(f"to leave: {leaving_text(status)}") if status.leaving else ""
        self._live.update(Group(table, Text(f"{elapsed:.0f} s   {roles}", style="dim")), refresh=True)

    def close(self) -> None:
        self._live.stop()


def leaving_text(status: CloudStatus) -> str:
    """Who is still to leave its node, and why."""
    return ", ".join(f"{hostname} {what}" for hostname, what in status.leaving.items()) or "nobody any more"


def phase_seconds(deployment: Deployment) -> dict[str, float]:
    """Seconds from the begin of a phase's first step to the end of its last, for the phases that are over."""
    steps = {step.name: step for step in deployment.steps}
    found = {}
    for phase, (first, last) in PHASES.items():
        if first in steps and last in steps:
            started, ended = steps[first].started, steps[last].ended
            if started is not None and ended is not None:
                found[phase] = max(0.0, ended - started)
    return found


def print_members(status: CloudStatus) -> None:
    rows = []
    for m in status.members:
        healthy = {True: "yes", False: "no", None: ""}[m.healthy]
        addresses = ", ".join(m.addresses)
        generation = f"{m.applied} of {m.generation}" if m.generation else ""
        rows.append((m.node, m.hostname, m.role, m.state, m.step, generation, healthy, addresses, m.waiting))
    columns = ("node", "host name", "role", "state", "step", "generation", "healthy", "addresses", "waits for")
    console = terminal()
    console.print(build_table(columns, rows))
    for role, text in status.roles.items():
        console.print(Text(clean(f"role {role}: {text}")))
    if status.leaving:
        console.print(Text(clean(f"to leave: {leaving_text(status)}")))


def print_phases(deployments: Mapping[str, Deployment]) -> None:
    """Seconds per phase of each node's deployment, and from its begin to its last step's end."""
    rows = []
    for node, deployment in sorted(deployments.items()):
        took = phase_seconds(deployment)
        ends = [step.ended for step in deployment.steps if step.ended is not None]
        total = max(ends) - deployment.created if ends else None
        rows.append((node, *(seconds(took.get(phase)) for phase in PHASES), seconds(total)))
    if rows:
        terminal().print(build_table(("node: seconds", *PHASES, "total"), rows))


def watch_node(
    options: Options,
    client: Client,
    name: str,
    running: Collection[NodeState],
    seconds: float,
    until: Callable[[NodeView], bool] = lambda view: False,
) -> NodeView:
    """Look until a node is in none of the states ``running``; each step is told as it begins, on standard error.

    :param until: it is also enough when this holds.
    :raises DeadlinePassed: it still is after ``seconds``.
    """
    begun, last, spoke = options.clock.monotonic(), "", 0.0
    while True:
        view = client.node(name)
        departure = view.departure
        leaves = departure is not None and departure.going and departure.failure is None
        if (view.node.state not in running and not leaves) or until(view):
            return view
        elapsed = options.clock.monotonic() - begun
        if elapsed > seconds:
            raise DeadlinePassed(
                f"it is still {view.node.state} after {seconds:.0f} s; the service goes on",
                where=name,
                hint=f"provisioner node show {name}",
            )
        step, news = str(view.node.state), ""
        if leaves and departure is not None:
            step = f"{departure.state} before it {departure.what}"
        if view.deployment and view.node.deployment == view.deployment.id:
            running_one = next((step for step in view.deployment.steps if step.state is StepState.RUNNING), None)
            if running_one is not None:
                step = str(running_one.name)
                news = describe({key: running_one.detail.get(key, "") for key in MEASURES})
        if (step != last or (news and elapsed - spoke >= SPEAK)) and not options.json:
            click.echo(f"  {elapsed:6.1f} s  {name}: {step}{f', {news}' if news else ''}", err=True)
            last, spoke = step, elapsed
        options.clock.sleep(0.5)
