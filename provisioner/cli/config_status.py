"""``provisioner config status``: who has the newest generation in force, and why the others have not."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import open_client
from provisioner.cli.show import print_table
from provisioner.model.status import InstanceReport, MemberStatus

NUMBER = re.compile(r"^generation \d+ ")
"""Generations are counted by each node, so the number is no part of a reason that several share."""
NAMED = 5
"""Members that are named of each reason; ``-o json`` has all."""


@click.command("status")
@click.argument("name", metavar="CLOUD")
@output_option
@pass_options
def status(options: Options, name: str) -> None:
    """Show how many instances of a cloud have their newest generation in force, and why the others have not.

    Also whose clock is off by more than two seconds, and which units have failed that a managed file names. A node
    counts generations of its own; a change of the cloud file makes a new one for each node that it is about.

    \b
    Example:
      provisioner config status lab
    """
    with open_client(options) as client:
        members = client.cloud_status(name).members
        reports = client.cloud_reports(name)
    behind = [(member, why) for member in members if (why := explain(member)) is not None]
    off, failed = [report for report in reports if report.off], [report for report in reports if report.failed]
    if options.json:
        found = [{"node": member.node, "hostname": member.hostname, "why": why} for member, why in behind]
        clocks = [{"node": one.node, "hostname": one.hostname, "seconds": one.skew} for one in off]
        units = [{"node": one.node, "hostname": one.hostname, "failed": list(one.failed)} for one in failed]
        counts = {"members": len(members), "current": len(members) - len(behind)}
        print_json({"cloud": name, **counts, "behind": found, "clocks": clocks, "units": units})
        return
    click.echo(f"{len(members) - len(behind)} of {len(members)} have their newest generation in force")
    if behind:
        print_table(("behind", "because", "who"), count_reasons(behind))
    for text in warn(off, failed):
        click.echo(clean(text))


def count_reasons(behind: Sequence[tuple[MemberStatus, str]]) -> list[tuple[int, str, str]]:
    """(how many, why, who) of those that are behind, what most have in common first."""
    groups: dict[str, list[str]] = {}
    for member, why in behind:
        groups.setdefault(NUMBER.sub("", why), []).append(member.hostname)
    rows = [(len(names), why, name_some(names)) for why, names in groups.items()]
    return sorted(rows, key=lambda row: -row[0])


def warn(off: Sequence[InstanceReport], failed: Sequence[InstanceReport]) -> list[str]:
    """A line for each clock that is off, and for each unit that has failed."""
    lines = [f"the clock of {one.hostname} is {describe_skew(one.skew or 0.0)}" for one in off[:NAMED]]
    if len(off) > NAMED:
        lines.append(f"and of {len(off) - NAMED} more")
    units: dict[str, list[str]] = {}
    for one in failed:
        for unit in one.failed:
            units.setdefault(unit, []).append(one.hostname)
    return lines + [f"{unit} has failed on {name_some(names)}" for unit, names in sorted(units.items())]


def describe_skew(skew: float) -> str:
    """:param skew: seconds that it is ahead."""
    return f"{abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}"


def name_some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(sorted(names)[:NAMED]) + rest


def explain(member: MemberStatus) -> str | None:
    """Why a member is behind; None when it is not."""
    if member.applied == member.generation and member.generation > 0 and member.failure is None:
        return None
    if member.failure is not None:
        return str(member.failure.get("summary") or "it has failed")
    if member.waiting:
        return f"it waits: {member.waiting}"
    if member.state != "active":
        return f"it is {member.state}" + (f", at {member.step}" if member.step else "")
    return "it is at it" if member.heard == member.generation else "it has not fetched it"
