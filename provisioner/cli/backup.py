"""``provisioner backup``: records and keys of a site in one file, and back; done in this process."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from provisioner.cli.options import Options, output_option, pass_options, print_json
from provisioner.cli.reach import read_options
from provisioner.cli.show import clock_time, print_facts
from provisioner.server.backup import About, read_about, restore_backup, write_backup

file_argument = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command("create")
@file_argument
@output_option
@pass_options
def create(options: Options, file: Path) -> None:
    """Write records and keys of this site to FILE, whether the service runs or not. Images are not in it.

    Whoever has the file has the site: it holds the key to every password. It is readable by its owner only.

    \b
    Example:
      provisioner backup create /mnt/safe/site.backup
    """
    about = write_backup(read_options(options), file, options.clock)
    if options.json:
        print_json(asdict(about) | {"file": str(file), "bytes": file.stat().st_size})
    else:
        click.echo(f"{file}: {about.nodes} nodes, {file.stat().st_size / 1e6:.1f} MB")


@click.command("show")
@file_argument
@output_option
@pass_options
def show(options: Options, file: Path) -> None:
    """Say what a backup holds and of when it is.

    \b
    Example:
      provisioner backup show /mnt/safe/site.backup
    """
    _print(options, read_about(file), {})


@click.command("restore")
@file_argument
@output_option
@pass_options
def restore(options: Options, file: Path) -> None:
    """Put records and keys of a backup where there are none; the service must not run.

    What the site did since the backup is not in it: nodes that were at work then have failed, with the next command,
    and every instance gets its metadata anew, under a number that is higher than any that was given out.

    \b
    Example:
      provisioner backup restore /mnt/safe/site.backup
    """
    about, failed = restore_backup(read_options(options), file, options.clock)
    _print(options, about, {"were at work, and have failed": failed, "next": "provisioner serve"})


def _print(options: Options, about: About, more: dict[str, object]) -> None:
    if options.json:
        print_json(asdict(about) | more)
        return
    facts = [("version", about.version), ("made", clock_time(about.made)), ("nodes", str(about.nodes))]
    print_facts([*facts, *((name, str(value)) for name, value in more.items())])
