"""``provisioner cloud rebuild``, ``resume`` and ``abort``: members that leave their nodes, for a while or for ever."""

from __future__ import annotations

import click

from provisioner.cli.apply import carry_out, leave_undrained, without_drain_option
from provisioner.cli.options import Options, output_option, pass_options, print_json, self_option
from provisioner.cli.progress import print_members
from provisioner.cli.reach import open_client
from provisioner.errors import EXIT_CHANGES_PENDING
from provisioner.model.status import CloudStatus
from provisioner.plan.text import render_plan

HOURS = 12 * 3600.0


@click.command("rebuild")
@click.argument("cloud")
@click.argument("role")
@click.option("--image", metavar="ID", help="Another image of the role.  [default: the newest]")
@click.option("--plan", "only_plan", is_flag=True, help="Only show it; exit code 0: nothing to do, 2: changes.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Stay until the cloud is ready.")
@click.option("--timeout", type=click.FloatRange(min=1), default=HOURS, show_default=True, help="Seconds to stay.")
@without_drain_option
@self_option
@output_option
@pass_options
def rebuild(
    options: Options,
    cloud: str,
    role: str,
    image: str | None,
    only_plan: bool,
    wait: bool,
    timeout: float,
    without_drain: tuple[str, ...],
) -> int:
    """Deploy the members of ROLE again where they are, those that run another image, in the order of its `change:`.

    Each is drained first and keeps its name, addresses and the volumes of which the role says `keep: true`. When more
    have failed than `max_failures` says, the others wait: mend those (node retry), or cloud abort.

    \b
    Examples:
      provisioner cloud rebuild lab galera --plan
      provisioner cloud rebuild lab galera
    """
    begun = options.clock.monotonic()
    with open_client(options) as client:
        wanted = leave_undrained(client.plan_rebuild(cloud, role, image), without_drain)
        if only_plan and options.json:
            print_json(wanted.model_dump(mode="json"))
        elif not options.json:
            click.echo(render_plan(wanted))
        if only_plan:
            return 0 if wanted.empty else EXIT_CHANGES_PENDING
        carry_out(options, client, wanted, begun, wait=wait, timeout=timeout)
    return 0


@click.command("resume")
@click.argument("cloud")
@without_drain_option
@output_option
@pass_options
def resume(options: Options, cloud: str, without_drain: tuple[str, ...]) -> None:
    """Go on with members whose drain failed: each is drained again, when its turn comes.

    \b
    Examples:
      provisioner cloud resume lab
      provisioner cloud resume lab --without-drain node3
    """
    with open_client(options) as client:
        _show(options, client.resume(cloud, without_drain))


@click.command("abort")
@click.argument("cloud")
@click.argument("members", nargs=-1, metavar="[MEMBER]...")
@output_option
@pass_options
def abort(options: Options, cloud: str, members: tuple[str, ...]) -> None:
    """Let members stay that are to leave: all, or those of these host names. Who was drained is let back in.

    A member that is deployed again already is deployed to its end. The cloud file is as it was: what it removes, the
    next apply removes.

    \b
    Example:
      provisioner cloud abort lab compute-1
    """
    with open_client(options) as client:
        _show(options, client.abort_departures(cloud, members))


def _show(options: Options, status: CloudStatus) -> None:
    if options.json:
        print_json(status.model_dump(mode="json"))
        return
    print_members(status)
    click.echo(f"the service goes on with it; next: provisioner cloud status {status.cloud}")
