"""``provisioner node retry``, ``abort``, ``release`` and ``forget``: the ways out of each state."""

from __future__ import annotations

import click

from provisioner.cli.options import Options, output_option, pass_options, print_json
from provisioner.cli.progress import watch_node
from provisioner.cli.reach import open_client
from provisioner.model.states import NodeState

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
