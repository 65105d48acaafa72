"""``plan`` and ``apply``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from pydantic import ValidationError

from provisioner.cli.desired import read_desired
from provisioner.cli.files import read_text
from provisioner.cli.options import Options, output_option, pass_options, print_json, self_option
from provisioner.cli.progress import LiveFace, PlainFace, phase_seconds, print_members, print_phases, watch
from provisioner.cli.reach import open_client, read_options
from provisioner.cli.show import terminal
from provisioner.client.client import Client
from provisioner.errors import EXIT_CHANGES_PENDING, DeployError, ProvisionerError, UsageError, error_from_dict
from provisioner.model.plan import Deploy, Move, Plan, Rebuild, Release
from provisioner.model.status import CloudStatus
from provisioner.plan.text import render_plan
from provisioner.system.files import write_file

without_drain_option = click.option(
    "--without-drain",
    metavar="NODE",
    multiple=True,
    help="The instance on NODE ends without being drained; may be given several times.",
)


@click.command("plan")
@click.argument("cloud", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also save the plan, for apply.")
@output_option
@pass_options
def plan(options: Options, cloud: Path, out: Path | None) -> int:
    """Show what apply would do, and do nothing. Exit code 0: nothing; 2: changes.

    Roles are read from the folder roles/ beside the file CLOUD, else from that of the program.

    \b
    Example:
      provisioner plan cloud-lab.yaml --out friday.json
    """
    desired = read_desired(cloud, read_options(options))
    with open_client(options) as client:
        found = client.plan(desired)
    if out is not None:
        write_file(out, found.model_dump_json(indent=1) + "\n", mode=0o600)
    if options.json:
        print_json(found.model_dump(mode="json"))
    else:
        click.echo(render_plan(found))
    return 0 if found.empty else EXIT_CHANGES_PENDING


@click.command("apply")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--wait/--no-wait", default=True, show_default=True, help="Stay until the cloud is ready.")
@click.option("--timeout", type=click.FloatRange(min=1), default=3600.0, show_default=True, help="Seconds to stay.")
@without_drain_option
@self_option
@output_option
@pass_options
def apply(options: Options, file: Path, wait: bool, timeout: float, without_drain: tuple[str, ...]) -> None:
    """Make a cloud what FILE says: a cloud file, or a plan that "plan --out" saved, which is then done exactly.

    An instance that the plan takes away, or rebuilds, is drained first. When that fails, apply again goes on with it.

    Exit code 1: a node failed; 3: --timeout passed, the work goes on.

    \b
    Example:
      provisioner apply cloud-lab.yaml --wait
    """
    begun = options.clock.monotonic()
    with open_client(options) as client:
        wanted = _read_plan(file) if file.suffix == ".json" else client.plan(read_desired(file, read_options(options)))
        wanted = leave_undrained(wanted, without_drain)
        if not options.json:
            click.echo(render_plan(wanted))
        carry_out(options, client, wanted, begun, wait=wait, timeout=timeout)


def carry_out(options: Options, client: Client, wanted: Plan, begun: float, *, wait: bool, timeout: float) -> None:
    """Apply a plan and, if that is wanted, watch the cloud until it is ready.

    :param begun: when the command did, by the clock of ``options``. :raises ProvisionerError: a member failed.
    """
    status = client.apply(wanted)
    if wait and not status.ready:
        face = LiveFace(terminal()) if _is_live(options) else PlainFace(lambda line: click.echo(line, err=options.json))
        status = watch(client, status, clock=options.clock, timeout=timeout, face=face)
    _print_end(options, client, wanted, status, options.clock.monotonic() - begun)
    if status.failed:
        raise _failure(status)
    if not wait and not status.ready and not options.json:
        click.echo(f"the service goes on with it; next: provisioner cloud status {status.cloud}")


def leave_undrained(plan: Plan, names: Sequence[str]) -> Plan:
    """A plan by which the instances of these nodes end without being drained.

    :raises UsageError: the plan drains nothing on one of them.
    """
    leaves = {action.node for action in plan.actions if isinstance(action, Release | Rebuild | Move)}
    for name in names:
        if name not in leaves:
            cause = f"it takes these away: {', '.join(sorted(leaves)) or 'none'}"
            hint = "provisioner plan shows it; what waits already: provisioner cloud resume --help"
            raise UsageError(f"the plan takes no instance away from {name}", where=plan.cloud, cause=cause, hint=hint)
    actions = tuple(
        action.model_copy(update={"drain": False})
        if isinstance(action, Release | Rebuild | Move) and action.node in names
        else action
        for action in plan.actions
    )
    return plan.model_copy(update={"actions": actions})


def _is_live(options: Options) -> bool:
    return not options.json and terminal().is_terminal


def _read_plan(path: Path) -> Plan:
    try:
        return Plan.model_validate_json(read_text(path))
    except ValidationError as error:
        raise UsageError(
            "the file is not a plan of this program",
            where=str(path),
            cause=f"{error.error_count()} faults, the first: {error.errors()[0]['msg']}",
            hint="make it with: provisioner plan CLOUD.yaml --out FILE.json",
        ) from None


def _print_end(options: Options, client: Client, wanted: Plan, status: CloudStatus, seconds: float) -> None:
    # Values alone deploy nothing, and the journals of a thousand nodes are long.
    deployed = any(isinstance(action, Deploy | Move | Rebuild) for action in wanted.actions) or any(
        member.state != "active" for member in status.members
    )
    found = client.cloud_deployments(status.cloud) if deployed else ()
    deployments = {deployment.placement.node: deployment for deployment in found}
    if options.json:
        phases = {node: phase_seconds(deployment) for node, deployment in deployments.items()}
        data = {"plan": wanted.model_dump(mode="json"), "status": status.model_dump(mode="json")}
        print_json(data | {"phases": phases, "seconds": seconds})
        return
    if wanted.empty and status.ready:
        click.echo(f"cloud {status.cloud} is ready")
        return
    print_members(status)
    print_phases(deployments)
    word = "failed" if status.failed else "ready" if status.ready else "not ready yet"
    click.echo(f"cloud {status.cloud} is {word} after {seconds:.1f} s")


def _failure(status: CloudStatus) -> ProvisionerError:
    """The first member's failure, with the node and the next command."""
    failed = next((member for member in status.members if member.failure), None)
    if failed is None or failed.failure is None:
        roles = "; ".join(f"{role}: {text}" for role, text in status.roles.items())
        return DeployError(
            f"cloud {status.cloud} failed", cause=roles or None, hint=f"provisioner cloud status {status.cloud}"
        )
    cause = error_from_dict(failed.failure)
    where = failed.node if cause.where in (None, failed.node) else f"{failed.node}: {cause.where}"
    return DeployError(
        cause.summary, where=where, cause=cause.cause, hint=cause.hint or f"provisioner node show {failed.node}"
    )
