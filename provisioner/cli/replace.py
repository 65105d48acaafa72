"""``provisioner cloud replace``: another node takes the place of a member."""

from __future__ import annotations

import click

from provisioner.cli.apply import carry_out
from provisioner.cli.options import Options, output_option, pass_options, print_json, self_option
from provisioner.cli.reach import open_client
from provisioner.errors import EXIT_CHANGES_PENDING
from provisioner.plan.text import render_plan


@click.command("replace")
@click.argument("name")
@click.argument("member")
@click.option("--with", "by", metavar="NODE", help="The node that takes the place; without it one that matches.")
@click.option("--drain", is_flag=True, help="It still works: drain it first. Without this it just ends.")
@click.option("--plan", "only", is_flag=True, help="Only show what would be done, with exit code 2.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Stay until the cloud is ready.")
@click.option("--timeout", type=click.FloatRange(min=1), default=3600.0, show_default=True, help="Seconds to stay.")
@self_option
@output_option
@pass_options
def replace(
    options: Options, name: str, member: str, by: str | None, drain: bool, only: bool, wait: bool, timeout: float
) -> int | None:
    """Give the place of MEMBER (a host name, or its node) in the cloud NAME to another node.

    For a member whose node is dead, or with --drain for any. The node is released and switched off; the other one gets
    the same host name and another address, which all members are told. A member of a cluster joins it and gets its data
    from the others. The cloud is taken as it was applied last.

    \b
    Examples:
      provisioner cloud replace lab galera-1 --plan
      provisioner cloud replace lab galera-1 --with node4
    """
    begun = options.clock.monotonic()
    with open_client(options) as client:
        wanted = client.plan_replacement(name, member, by, drain)
        if only:
            if options.json:
                print_json(wanted.model_dump(mode="json"))
            else:
                click.echo(render_plan(wanted))
            return EXIT_CHANGES_PENDING
        if not options.json:
            click.echo(render_plan(wanted))
        carry_out(options, client, wanted, begun, wait=wait, timeout=timeout)
    return None
