"""``provisioner config render NODE`` and ``config diff``: files of instances on record, as the service renders them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from provisioner.cli.desired import read_desired
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import open_client, read_options
from provisioner.errors import EXIT_CHANGES_PENDING, UsageError
from provisioner.model.config import ConfigDiff, FileDiff, InstanceFile, MemberName
from provisioner.plan.effects import describe_files
from provisioner.plan.text import shorten

MANIFESTS = (".yaml", ".yml")
FEW = 3
"""Instances that are named each with its node."""


def is_manifest(word: str) -> bool:
    """Whether a word means a cloud file; else it is a node: those have no dots in their names."""
    return word.endswith(MANIFESTS) or "/" in word


def render_node(options: Options, name: str) -> None:
    """Print the files of a node on record."""
    with open_client(options) as client:
        found = client.node_files(name)
    if options.json:
        print_json(found.model_dump(mode="json"))
        return
    click.echo(f"{found.hostname} on {found.node}: generation {found.generation}, templates of {found.image}")
    for file in found.files:
        click.echo(f"\n== {file.path}  {file.mode} {file.owner}:{file.group}{_about(file)}")
        click.echo("(not shown: sensitive)" if file.content is None else clean(file.content.rstrip("\n")))


def _about(file: InstanceFile) -> str:
    said = [f"{unit}: {how}" for unit, how in sorted(file.services.items())]
    said += ["confirmed commit"] if file.confirm else []
    return f"  ({', '.join(said)})" if said else ""


@click.command("diff")
@click.argument("what", metavar="NODE|CLOUD.yaml")
@click.argument("member", required=False)
@output_option
@pass_options
def diff(options: Options, what: str, member: str | None) -> int:
    """Show what changes in files of instances, as a diff; no node is asked.

    Exit code 0: nothing; 2: changes, also where nobody can say which since an image keeps no templates.

    With NODE, what its newest generation changes in the files that it has in force. With CLOUD.yaml, what apply would
    change in the files of members on record, of all or of MEMBER (a host name or a node). Values of secrets do not
    leave the service, and a sensitive file is only named.

    \b
    Examples:
      provisioner config diff node2
      provisioner config diff cloud-lab.yaml
      provisioner config diff cloud-lab.yaml galera-1
    """
    if member is not None and not is_manifest(what):
        raise UsageError(
            "a node has one diff",
            where=what,
            hint="write NODE alone, or CLOUD.yaml MEMBER; provisioner config diff --help",
        )
    desired = read_desired(Path(what), read_options(options)) if is_manifest(what) else None
    with open_client(options) as client:
        found = client.node_diff(what) if desired is None else client.cloud_diff(desired, member)
    if options.json:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found)
    return EXIT_CHANGES_PENDING if found.changes or found.notes else 0


def _print(found: ConfigDiff) -> None:
    if found.changes:
        click.echo(f"from: {found.before}; to: {found.after}")
    for change in found.changes:
        click.echo(f"\n== {_names(change.members)}")
        for file in change.files:
            for line in describe_files([file.change]):
                click.echo(line)
            click.echo(_text(file))
    for note in found.notes:
        click.echo(f"note: {note}")
    if not found.changes and not found.notes:
        click.echo("No file differs.")


def _text(file: FileDiff) -> str:
    if file.sensitive:
        return "(not shown: sensitive)"
    if file.left_out:
        return "(not shown, since many others are; name one member to see it)"
    return clean("\n".join(file.lines)) or "(only the value of a secret, or the end of its last line)"


def _names(members: Sequence[MemberName]) -> str:
    if len(members) <= FEW:
        return ", ".join(f"{member.hostname} on {member.node}" for member in members)
    return f"{shorten([member.hostname for member in members])} ({len(members)})"
