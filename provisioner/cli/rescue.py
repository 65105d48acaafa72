"""``provisioner node rescue``: into the ramdisk of a node that has a place in a cloud, and back."""

from __future__ import annotations

from pathlib import Path

import click

from provisioner.cli.hardware import view_json
from provisioner.cli.main import print_error
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json, self_option
from provisioner.cli.progress import watch_node
from provisioner.cli.reach import open_client
from provisioner.errors import EXIT_ERROR, UsageError
from provisioner.model.deployment import StepName
from provisioner.model.states import NodeState
from provisioner.model.status import NodeView

RESCUE_SECONDS = 1800.0
BACK_SECONDS = 300.0


@click.command("rescue")
@click.argument("name")
@click.option(
    "--key",
    "key_files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Public key of SSH that is let in; may be repeated. Without one there are only the consoles.",
)
@click.option("--off", is_flag=True, help="It is over: from its own disk again, in its place.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Stay until the way in is open.")
@self_option
@output_option
@pass_options
def rescue(options: Options, name: str, key_files: tuple[Path, ...], off: bool, wait: bool) -> int:
    """Look at a node from the ramdisk: nothing on its disks is touched, and it keeps its place in the cloud.

    Its serial console is open to whoever has it (provisioner node console), and SSH to the keys that are named.

    \b
    Example:
      provisioner node rescue node3 --key ~/.ssh/id_ed25519.pub
      provisioner node rescue node3 --off
    """
    if off and key_files:
        raise UsageError("--off takes no --key", where=name)
    keys = [line.strip() for file in key_files for line in file.read_text().splitlines() if line.strip()]
    with open_client(options) as client:
        view = NodeView(node=client.end_rescue(name) if off else client.rescue(name, keys))
        if wait:
            if off:
                view = watch_node(options, client, name, (NodeState.RESCUE,), BACK_SECONDS)
            else:
                view = watch_node(options, client, name, (NodeState.RESCUE,), RESCUE_SECONDS, lambda v: bool(_way(v)))
    if options.json:
        print_json(view_json(view))
        return EXIT_ERROR if view.node.state is NodeState.FAILED else 0
    click.echo(clean(f"{name}: {way}" if (way := _way(view)) else f"{name} is {view.node.state}"))
    if view.node.failure:
        print_error(view.node.failure)
        return EXIT_ERROR
    return 0


def _way(view: NodeView) -> str:
    """How one gets in, and what its host key is known by."""
    steps = view.deployment.steps if view.deployment and view.node.state is NodeState.RESCUE else ()
    detail = next((step.detail for step in steps if step.name is StepName.RESCUE and step.detail.get("open")), {})
    fingerprint = detail.get("fingerprint")
    return str(detail.get("waiting", "")) + (f", host key {fingerprint}" if fingerprint else "")
