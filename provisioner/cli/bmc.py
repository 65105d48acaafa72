"""``provisioner node identify`` and others: what a node's management controller can do besides power."""

from __future__ import annotations

from typing import Any

import click

from provisioner.cli.main import print_error
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json, self_option
from provisioner.cli.reach import open_client
from provisioner.cli.show import print_facts, print_table
from provisioner.errors import EXIT_ERROR, ProvisionerError, UsageError
from provisioner.model.status import AuditResult


@click.command("boot-device")
@click.argument("name")
@click.argument("device", type=click.Choice(["pxe", "disk"]))
@click.option("--persistent", is_flag=True, help="For all boots from now on, not only for the next.")
@self_option
@output_option
@pass_options
def boot_device(options: Options, name: str, device: str, persistent: bool) -> None:
    """Choose what a node boots from next; read back where its BMC can say. A deployment chooses by itself.

    \b
    Example:
      provisioner node boot-device node1 pxe
    """
    with open_client(options) as client:
        client.set_boot_device(name, device, persistent)
    if options.json:
        print_json({"node": name, "device": device, "persistent": persistent})
    else:
        click.echo(f"{name} boots from {device} {'from now on' if persistent else 'the next time'}")


@click.command("identify")
@click.argument("name")
@click.option("--seconds", type=click.IntRange(1, 255), help="For so long; without it until told --off.")
@click.option("--off", is_flag=True, help="No more.")
@output_option
@pass_options
def identify(options: Options, name: str, seconds: int | None, off: bool) -> None:
    """Light the identify light of a node, so that it is found in its rack.

    \b
    Example:
      provisioner node identify node1 --seconds 60
    """
    wanted = 0 if off else seconds
    with open_client(options) as client:
        client.identify(name, wanted)
    if options.json:
        print_json({"node": name, "seconds": wanted})
    else:
        until = f"for {seconds} s" if seconds else "until you switch it off: --off"
        click.echo(f"the light of {name} is off" if off else f"the light of {name} is on {until}")


def _rows(options: Options, name: str, what: str, columns: tuple[str, ...]) -> None:
    with open_client(options) as client:
        found: list[dict[str, Any]] = client.read_bmc(name, what)
    if options.json:
        print_json(found)
    elif found:
        print_table(columns, [[row.get(column) for column in columns] for row in found])
    else:
        click.echo(f"the BMC of {name} has no {what}")


@click.command("sensors")
@click.argument("name")
@output_option
@pass_options
def sensors(options: Options, name: str) -> None:
    """Read the sensors of a node. A BMC with many takes up to a minute.

    \b
    Example:
      provisioner node sensors node1
    """
    _rows(options, name, "sensors", ("name", "kind", "value", "unit", "health"))


@click.command("log")
@click.argument("name")
@output_option
@pass_options
def log(options: Options, name: str) -> None:
    """Read the event log of a node's BMC, oldest first.

    \b
    Example:
      provisioner node log node1
    """
    _rows(options, name, "log", ("time", "sensor", "event", "severity"))


@click.command("inventory")
@click.argument("name")
@output_option
@pass_options
def inventory(options: Options, name: str) -> None:
    """List the parts of a node that its BMC knows; it needs no power for that.

    \b
    Example:
      provisioner node inventory node1
    """
    with open_client(options) as client:
        found: dict[str, dict[str, str]] = client.read_bmc(name, "inventory")
    if options.json:
        print_json(found)
        return
    if not found:
        click.echo(f"the BMC of {name} lists no parts; provisioner node inspect {name} finds them")
    for part, facts in found.items():
        click.echo(clean(part))
        print_facts([(f"  {key}", value) for key, value in facts.items()])


@click.command("rotate-credentials")
@click.argument("names", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="Of every node on record.")
@output_option
@pass_options
def rotate(options: Options, names: tuple[str, ...], everyone: bool) -> int:
    """Give the BMCs of NAMES new passwords, which the service makes, proves and keeps encrypted.

    A node is done, with its old password gone, or it is as before; if the command is cut off in between, both passwords
    are on record and the next call finds out which one holds. The hardware file's password is not used from then on;
    write `password: {stored: true}` there.

    \b
    Example:
      provisioner node rotate-credentials node1 node2
    """
    if bool(names) == everyone:
        raise UsageError("name nodes, or give --all", hint="provisioner node list")
    results: list[dict[str, Any]] = []
    with open_client(options) as client:
        for name in [node.name for node in client.nodes()] if everyone else names:
            try:
                client.rotate(name)
                results.append({"node": name, "rotated": True, "error": None})
            except ProvisionerError as error:
                results.append({"node": name, "rotated": False, "error": error.to_dict()})
            if not options.json:
                _show_rotated(results[-1])
    if options.json:
        print_json(results)
    return 0 if all(result["rotated"] for result in results) else EXIT_ERROR


def _show_rotated(result: dict[str, Any]) -> None:
    if result["rotated"]:
        click.echo(f"{result['node']}: a new password, proved; the old one is gone")
    else:
        print_error(result["error"])


@click.command("audit")
@click.argument("names", nargs=-1)
@output_option
@pass_options
def audit(options: Options, names: tuple[str, ...]) -> int:
    """Find out what makes the BMCs of NAMES, or of all nodes, unsafe, and which command mends it.

    Asked from outside as an attacker would, and inside with the node's own login. Nothing is changed, and no account
    can be locked by it. The exit code is 1 when a finding is of high risk or a BMC did not answer.

    \b
    Example:
      provisioner node audit
    """
    results = []
    with open_client(options) as client:
        for result in client.audit(names):
            results.append(result)
            if not options.json:
                _show_audit(result)
    if options.json:
        print_json([result.model_dump(mode="json") for result in sorted(results, key=lambda result: result.node)])
    bad = any(result.error or any(finding.risk == "high" for finding in result.findings) for result in results)
    return EXIT_ERROR if bad else 0


def _show_audit(result: AuditResult) -> None:
    if result.error:
        print_error(result.error)
    elif not result.findings:
        click.echo(f"{result.node}: nothing found")
    for finding in result.findings:
        head = f"{result.node}: {finding.risk}: {finding.summary} [{finding.check}]"
        click.echo(clean(f"{head}\n    why:  {finding.cause}\n    mend: {finding.mend}"))
