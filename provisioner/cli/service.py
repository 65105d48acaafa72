"""``events`` and ``version``."""

from __future__ import annotations

import json
from typing import Any

import click

from provisioner import __version__
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import open_client
from provisioner.cli.show import clock_time

FOLLOW = 25.0
"""Seconds that ``events --follow`` asks the service to hold a request open."""


@click.command("events")
@click.option("--follow", "-f", is_flag=True, help="Wait for more until Ctrl-C.")
@click.option("--since", default=0, show_default=True, help="Only events with a higher number.")
@click.option("--limit", default=1000, show_default=True, help="At most so many.")
@output_option
@pass_options
def events(options: Options, follow: bool, since: int, limit: int) -> None:
    """Print what happened, oldest first. With --follow, JSON is one event per line.

    \b
    Example:
      provisioner events --follow
    """
    with open_client(options) as client:
        found = client.events(since, limit=limit)
        if options.json and not follow:
            print_json(found)
            return
        while True:
            for event in found:
                since = int(event["id"])
                click.echo(json.dumps(event, ensure_ascii=False) if options.json else clean(event_line(event)))
            if not follow:
                return
            found = client.events(since, wait=FOLLOW, limit=limit)


def event_line(event: dict[str, Any]) -> str:
    where = event.get("node") or "-"
    return f"{event['id']:>6}  {clock_time(float(event['time']))}  {where:<10}  {event['kind']:<22}  {event['message']}"


@click.command("version")
@output_option
@pass_options
def version(options: Options) -> None:
    """Print the version of the program.

    \b
    Example:
      provisioner version -o json
    """
    if options.json:
        print_json({"version": __version__})
    else:
        click.echo(f"provisioner {__version__}")
