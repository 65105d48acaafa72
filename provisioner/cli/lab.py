"""``provisioner lab``: a virtual rack on this machine; done in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import read_options
from provisioner.cli.show import megabytes, print_table
from provisioner.events import Event
from provisioner.lab.lab import Bench, lab_console, lab_down, lab_status, lab_up
from provisioner.lab.rack import Rack, read_rack
from provisioner.system.daemon import HostDaemons
from provisioner.system.run import HostRunner

F = TypeVar("F", bound=Callable[..., Any])


def file_option(command: F) -> F:
    return click.option(
        "--file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Lab file.  [default: seed/lab.yaml of the program]",
    )(command)


def _open(options: Options, file: Path | None) -> tuple[Rack, Bench]:
    settings = read_options(options)

    def say(event: Event) -> None:
        click.echo(clean(event.message), err=options.json)

    rack = read_rack(file or settings.source_dir / "seed" / "lab.yaml")
    return rack, Bench(settings.state_dir / "lab", HostRunner(), HostDaemons(), options.clock, say)


@click.command("up")
@file_option
@output_option
@pass_options
def up(options: Options, file: Path | None) -> None:
    """Build the virtual rack: network namespace, bridge, disks, controllers. Its nodes stay off. Needs root.

    \b
    Example:
      provisioner lab up --file seed/lab.yaml
    """
    rack, bench = _open(options, file)
    lab_up(rack, bench)
    _print_status(options, rack, bench)


@click.command("status")
@file_option
@output_option
@pass_options
def status(options: Options, file: Path | None) -> None:
    """Show the machines of the rack, their power and the space their disks take.

    \b
    Example:
      provisioner lab status
    """
    _print_status(options, *_open(options, file))


def _print_status(options: Options, rack: Rack, bench: Bench) -> None:
    rows = lab_status(rack, bench)
    if options.json:
        print_json([asdict(row) for row in rows])
        return
    print_table(
        ("machine", "BMC", "controller", "power", "firmware", "MiB", "MB", "console"),
        [
            (
                row.name,
                row.bmc,
                "answers" if row.controller else "down",
                "on" if row.power else "off",
                row.firmware,
                row.memory_mib,
                megabytes(row.disk_used),
                row.console,
            )
            for row in rows
        ],
    )


@click.command("console")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Wait for more until Ctrl-C.")
@file_option
@pass_options
def console(options: Options, name: str, follow: bool, file: Path | None) -> None:
    """Print what the machine NAME wrote to its serial console, as it wrote it.

    \b
    Example:
      provisioner lab console node1 --follow
    """
    for data in lab_console(*_open(options, file), name, follow=follow):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@click.command("down")
@file_option
@output_option
@pass_options
def down(options: Options, file: Path | None) -> None:
    """End the rack: its machines, controllers, network and disks are gone afterwards. Needs root.

    \b
    Example:
      provisioner lab down
    """
    removed = lab_down(*_open(options, file))
    if options.json:
        print_json({"removed": removed})
    else:
        click.echo("the rack is gone" if removed else "there was no rack")
