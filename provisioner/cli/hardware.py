"""``provisioner node inspect`` and ``node test``: what nodes are made of, and whether it works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from provisioner.cli.main import print_error
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json, self_option
from provisioner.cli.progress import watch_node
from provisioner.cli.reach import open_client
from provisioner.cli.show import clock_time, print_facts, print_table
from provisioner.client.client import Client
from provisioner.errors import EXIT_ERROR
from provisioner.model.deployment import Node
from provisioner.model.hardware import HardwarePart, HardwareReport, Nic
from provisioner.model.states import NodeState
from provisioner.model.status import NodeView
from provisioner.model.timeline import step_seconds

GIB = 1 << 30
INSPECT_SECONDS = 1200.0
"""Longer than any step of an inspection may take."""
TEST_SECONDS = 4 * 3600.0
"""As long as the service hears the ramdisk of one boot."""
RUNNING = (NodeState.INSPECTING, NodeState.CLEANING)


def view_json(view: NodeView) -> dict[str, Any]:
    """The view with ``seconds`` in each step that has ended."""
    data = view.model_dump(mode="json")
    if view.deployment:
        for step, shown in zip(view.deployment.steps, data["deployment"]["steps"], strict=True):
            shown["seconds"] = step_seconds(step)
    return data


def print_tests(node: Node) -> None:
    """The newest result of each hardware test; nothing when none was made."""
    if node.tests:
        click.echo()
        rows = [(part, test.verdict, clock_time(test.at), test.summary) for part, test in node.tests.items()]
        print_table(("test", "verdict", "when", "why"), rows)


def print_hardware(report: HardwareReport | None, differences: Sequence[str]) -> None:
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


stay_option = click.option(
    "--stay", is_flag=True, help="Leave it in the ramdisk: what comes next, a deployment too, needs no other start."
)


@click.command("inspect")
@click.argument("names", nargs=-1, required=True)
@stay_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until all are inspected.")
@self_option
@output_option
@pass_options
def inspect(options: Options, names: tuple[str, ...], stay: bool, wait: bool) -> int:
    """Boot each of NAMES into the ramdisk once, take on record what it is made of, and switch it off.

    Disks are not changed. Where a node is not what its hardware file says, each difference is a line. Switches are
    listened to for half a minute. The exit code is 1 when a node could not be inspected.

    \b
    Example:
      provisioner node inspect a01 a02
    """
    views = _run(
        options, names, lambda client, name: client.inspect(name, stays=stay), INSPECT_SECONDS if wait else None
    )
    for view in views if not options.json else ():
        click.echo(_inspected(view))
        for difference in view.differences if wait else ():
            click.echo(clean(f"    differs: {difference}"))
        if view.node.failure:
            print_error(view.node.failure)
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


@click.command("test")
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--only",
    "parts",
    multiple=True,
    type=click.Choice([str(part) for part in HardwarePart]),
    help="Only this part; may be given more than once.  [default: all]",
)
@click.option(
    "--burn-seconds",
    type=click.FloatRange(1, 7200),
    default=60,
    show_default=True,
    help="How long all processors are loaded.",
)
@stay_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until all are tested.")
@self_option
@output_option
@pass_options
def test(
    options: Options, names: tuple[str, ...], parts: tuple[str, ...], burn_seconds: float, stay: bool, wait: bool
) -> int:
    """Boot each of NAMES into the ramdisk and put its hardware to the test; nothing is written to disks.

    \b
    network  links and their speed, counters of errors, a file fetched and compared
    disk     what each disk says of its own health (SMART), 64 places all over it read
    memory   all that is free written with patterns and read back; errors that ECC mends
    cpu      a known sum reckoned on every processor under full load; heat, machine checks

    Each passes, is degraded, fails or is skipped. A node with a part that is degraded or failed is not deployed,
    unless its role in the cloud file says `accept: {NODE: [PART]}`. The exit code is 1 then, too.

    \b
    Example:
      provisioner node test a01 a02 --burn-seconds 600
    """
    wanted = [HardwarePart(part) for part in parts]
    limit = TEST_SECONDS if wait else None
    views = _run(options, names, lambda client, name: client.test(name, wanted, burn_seconds, stays=stay), limit)
    for view in views if not options.json else ():
        click.echo(f"{view.node.name} is {view.node.state}")
        if wait:
            print_tests(view.node)
        if view.node.failure:
            print_error(view.node.failure)
    bad = any(test.bad for view in views for test in view.node.tests.values()) if wait else False
    return EXIT_ERROR if bad or any(view.node.state is NodeState.FAILED for view in views) else 0


def _run(
    options: Options, names: Sequence[str], begin: Callable[[Client, str], object], seconds: float | None
) -> list[NodeView]:
    """Begin something for all, and see it to its end; None: only begin it. With ``-o json`` print the views."""
    with open_client(options) as client:
        for name in names:
            begin(client, name)
        if seconds is None:
            views = [client.node(name) for name in names]
        else:
            views = [watch_node(options, client, name, RUNNING, seconds) for name in names]
    if options.json:
        print_json([view_json(view) for view in views])
    return views
