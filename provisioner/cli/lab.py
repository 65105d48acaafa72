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
from provisioner.cli.show import clock_time, megabytes, print_table
from provisioner.errors import UsageError
from provisioner.events import Event
from provisioner.lab.lab import Bench, lab_console, lab_down, lab_status, lab_up
from provisioner.lab.rack import Rack, read_rack
from provisioner.lab.save import Save, forget_save, list_saves, restore_rack, save_rack
from provisioner.model.hardware import NAME
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
    rack = read_rack(file or read_options(options).source_dir / "seed" / "lab.yaml")
    return rack, _open_bench(options)


def _open_bench(options: Options) -> Bench:
    def say(event: Event) -> None:
        click.echo(clean(event.message), err=options.json)

    return Bench(read_options(options).state_dir / "lab", HostRunner(), HostDaemons(), options.clock, say)


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


@click.command("save")
@click.argument("name")
@file_option
@output_option
@pass_options
def save(options: Options, name: str, file: Path | None) -> None:
    """Keep the rack as it is now under NAME: disks, and memory of the machines that run. They stand still meanwhile.

    What the service has on record is not part of it: see backup create. A machine with an NVMe disk must be off, since
    QEMU cannot keep its memory.

    \b
    Example:
      provisioner lab save database-is-up
    """
    _print_saves(options, [save_rack(*_open(options, file), check_name(name))])


@click.command("restore")
@click.argument("name")
@file_option
@output_option
@pass_options
def restore(options: Options, name: str, file: Path | None) -> None:
    """Put the rack back to where it was when NAME was kept, also after lab down. What it is now is lost.

    Machines that ran go on at the same instruction; their clocks are behind by the time that has passed.

    \b
    Example:
      provisioner lab restore database-is-up
    """
    _print_saves(options, [restore_rack(*_open(options, file), check_name(name))])


@click.command("saves")
@output_option
@pass_options
def saves(options: Options) -> None:
    """List what lab save has kept, the oldest first.

    \b
    Example:
      provisioner lab saves
    """
    _print_saves(options, list_saves(_open_bench(options)))


@click.command("forget")
@click.argument("name")
@output_option
@pass_options
def forget(options: Options, name: str) -> None:
    """Delete what was kept under NAME.

    \b
    Example:
      provisioner lab forget database-is-up
    """
    forget_save(_open_bench(options), check_name(name))
    if options.json:
        print_json({"name": name, "forgotten": True})
    else:
        click.echo(f"{name} is forgotten")


def check_name(name: str) -> str:
    """:raises UsageError: it would not do as the name of a folder."""
    if not NAME.match(name):
        raise UsageError("not a name", where=name, hint="write lower-case letters, digits and dashes")
    return name


def _print_saves(options: Options, found: list[Save]) -> None:
    if options.json:
        print_json([asdict(save) for save in found])
        return
    print_table(
        ("save", "kept", "running", "MB"),
        [(save.name, clock_time(save.time), ", ".join(save.running) or "none", megabytes(save.size)) for save in found],
    )


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
