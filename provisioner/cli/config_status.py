"""``provisioner config status``: who has the newest generation in force, and why the others have not."""

from __future__ import annotations

import click

from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import open_client
from provisioner.cli.show import build_table, terminal
from provisioner.model.status import MemberStatus


@click.command("status")
@click.argument("name", metavar="CLOUD")
@output_option
@pass_options
def status(options: Options, name: str) -> None:
    """Show how many instances of a cloud have their newest generation in force, and why the others have not.

    A node counts generations of its own; a change of the cloud file makes a new one for each node that it is about.

    \b
    Example:
      provisioner config status lab
    """
    with open_client(options) as client:
        members = client.cloud_status(name).members
    behind = [(member, why) for member in members if (why := explain(member)) is not None]
    if options.json:
        found = [{"node": member.node, "hostname": member.hostname, "why": why} for member, why in behind]
        print_json({"cloud": name, "members": len(members), "current": len(members) - len(behind), "behind": found})
        return
    click.echo(f"{len(members) - len(behind)} of {len(members)} have their newest generation in force")
    if behind:
        rows = [(m.node, m.hostname, f"{m.applied} of {m.generation}", clean(why)) for m, why in behind]
        terminal().print(build_table(("node", "host name", "generation", "because"), rows))


def explain(member: MemberStatus) -> str | None:
    """Why a member is behind; None when it is not."""
    if member.applied == member.generation and member.generation > 0 and member.failure is None:
        return None
    if member.failure is not None:
        return str(member.failure.get("summary") or "it has failed")
    if member.waiting:
        return f"it waits: {member.waiting}"
    if member.state != "active":
        return f"it is {member.state}" + (f", at {member.step}" if member.step else "")
    return "it is at it" if member.heard == member.generation else "it has not fetched it"
