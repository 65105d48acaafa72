"""``provisioner cloud``: how a cloud stands, and its secrets."""

from __future__ import annotations

from pathlib import Path

import click

from provisioner.cli.files import read_secret
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


@click.command("authority")
@click.argument("name")
@output_option
@pass_options
def authority(options: Options, name: str) -> None:
    """Print the certificate of the authority of the cloud NAME, as PEM, and nothing else.

    It signs the certificates that the roles of the cloud name, so clients of the cloud trust it.

    \b
    Example:
      provisioner cloud authority lab > lab.crt
    """
    with open_client(options) as client:
        found = client.cloud_authority(name)
    if options.json:
        print_json({"cloud": name, "certificate": found})
    else:
        click.echo(found.rstrip())


@click.command("secret")
@click.argument("name")
@click.argument("key")
@click.option(
    "--set-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Store what FILE holds (mode 0600; line ends at its end are left out) in place of what was there.",
)
@output_option
@pass_options
def secret(options: Options, name: str, key: str, set_file: Path | None) -> None:
    """Print the secret KEY of the cloud NAME, and nothing else; or store one, which values refer to as {secret: KEY}.

    A cloud need not be on record to have a secret stored. Where it is, the instances whose role or values
    name the secret get the new one at once, as a new generation.

    \b
    Examples:
      provisioner cloud secret lab galera_app_password
      provisioner cloud secret lab ldap_password --set-file FILE
    """
    if set_file is not None:
        stored = read_secret(set_file)
        with open_client(options) as client:
            on_record = client.store_secret(name, key, stored)
        if options.json:
            print_json({"cloud": name, "name": key, "on_record": on_record})
        else:
            click.echo(f"stored {key} of {name}" + ("" if on_record else f"; there is no cloud {name} on record yet"))
        return
    with open_client(options) as client:
        found = client.cloud_secret(name, key)
    if options.json:
        print_json({"cloud": name, "name": key, "secret": found})
    else:
        click.echo(found)
