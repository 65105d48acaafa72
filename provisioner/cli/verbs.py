"""``provisioner node retry``, ``abort``, ``release``, ``erase`` and ``forget``: the ways out of each state."""

from __future__ import annotations

from collections.abc import Callable

import click

from provisioner.cli.hardware import stay_option, view_json
from provisioner.cli.main import print_error
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json, self_option
from provisioner.cli.progress import watch_node
from provisioner.cli.reach import open_client
from provisioner.client.client import Client
from provisioner.errors import EXIT_ERROR, UsageError
from provisioner.model.deployment import EraseLevel, Node, StepName
from provisioner.model.states import NodeState
from provisioner.model.status import NodeView

ERASE_SECONDS = 7 * 86400.0
"""No longer than the service waits for it."""
REBUILD_SECONDS = 4 * 3600.0
"""No longer than the service hears the ramdisk."""
CLEANING_SECONDS = 120.0
"""How long a release or an abort is watched: powering off, and a BMC that has to be asked again."""


def _do_verb(options: Options, name: str, verb: str, *, wait: bool = False) -> None:
    with open_client(options) as client:
        node = client.verb(name, verb)
        if wait:
            # So that a plan made right after the command can use the node.
            node = watch_node(options, client, name, (NodeState.CLEANING,), CLEANING_SECONDS).node
    if options.json:
        print_json(node.model_dump(mode="json"))
    else:
        click.echo(f"{name}: {verb}" + ("" if verb == "forget" else f"; it is {node.state} now"))


@click.command("retry")
@click.argument("name")
@self_option
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
@self_option
@output_option
@pass_options
def abort(options: Options, name: str, wait: bool) -> None:
    """Give up what a node is doing; it is cleaned and available again.

    \b
    Example:
      provisioner node abort node1
    """
    _do_verb(options, name, "abort", wait=wait)


drain_option = click.option(
    "--without-drain", metavar="NAME", help="The node again: its instance ends without being drained."
)


def _drains(name: str, without: str | None) -> bool:
    """Whether an instance is drained. :raises UsageError: another node is named."""
    if without is not None and without != name:
        raise UsageError(f"--without-drain names {without}", where=name, hint=f"--without-drain {name}")
    return without is None


LEVEL_NAMES = [str(level) for level in EraseLevel]
LEVELS = """
    \b
    metadata  partition tables and signatures; seconds. Who has the disk can still read much of the rest
    quick     every block is discarded, by disks that can; what cannot is named
    secure    NVMe disks erase themselves, others are overwritten and read back; may take hours
"""


@click.command(
    "release",
    help=f"""Take an active node out of its cloud, and switch it off.

    Its instance is drained first, when its turn has come by what its role says of changes: the scripts of drain.d in
    its image run. Its disks stay as they are, unless --erase says how thoroughly all of them are erased:
{LEVELS}
    \b
    Example:
      provisioner node release node3 --erase quick
""",
)
@click.argument("name")
@click.option("--erase", "level", type=click.Choice(LEVEL_NAMES), help="Erase all disks of the node.")
@stay_option
@drain_option
@wait_option
@self_option
@output_option
@pass_options
def release(options: Options, name: str, level: str | None, stay: bool, without_drain: str | None, wait: bool) -> int:
    erase, drain = None if level is None else EraseLevel(level), _drains(name, without_drain)
    return _follow(
        options,
        name,
        lambda client: client.release(name, erase, stays=stay, drain=drain),
        NodeState.CLEANING,
        ERASE_SECONDS if wait else None,
    )


@click.command(
    "erase",
    help=f"""Erase all disks of NAME, which has no place in a cloud.

    --level says how thoroughly:
{LEVELS}
    \b
    Example:
      provisioner node erase a01 --level secure
""",
)
@click.argument("name")
@click.option("--level", type=click.Choice(LEVEL_NAMES), default=LEVEL_NAMES[0], show_default=True, help="See above.")
@stay_option
@wait_option
@self_option
@output_option
@pass_options
def erase(options: Options, name: str, level: str, stay: bool, wait: bool) -> int:
    return _follow(
        options,
        name,
        lambda client: client.erase(name, EraseLevel(level), stays=stay),
        NodeState.CLEANING,
        ERASE_SECONDS if wait else None,
    )


def _follow(
    options: Options, name: str, begin: Callable[[Client], Node], state: NodeState, seconds: float | None
) -> int:
    """Begin a run of steps, during which the node is in ``state``, and see it to its end; None: only begin it.

    :returns: the exit code.
    """
    with open_client(options) as client:
        view = NodeView(node=begin(client))
        if seconds is not None:
            view = watch_node(options, client, name, (state,), seconds)
    if options.json:
        print_json(view_json(view))
        return EXIT_ERROR if view.node.state is NodeState.FAILED else 0
    for disk, what in _erased(view).items():
        click.echo(clean(f"{name}: {disk}: {what}"))
    click.echo(f"{name} is {view.node.state}")
    if view.node.failure:
        print_error(view.node.failure)
        return EXIT_ERROR
    return 0


def _erased(view: NodeView) -> dict[str, str]:
    """What was done to each disk."""
    steps = view.deployment.steps if view.deployment else ()
    return next((dict(step.detail.get("disks", {})) for step in steps if step.name is StepName.ERASE), {})


@click.command("rebuild")
@click.argument("name")
@click.option("--image", metavar="ID", help="Another image of its role.  [default: the newest]")
@drain_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="Stay until the node is active or failed.")
@self_option
@output_option
@pass_options
def rebuild(options: Options, name: str, image: str | None, without_drain: str | None, wait: bool) -> int:
    """Deploy a node again in the place that it has, with the newest image of its role. Its instance is drained first.

    It keeps host name, addresses and the volumes of which its role says `keep: true`; all else on the disks that the
    role uses is written anew. An instance that has such volumes is asked to shut down first.

    \b
    Example:
      provisioner node rebuild node3
    """
    drain = _drains(name, without_drain)
    return _follow(
        options,
        name,
        lambda client: client.rebuild(name, image, drain=drain),
        NodeState.DEPLOYING,
        REBUILD_SECONDS if wait else None,
    )


@click.command("maintenance")
@click.argument("name")
@click.option("--reason", metavar="TEXT", help="Why; shown wherever the node is.")
@click.option("--off", is_flag=True, help="It is over.")
@output_option
@pass_options
def maintenance(options: Options, name: str, reason: str | None, off: bool) -> None:
    """Leave a node alone, whatever its state: no step goes on, no deadline passes, no plan takes it.

    Its power is yours meanwhile, and not restored. Afterwards it goes on where it stood.

    \b
    Example:
      provisioner node maintenance a07 --reason "memory is replaced"
      provisioner node maintenance a07 --off
    """
    if (reason is None) is not off:
        raise UsageError("give --reason TEXT, or --off", where=name, hint="provisioner node maintenance --help")
    with open_client(options) as client:
        node = client.maintenance(name, reason)
    if options.json:
        print_json(node.model_dump(mode="json"))
    else:
        click.echo(f"{name} is {node.state}" + (" and in maintenance" if node.maintenance else ""))


@click.command("forget")
@click.argument("name")
@self_option
@output_option
@pass_options
def forget(options: Options, name: str) -> None:
    """Take a node off the record; nothing on the server itself is touched.

    \b
    Example:
      provisioner node forget node1
    """
    _do_verb(options, name, "forget")
