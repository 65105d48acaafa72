"""``provisioner upgrade``: records of an older version; done in this process."""

from __future__ import annotations

from dataclasses import asdict

import click

from provisioner.cli.options import Options, output_option, pass_options, print_json
from provisioner.cli.reach import read_options
from provisioner.errors import UsageError
from provisioner.server.upgrade import Trial, go_back, try_upgrade
from provisioner.server.upgrade import upgrade as do_upgrade


@click.command("upgrade")
@click.option("--dry-run", is_flag=True, help="Try it on a copy, and say what would be done; the service may run.")
@click.option("--back", is_flag=True, help="Put the records from before the last upgrade in force again.")
@output_option
@pass_options
def upgrade(options: Options, dry_run: bool, back: bool) -> None:
    """Bring the records of an older version of this program up to date.

    `provisioner serve` does it by itself; here it can be tried first. The records as they were stay beside the new
    ones, and --back puts them in force again, for the version of the program that wrote them. What the site did
    meanwhile is in what --back sets aside, and in no other place.

    \b
    Example:
      provisioner upgrade --dry-run
    """
    settings = read_options(options)
    if dry_run and back:
        raise UsageError("--dry-run and --back exclude each other", hint="provisioner upgrade --help")
    if back:
        copy, aside = go_back(settings)
        if options.json:
            print_json({"in_force": str(copy), "aside": str(aside)})
        else:
            click.echo(f"{copy.name} is in force again; what was is {aside}. Install the version that wrote it.")
        return
    trial = try_upgrade(settings) if dry_run else do_upgrade(settings)
    if options.json:
        print_json(asdict(trial) | {"done": not dry_run})
        return
    _print(trial, "would be done" if dry_run else "done")


def _print(trial: Trial, what: str) -> None:
    for migration in trial.pending:
        click.echo(f"{what}: {migration.version} {migration.about}")
    read = f"{trial.nodes} nodes, {trial.deployments} deployments, {trial.clouds} clouds can be read"
    click.echo(read if trial.pending else f"the records are up to date (schema {trial.schema}); {read}")
