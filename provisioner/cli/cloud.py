"""``provisioner cloud``: how a cloud stands, and its secrets."""

from __future__ import annotations

import click

from provisioner.cli.options import Options, output_option, pass_options, print_json
from provisioner.cli.progress import print_members
from provisioner.cli.reach import open_client


@click.command("status")
@click.argument("name")
@output_option
@pass_options
def status(options: Options, name: str) -> None:
    """Show the members of a cloud: step, generation, health; and whether the cloud is ready.

    \b
    Example:
      provisioner cloud status lab
    """
    with open_client(options) as client:
        found = client.cloud_status(name)
    if options.json:
        print_json(found.model_dump(mode="json"))
        return
    print_members(found)
    word = "failed" if found.failed else "ready" if found.ready else "not ready yet"
    click.echo(f"cloud {found.cloud} is {word}")


@click.command("secret")
@click.argument("name")
@click.argument("key")
@output_option
@pass_options
def secret(options: Options, name: str, key: str) -> None:
    """Print the generated secret KEY of the cloud NAME, and nothing else.

    \b
    Example:
      provisioner cloud secret lab galera_app_password
    """
    with open_client(options) as client:
        found = client.cloud_secret(name, key)
    if options.json:
        print_json({"cloud": name, "name": key, "secret": found})
    else:
        click.echo(found)
