"""``provisioner deployment report``: where the time of a deployment went, and whether that is usual."""

from __future__ import annotations

import click

from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import open_client
from provisioner.cli.show import print_table


@click.command("report")
@click.argument("node")
@output_option
@pass_options
def report(options: Options, node: str) -> None:
    """Compare the deployment of NODE, or its last one, with others of its role, and name the step that is out of line.

    \b
    Example:
      provisioner deployment report a07
    """
    with open_client(options) as client:
        found = client.report(node)
    if options.json:
        print_json(found.model_dump(mode="json"))
        return
    rows = []
    for step in found.steps:
        ratio = f"{step.seconds / step.usual:.1f} ×" if step.seconds is not None and step.usual else ""
        usual = "" if step.usual is None else f"{step.usual:.1f}"
        taken = "" if step.seconds is None else f"{step.seconds:.1f}"
        rows.append((step.step, taken, usual, ratio, "out of line" if step.out_of_line else ""))
    print_table(("step", "seconds", f"usual ({found.siblings} others)", "ratio", ""), rows)
    print_table(("whose time", "seconds"), [(share, f"{seconds:.1f}") for share, seconds in found.shares.items()])
    for finding in found.findings:
        click.echo(clean(f"{node}: {finding}"))
    if not found.findings:
        why = "nothing is out of line" if found.siblings else "there are no others of its role to compare it with"
        click.echo(f"{node}: {why}")
