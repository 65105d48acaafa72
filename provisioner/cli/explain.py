"""``provisioner config explain``: where each value of an instance comes from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from provisioner.cli.desired import read_desired
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import open_client, read_options
from provisioner.cli.thought import find_placement, think_placements
from provisioner.errors import NotFound, UsageError
from provisioner.manifest.check import suggest
from provisioner.manifest.explain import choose_explained, explain_values
from provisioner.model.role import Desired
from provisioner.model.values import Explained, MemberValues, Said, secret_name

FILES = (".yaml", ".yml")
HINT = "provisioner config explain --help"


@click.command("explain")
@click.argument("words", nargs=-1, required=True, metavar="NODE [KEY] | CLOUD.yaml MEMBER [KEY]")
@click.option(
    "--zone", default="", metavar="NAME", help="With a file: the zone that the member is in; none by default."
)
@output_option
@pass_options
def explain(options: Options, words: tuple[str, ...], zone: str) -> None:
    """Say where each value of an instance comes from: every layer that says something of it, with file and line.

    Of a NODE on record as the service has it; with the file CLOUD.yaml without any service, MEMBER being a host name, a
    role or a node that the file names. KEY is one value, or a map of them; without it all are shown. The layer that
    counts is marked, or those that do where a list is made of several. Secrets are shown by their names.

    \b
    Examples:
      provisioner config explain node1 galera.max_connections
      provisioner config explain cloud-lab.yaml galera-1
    """
    offline = words[0].endswith(FILES)
    most = 3 if offline else 2
    if len(words) > most or (offline and len(words) < 2):
        raise UsageError("the words are not NODE [KEY], nor CLOUD.yaml MEMBER [KEY]", where=" ".join(words), hint=HINT)
    if offline:
        member = _think(read_desired(Path(words[0]), read_options(options)), words[1], zone)
    elif zone:
        raise UsageError("--zone is for a file; a node on record has its own", where=words[0])
    else:
        with open_client(options) as client:
            member = client.explain(words[0])
    shown: Sequence[Explained] = member.values
    if len(words) == most:
        shown = choose_explained(member.values, words[-1], f"{member.hostname} on {member.node}")
    if options.json:
        print_json(member.model_copy(update={"values": tuple(shown)}).model_dump(mode="json"))
        return
    zoned = f" in zone {member.zone}" if member.zone else ""
    click.echo(f"{member.hostname} on {member.node}{zoned}: role {member.role} of cloud {member.cloud}")
    for one in shown:
        click.echo("")
        for line in _lines(one):
            click.echo(clean(line))


def _think(desired: Desired, name: str, zone: str) -> MemberValues:
    """The values of a member that may not exist yet. :raises NotFound: the cloud has no such member, or zone."""
    if zone and zone not in desired.zones:
        raise NotFound("no file is of this zone", where=zone, hint=suggest(zone, desired.zones) or f"zones/{zone}.yaml")
    placement = find_placement(desired, think_placements(desired, zone), name)
    values = explain_values(desired, placement.role, zone, placement.node)
    return MemberValues(
        cloud=placement.cloud,
        role=placement.role,
        hostname=placement.hostname,
        node=placement.node,
        zone=zone,
        values=tuple(values),
    )


def _lines(one: Explained) -> list[str]:
    about = f"  # {one.description}" if one.description else ""
    lines = [f"{one.key} = {_show(one.value) if one.known else '(none)'}{about}"]
    width = max(len(found.layer) for found in one.said)
    lines += [_line(found, width) for found in one.said]
    if one.strategy not in ("replace", "merge"):
        lines.append(f"    the layers of this list come together by: {one.strategy}")
    return lines


def _line(said: Said, width: int) -> str:
    mark = "*" if said.counts else " "
    what = "taken away" if said.value is None else _show(said.value)
    return f"  {mark} {said.layer:<{width}}  {said.place or '(not kept)'}  {what}"


def _show(value: Any) -> str:
    if (secret := secret_name(value)) is not None:
        return f"(secret {secret})"
    return json.dumps(value, ensure_ascii=False)
