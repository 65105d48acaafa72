"""``provisioner node``: the servers on record."""

from __future__ import annotations

import click

from provisioner.cli.hardware import print_hardware, print_tests, view_json
from provisioner.cli.main import print_error
from provisioner.cli.options import Options, output_option, pass_options, print_json, self_option
from provisioner.cli.reach import open_client
from provisioner.cli.show import clock_time, describe, print_facts, print_table, seconds
from provisioner.errors import EXIT_ERROR
from provisioner.model.deployment import Deployment, Node
from provisioner.model.states import exits_of
from provisioner.model.status import NodeView
from provisioner.model.timeline import step_seconds


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
        print_error(error)


def _row(node: Node) -> tuple[object, ...]:
    spec = node.spec
    generation = f"{node.applied} of {node.generation}" if node.generation else ""
    healthy = {True: "yes", False: "no", None: ""}[node.healthy]
    macs = ", ".join(port.mac for port in spec.ports)
    exits = ", ".join(exits_of(node.state, node.maintenance))
    state = f"{node.state} (maintenance)" if node.maintenance else str(node.state)
    return node.name, state, _power(node), healthy, spec.bmc.address, macs, spec.firmware, generation, exits


def _maintenance(node: Node) -> str:
    """Why it is left alone, and since when."""
    return f"since {clock_time(node.maintenance['since'])}: {node.maintenance['reason']}" if node.maintenance else ""


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
        print_json(view_json(view))
        return
    _print_node(view)
    if view.deployment:
        _print_timeline(view.deployment)
    print_tests(view.node)
    if hardware:
        print_hardware(view.node.hardware, view.differences)
    if view.node.failure:
        print_error(view.node.failure, err=False)


def _print_node(view: NodeView) -> None:
    node, spec = view.node, view.node.spec
    print_facts(
        [
            ("node", node.name),
            ("uuid", node.uuid),
            ("state", node.state),
            ("maintenance", _maintenance(node)),
            ("power", _power(node)),
            ("BMC", f"{spec.bmc.driver}://{spec.bmc.username}@{spec.bmc.address}:{spec.bmc.port}"),
            ("ports", ", ".join(port.mac for port in spec.ports)),
            ("firmware", spec.firmware),
            ("tags", ", ".join(spec.tags)),
            ("properties", ", ".join(f"{key}={value}" for key, value in spec.properties.items())),
            ("generation", f"{node.applied} applied of {node.generation}" if node.generation else ""),
            ("healthy", {True: "yes", False: "no", None: ""}[node.healthy]),
            ("leaves", _leaves(view)),
            ("exits", ", ".join(view.exits)),
        ]
    )


def _leaves(view: NodeView) -> str:
    """What becomes of its instance, when that is to leave."""
    one = view.departure
    return "" if one is None or not one.going else f"{one.hostname} {one.what}: {one.state}; {one.why}"


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
                print_error(result.error)
    return EXIT_ERROR if any(result.error for result in results) else 0


@click.command("power")
@click.argument("name")
@click.argument("want", required=False, type=click.Choice(["on", "off", "soft", "reset", "cycle"]))
@self_option
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
