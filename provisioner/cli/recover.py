"""``provisioner cloud recover``: how a role that was down as a whole comes back, and without whom."""

from __future__ import annotations

import click

from provisioner.cli.options import Options, output_option, pass_options, print_json
from provisioner.cli.reach import open_client
from provisioner.cli.show import clock_time, print_table
from provisioner.model.status import RecoveryStatus


@click.command("recover")
@click.argument("name")
@click.argument("role")
@click.option(
    "--without",
    metavar="NODE",
    multiple=True,
    help="Do not wait for this member: what it alone held is lost. It must be off, or its BMC silent. May be repeated.",
)
@output_option
@pass_options
def recover(options: Options, name: str, role: str, without: tuple[str, ...]) -> None:
    """Show how far the members of ROLE had come when all of them went down, and who begins again.

    Members that find no other one alive say how far they had come. When all have said it, the one that had come
    furthest begins again by itself, and the others join it. A member that is gone for good is named with
    --without; what it alone held is lost then, also if it comes back.

    \b
    Examples:
      provisioner cloud recover lab galera
      provisioner cloud recover lab galera --without node3
    """
    with open_client(options) as client:
        found = client.leave_out(name, role, without) if without else client.cloud_status(name).recoveries.get(role)
    if options.json:
        print_json(None if found is None else found.model_dump(mode="json"))
    elif found is None:
        click.echo(f"no member of {role} waits for others")
    else:
        print_recovery(found)


def print_recovery(found: RecoveryStatus) -> None:
    rows = []
    for member in found.members:
        said = "" if member.history is None else f"{member.history}:{member.sequence}" if member.history else "nothing"
        rows.append((member.node, member.hostname, said, "given up" if member.lost else ""))
    click.echo(f"role {found.role} is down since {clock_time(found.begun)}")
    print_table(("node", "host name", "had come to", ""), rows)
    click.echo(found.why)
