"""``provisioner handover``: the duty of this service goes to a node; told and watched here, done by the service."""

from __future__ import annotations

import click

from provisioner.cli.main import print_error
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import open_client
from provisioner.cli.show import clock_time, print_facts
from provisioner.client.client import Client
from provisioner.errors import Conflict, DeadlinePassed, ServerUnreachable, UsageError, error_from_dict
from provisioner.model.duty import Duty, DutyState

LOOK = 1.0
PATIENCE = 60.0
"""Seconds that the service may be away: it begins anew twice on the way."""
SAYS = {
    DutyState.COPYING: "images are copied; everything goes on as before",
    DutyState.FROZEN: "the records are frozen, copied and proved",
    DutyState.CEDED: "the epoch has moved; the node takes over",
    DutyState.TOMBSTONE: "the node is the master; this service may be switched off",
    DutyState.MASTER: "this service is the master",
}


@click.command("handover")
@click.argument("node", required=False)
@click.option("--resume", is_flag=True, help="Go on with a handover to NODE, or try again one that failed.")
@click.option("--cancel", is_flag=True, help="This service stays the master; possible until the epoch has moved.")
@click.option("--status", is_flag=True, help="Only say how it stands.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Watch until NODE is the master.")
@click.option("--timeout", default=3600.0, show_default=True, help="Seconds to watch; the service goes on after it.")
@output_option
@pass_options
def handover(
    options: Options, node: str | None, resume: bool, cancel: bool, status: bool, wait: bool, timeout: float
) -> None:
    """Make the service on NODE the master of this site, in place of this one.

    NODE is an active node whose role has the element undercloud. Images are copied first; then the records are frozen,
    copied with the keys, and proved there: every row, every signature, a login to some controllers. Only then the epoch
    moves, and from there this service never changes anything again. Until then whatever fails, or is killed, leaves
    this service the master. Nodes find the new one at the same address.

    Exit code 3: it was still under way after --timeout.

    \b
    Example:
      provisioner handover node1
    """
    if sum((cancel, status, resume)) > 1 or (node is None) != (cancel or status):
        raise UsageError("name the node, or give one of --cancel and --status", hint="provisioner handover --help")
    with open_client(options) as client:
        if status:
            _print(options, client.duty())
            return
        if cancel:
            _print(options, client.cancel_handover())
            return
        assert node is not None
        duty = _begin(client, node, resume)
        if wait:
            duty = _watch(options, client, duty, timeout)
    _print(options, duty)


def _begin(client: Client, node: str, resume: bool) -> Duty:
    if resume:
        duty = client.duty()
        if duty.node == node and duty.state is not DutyState.MASTER:
            return duty
    return client.begin_handover(node)


def _watch(options: Options, client: Client, duty: Duty, timeout: float) -> Duty:
    """Until it is over. :raises ProvisionerError: it failed. :raises DeadlinePassed: it is still under way."""
    clock, said, begun = options.clock, "", options.clock.monotonic()
    heard, attempt, node = begun, duty.handover, duty.node
    while True:
        line = describe(duty)
        if line != said:
            said = line
            click.echo(f"{clock.monotonic() - begun:6.1f} s  {clean(line)}", err=options.json)
        if duty.state is DutyState.TOMBSTONE:
            return duty
        if duty.state is DutyState.MASTER:
            failure = duty.detail.get("failure")
            if duty.handover == attempt and failure:
                raise error_from_dict(failure)
            hint = f"provisioner handover {node} --resume"
            raise Conflict("another attempt has taken the place of this one", where=node, hint=hint)
        if clock.monotonic() - begun >= timeout:
            hint = f"provisioner handover {duty.node} --resume watches on"
            raise DeadlinePassed("the handover is still under way", where=duty.node, cause=line, hint=hint)
        clock.sleep(LOOK)
        try:
            duty, heard = client.duty(), clock.monotonic()
        except ServerUnreachable:
            if clock.monotonic() - heard > PATIENCE:
                raise


def describe(duty: Duty) -> str:
    """How far it is, on one line."""
    text = SAYS[duty.state] if not duty.node or duty.own_node == duty.node else f"{duty.node}: {SAYS[duty.state]}"
    count, total = float(duty.detail.get("bytes", 0)), float(duty.detail.get("total", 0))
    if duty.state is DutyState.COPYING and total:
        text += f" ({count / 1e6:.0f} of {total / 1e6:.0f} MB)"
    if duty.state in (DutyState.FROZEN, DutyState.CEDED) and duty.detail.get("doing"):
        text += f" ({duty.detail['doing']})"
    return text


def _print(options: Options, duty: Duty) -> None:
    if options.json:
        shown = duty.model_dump(mode="json")
        print_json(shown | {"detail": {key: value for key, value in duty.detail.items() if key != "tables"}})
        return
    facts = [("duty", describe(duty)), ("epoch", str(duty.epoch))]
    if duty.since:
        facts.append(("since", clock_time(duty.since)))
    for name, value in duty.detail.get("checks", {}).items():
        facts.append((f"proved: {name}", ", ".join(value) if isinstance(value, list) else str(value)))
    print_facts(facts)
    if duty.detail.get("failure"):
        click.echo("the last handover failed:")
        print_error(duty.detail["failure"], err=False)
