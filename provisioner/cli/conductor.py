"""``provisioner conductor``: the conductors that share the records."""

from __future__ import annotations

import click

from provisioner.cli.options import Options, output_option, pass_options, print_json
from provisioner.cli.reach import open_client
from provisioner.cli.show import clock_time, print_table


@click.command("list")
@output_option
@pass_options
def list_conductors(options: Options) -> None:
    """List the conductors that share the records, and on how many nodes each works just now.

    Several share them when `[database] url` in their configuration names the same PostgreSQL, and each has its own
    `[conductor] name`. Their keys folders must be the same, and each needs the images.

    \b
    Example:
      provisioner conductor list
    """
    with open_client(options) as client:
        found = client.conductors()
    if options.json:
        print_json([conductor.model_dump(mode="json") for conductor in found])
        return
    rows = [
        (c.name, "alive" if c.alive else "not seen", clock_time(c.seen), c.nodes, c.url or "-", c.place, c.version)
        for c in found
    ]
    print_table(("conductor", "is", "last seen", "nodes", "for guests", "runs on", "version"), rows)
