"""``provisioner node``: the servers on record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from provisioner.cli.main import error_lines
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import open_client
from provisioner.cli.show import clock_time, describe, print_facts, print_table, seconds
from provisioner.client.client import Client
from provisioner.errors import EXIT_ERROR, DeadlinePassed, error_from_dict
from provisioner.model.deployment import Deployment, Node, Step, StepState
from provisioner.model.hardware import HardwareReport, Nic
from provisioner.model.states import EXITS, NodeState
from provisioner.model.status import NodeView

GIB = 1 << 30
INSPECT_SECONDS = 1200.0
"""Longer than any step of an inspection may take."""


@click.command("list")
@output_option
@pass_options
def list_nodes(options: Options) -> None:
    """List the nodes on record.

    \b
    Example:
      provisioner node list
    """
    with open_client(options) as client:
        nodes = client.nodes()
    if options.json:
        print_json([node.model_dump(mode="json") for node in nodes])
        return
    columns = ("node", "state", "power", "healthy", "BMC", "MAC", "firmware", "generation", "exits")
    print_table(columns, [_row(node) for node in nodes])
    for error in [error for node in nodes for error in (node.failure, node.bmc_error) if error]:
        click.echo(clean("\n".join(error_lines(error_from_dict(error)))), err=True)


def _row(node: Node) -> tuple[object, ...]:
    spec = node.spec
    generation = f"{node.applied} of {node.generation}" if node.generation else ""
    healthy = {True: "yes", False: "no", None: ""}[node.healthy]
    macs = ", ".join(port.mac for port in spec.ports)
    exits = ", ".join(EXITS[node.state])
    return node.name, node.state, _power(node), healthy, spec.bmc.address, macs, spec.firmware, generation, exits


def _power(node: Node) -> str:
    """The power as it was last seen, and how it was left if that is other."""
    if node.bmc_error:
        return f"{node.power} (no answer now)"
    return f"{node.power} (was left {node.drift['expected']})" if node.drift else str(node.power)


@click.command("show")
@click.argument("name")
@click.option("--hardware", is_flag=True, help="Also what the ramdisk found on the node.")
@output_option
@pass_options
def show(options: Options, name: str, hardware: bool) -> None:
    """Show a node and the timeline of its deployment, with seconds for each step.

    \b
    Example:
      provisioner node show node1 --hardware
    """
    with open_client(options) as client:
        view = client.node(name)
    if options.json:
        print_json(_view_json(view))
        return
    _print_node(view)
    if view.deployment:
        _print_timeline(view.deployment)
    if hardware:
        _print_hardware(view.node.hardware, view.differences)
    if view.node.failure:
        click.echo(clean("\n".join(error_lines(error_from_dict(view.node.failure)))))


def step_seconds(step: Step) -> float | None:
    return None if step.started is None or step.ended is None else max(0.0, step.ended - step.started)


def _view_json(view: NodeView) -> dict[str, Any]:
    """The view with ``seconds`` in each step that has ended."""
    data = view.model_dump(mode="json")
    if view.deployment:
        for step, shown in zip(view.deployment.steps, data["deployment"]["steps"], strict=True):
            shown["seconds"] = step_seconds(step)
    return data


def _print_node(view: NodeView) -> None:
    node, spec = view.node, view.node.spec
    print_facts(
        [
            ("node", node.name),
            ("uuid", node.uuid),
            ("state", node.state),
            ("power", _power(node)),
            ("BMC", f"{spec.bmc.driver}://{spec.bmc.username}@{spec.bmc.address}:{spec.bmc.port}"),
            ("ports", ", ".join(port.mac for port in spec.ports)),
            ("firmware", spec.firmware),
            ("tags", ", ".join(spec.tags)),
            ("properties", ", ".join(f"{key}={value}" for key, value in spec.properties.items())),
            ("generation", f"{node.applied} applied of {node.generation}" if node.generation else ""),
            ("healthy", {True: "yes", False: "no", None: ""}[node.healthy]),
            ("exits", ", ".join(view.exits)),
        ]
    )


def _print_timeline(deployment: Deployment) -> None:
    place = deployment.placement
    click.echo()
    print_facts(
        [
            ("deployment", deployment.id),
            ("cloud", place.cloud),
            ("role", f"{place.role} ({place.hostname})"),
            ("image", place.image),
            ("addresses", ", ".join(f"{a.address} ({a.network})" for a in place.addresses)),
            ("begun", clock_time(deployment.created)),
            ("state", deployment.state),
        ]
    )
    rows = []
    for step in deployment.steps:
        started = "" if step.started is None else f"+{step.started - deployment.created:.1f}"
        tries = f"attempt {step.attempts}, " if step.attempts > 1 else ""
        rows.append((step.name, step.state, started, seconds(step_seconds(step)), tries + describe(step.detail)))
    print_table(("step", "state", "started", "seconds", "detail"), rows)
    ends = [step.ended for step in deployment.steps if step.ended is not None]
    if ends:
        click.echo(f"{max(ends) - deployment.created:.1f} s in all")


def _print_hardware(report: HardwareReport | None, differences: Sequence[str]) -> None:
    click.echo()
    if report is None:
        click.echo("hardware: not known yet; provisioner node inspect NAME, or a deployment, finds it out")
        return
    kvm = {True: ", and it works", False: ", but it does not work: look at the firmware's settings", None: ""}
    print_facts(
        [
            ("product", report.product),
            ("serial", report.serial),
            ("uuid", report.uuid),
            ("processor", report.processor),
            ("CPUs", f"{report.cpus} in {report.cores or '?'} cores, {report.sockets or '?'} sockets"),
            ("memory", f"{report.memory_mib} MiB"),
            ("firmware", f"{report.firmware} {report.bios}"),
            ("BMC inside", report.bmc_address),
            ("virtualisation", f"yes{kvm[report.kvm]}" if report.virtualisation else "no"),
        ]
    )
    if report.memory:
        modules = [(m.place, m.size_mib, m.speed or "", m.manufacturer, m.part, m.serial) for m in report.memory]
        print_table(("module", "MiB", "MT/s", "manufacturer", "part", "serial"), modules)
    disks = [
        (d.name, f"{d.size / GIB:.1f}", d.model, d.serial, d.wwn, d.by_path, ", ".join(d.signatures) or "nothing")
        for d in report.disks
    ]
    print_table(("disk", "GiB", "model", "serial", "wwn", "path", "holds"), disks)
    nics = [
        (n.name, n.mac, n.driver, f"{n.speed or '?'} Mbit/s" if n.link else "no link", _neighbour(n))
        for n in report.nics
    ]
    print_table(("NIC", "MAC", "driver", "link", "plugged into"), nics)
    for difference in differences:
        click.echo(clean(f"differs: {difference}"))


def _neighbour(nic: Nic) -> str:
    return f"{nic.neighbour.switch} {nic.neighbour.port}" if nic.neighbour else ""


@click.command("inspect")
@click.argument("names", nargs=-1, required=True)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Stay until all are inspected.")
@output_option
@pass_options
def inspect(options: Options, names: tuple[str, ...], wait: bool) -> int:
    """Boot each of NAMES into the ramdisk once, take on record what it is made of, and switch it off.

    Disks are not changed. Where a node is not what its hardware file says, each difference is a line. Switches are
    listened to for half a minute. The exit code is 1 when a node could not be inspected.

    \b
    Example:
      provisioner node inspect a01 a02
    """
    with open_client(options) as client:
        for name in names:
            client.verb(name, "inspect")
        views = [_wait_until_inspected(options, client, name) if wait else client.node(name) for name in names]
    if options.json:
        print_json([_view_json(view) for view in views])
    for view in views if not options.json else ():
        click.echo(_inspected(view))
        for difference in view.differences if wait else ():
            click.echo(clean(f"    differs: {difference}"))
        if view.node.failure:
            click.echo(clean("\n".join(error_lines(error_from_dict(view.node.failure)))), err=True)
    return EXIT_ERROR if any(view.node.state is NodeState.FAILED for view in views) else 0


def _inspected(view: NodeView) -> str:
    node, seen = view.node, view.node.hardware
    if node.state is not NodeState.AVAILABLE or seen is None:
        return f"{node.name} is {node.state}"
    size = sum(disk.size for disk in seen.disks) / GIB
    parts = (
        f"{seen.cpus} CPUs, {seen.memory_mib} MiB, {len(seen.disks)} disks with {size:.0f} GiB, {len(seen.nics)} NICs"
    )
    return f"{node.name}: {parts}"


def _wait_until_inspected(options: Options, client: Client, name: str) -> NodeView:
    """Each step is told as it begins, on standard error."""
    begun, last = options.clock.monotonic(), ""
    while True:
        view = client.node(name)
        running = [step for step in view.deployment.steps if step.state is StepState.RUNNING] if view.deployment else []
        step = str(running[0].name) if running else str(view.node.state)
        if step != last and not options.json:
            click.echo(f"  {options.clock.monotonic() - begun:6.1f} s  {name}: {step}", err=True)
            last = step
        if view.node.state not in (NodeState.INSPECTING, NodeState.CLEANING):
            return view
        if options.clock.monotonic() - begun > INSPECT_SECONDS:
            raise DeadlinePassed(
                f"it is still {view.node.state} after {INSPECT_SECONDS:.0f} s; the service goes on",
                where=name,
                hint=f"provisioner node show {name}",
            )
        options.clock.sleep(0.5)


@click.command("sweep")
@output_option
@pass_options
def sweep(options: Options) -> int:
    """Ask every BMC for its node's power at once. The exit code is 1 when one did not answer.

    Power that is not as it was left is drift; it is only put back where the hardware file says
    `power_policy: restore`.

    \b
    Example:
      provisioner node sweep
    """
    begun = options.clock.monotonic()
    with open_client(options) as client:
        results = sorted(client.sweep(), key=lambda result: result.node)
    took = options.clock.monotonic() - begun
    if options.json:
        print_json([result.model_dump(mode="json") for result in results])
    else:
        rows = [(r.node, r.power, f"it was left {r.drift['expected']}" if r.drift else "") for r in results]
        print_table(("node", "power", "drift"), rows)
        click.echo(f"{len(results)} asked in {took:.2f} s")
        for result in results:
            if result.error:
                click.echo(clean("\n".join(error_lines(error_from_dict(result.error)))), err=True)
    return EXIT_ERROR if any(result.error for result in results) else 0


@click.command("power")
@click.argument("name")
@click.argument("want", required=False, type=click.Choice(["on", "off", "soft", "reset", "cycle"]))
@output_option
@pass_options
def power(options: Options, name: str, want: str | None) -> None:
    """Ask a node's BMC for its power, or change it and read it back.

    `soft` asks the operating system to shut down and waits until it has; `cycle` takes the power away for a moment.

    \b
    Example:
      provisioner node power node1 off
    """
    if want == "soft" and not options.json:
        click.echo(f"{name} is asked to shut down; its BMC is watched until it has, for 90 s", err=True)
    with open_client(options) as client:
        now = client.set_power(name, want)
    if options.json:
        print_json({"node": name, "power": str(now)})
    else:
        click.echo(f"{name} is {now}")


CLEANING_SECONDS = 120.0
"""How long a release or an abort is watched: powering off, and a BMC that has to be asked again."""


def _do_verb(options: Options, name: str, verb: str, *, wait: bool = False) -> None:
    with open_client(options) as client:
        node = client.verb(name, verb)
        if wait:
            node = _wait_until_clean(options, client, node)
    if options.json:
        print_json(node.model_dump(mode="json"))
    else:
        click.echo(f"{name}: {verb}" + ("" if verb == "forget" else f"; it is {node.state} now"))


def _wait_until_clean(options: Options, client: Client, node: Node) -> Node:
    """So that a plan made right after the command can use the node."""
    begun = options.clock.monotonic()
    while node.state is NodeState.CLEANING:
        if options.clock.monotonic() - begun > CLEANING_SECONDS:
            raise DeadlinePassed(
                f"it is still cleaning after {CLEANING_SECONDS:.0f} s; the service goes on",
                where=node.name,
                hint=f"provisioner node show {node.name}",
            )
        options.clock.sleep(0.5)
        node = client.node(node.name).node
    return node


@click.command("retry")
@click.argument("name")
@output_option
@pass_options
def retry(options: Options, name: str) -> None:
    """Try again what failed: the deployment goes on with the step that failed. For a node that is failed.

    \b
    Example:
      provisioner node retry node1
    """
    _do_verb(options, name, "retry")


wait_option = click.option("--wait/--no-wait", default=True, show_default=True, help="Stay until the node is clean.")


@click.command("abort")
@click.argument("name")
@wait_option
@output_option
@pass_options
def abort(options: Options, name: str, wait: bool) -> None:
    """Give up what a node is doing; it is cleaned and available again.

    \b
    Example:
      provisioner node abort node1
    """
    _do_verb(options, name, "abort", wait=wait)


@click.command("release")
@click.argument("name")
@wait_option
@output_option
@pass_options
def release(options: Options, name: str, wait: bool) -> None:
    """Take an active node out of its cloud.

    \b
    Example:
      provisioner node release node3
    """
    _do_verb(options, name, "release", wait=wait)


@click.command("forget")
@click.argument("name")
@output_option
@pass_options
def forget(options: Options, name: str) -> None:
    """Take a node off the record; nothing on the server itself is touched.

    \b
    Example:
      provisioner node forget node1
    """
    _do_verb(options, name, "forget")
