"""``provisioner node import``: hardware files from the lists of other programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import yaml

from provisioner.cli.files import read_text
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.errors import UsageError
from provisioner.manifest.hardware import parse_hardware
from provisioner.manifest.imports import Imported, parse_import


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--to", "target", type=click.Path(path_type=Path), required=True, help="The hardware file to write; must not exist."
)
@click.option(
    "--passwords",
    type=click.Path(path_type=Path),
    default=Path("/etc/provisioner/bmc"),
    show_default=True,
    help="Folder for the passwords, a file of mode 0600 for each node; they do not stand in hardware files.",
)
@output_option
@pass_options
def import_command(options: Options, file: Path, target: Path, passwords: Path) -> None:
    """Write a hardware file from TripleO's instackenv.json or nodes.yaml, or from CSV.

    The first line of a CSV names its columns: name, driver, address, username, password, mac (several separated by
    spaces), cpus, memory_mib, disk_gib, zone, rack, unit. Nothing is enrolled; look at the file, then enroll it.

    \b
    Example:
      provisioner node import instackenv.json --to hardware/rack-a.yaml
    """
    found = parse_import(str(file), read_text(file))
    for path in (target, *(passwords / name for name in found.passwords)):
        if path.exists():
            raise UsageError("the file is there already", where=str(path), hint="name another, or move it away")
    text = build_text(found, file.name, passwords.absolute())
    parse_hardware({str(target): text})  # what is written is read again first, with all checks of a hardware file
    _write_passwords(found.passwords, passwords)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    if options.json:
        print_json({"nodes": len(found.nodes), "file": str(target), "passwords": str(passwords), "notes": found.notes})
        return
    for note in found.notes:
        click.echo(clean(note), err=True)
    click.echo(f"{len(found.nodes)} nodes are in {target}, their passwords in {passwords}")
    click.echo(f"next: provisioner node enroll {target}")


def build_text(found: Imported, source: str, passwords: Path) -> str:
    """The hardware file. What all nodes have in common becomes its ``defaults``."""
    nodes = [_with_reference(node, found, passwords) for node in found.nodes]
    common = {
        key: nodes[0]["bmc"][key]
        for key in ("driver", "username", "port")
        if key in nodes[0]["bmc"] and all(node["bmc"].get(key) == nodes[0]["bmc"][key] for node in nodes)
    }
    for node in nodes:
        node["bmc"] = {key: value for key, value in node["bmc"].items() if key not in common}
    whole: dict[str, Any] = {"defaults": {"bmc": common}} if common else {}
    text = yaml.safe_dump(whole | {"nodes": nodes}, sort_keys=False, default_flow_style=None, width=120)
    return f"# Imported from {source}. Enroll with: provisioner node enroll FILE\n{text}"


def _with_reference(node: dict[str, Any], found: Imported, passwords: Path) -> dict[str, Any]:
    name = node["name"]
    file = passwords / name if name in found.passwords else Path("/etc/provisioner/bmc-password")
    return node | {"bmc": {"username": "admin"} | node["bmc"] | {"password": {"file": str(file)}}}


def _write_passwords(words: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, word in words.items():
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(word + "\n")
