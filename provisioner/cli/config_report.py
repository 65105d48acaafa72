"""``provisioner config report``: what an instance last said of its configuration, whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from provisioner.cli.config_status import describe_skew
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import open_client
from provisioner.cli.show import clock_time, print_facts, print_table, seconds
from provisioner.model.status import InstanceReport


@click.command("report")
@click.argument("node", metavar="NODE")
@output_option
@pass_options
def report(options: Options, node: str) -> None:
    """Show what the instance of NODE last said: the generation in force, what its newest change did and how long each
    part of that took, what the validators said, how units and probes are, and whether its clock is right.

    \b
    Example:
      provisioner config report a07
    """
    with open_client(options) as client:
        found = client.instance_report(node)
    if options.json:
        print_json(found.model_dump(mode="json"))
        return
    body, detail = found.body, found.detail
    print_facts(_facts(found))
    _table("steps", ("step", "seconds"), ((name, _seconds(taken)) for name, taken in _map(body, "seconds").items()))
    _table(
        "scripts and units",
        ("phase", "script", "seconds", "code"),
        (
            (one.get("phase"), one.get("script"), _seconds(one.get("seconds")), one.get("code"))
            for one in _rows(body, "phases")
        ),
    )
    _table("units", ("unit", "state"), _map(body, "services").items())
    _table(
        "probes",
        ("probe", "of", "state", "said"),
        (
            (name, one.get("scope"), "green" if one.get("ok") else "red", one.get("output"))
            for name, one in _map(body, "probes").items()
        ),
    )
    _table(
        "validators",
        ("file", "command", "code", "said"),
        (
            (one.get("path"), one.get("command"), one.get("code"), one.get("said"))
            for one in _rows(detail, "validators")
        ),
    )
    for path, diff in _map(body, "drift").items():
        click.echo(clean(f"\nchanged by hand: {path}\n{diff}"))
    if detail.get("diff"):
        click.echo(clean(f"\ngeneration {detail.get('generation')} changed:\n{detail['diff']}"))


def _facts(found: InstanceReport) -> Iterable[tuple[str, object]]:
    body = found.body
    health = "healthy" if body.get("healthy") else "not healthy"
    yield "node", f"{found.node} ({found.hostname})"
    yield "said", clock_time(found.at) if found.at is not None else None
    yield "in force", f"generation {body.get('applied') or 'none'} of {found.newest}, {health}"
    yield "newest change", f"generation {body.get('generation')}: {body.get('state')}"
    error = _map(body, "error")
    yield "error", error.get("summary")
    yield "cause", error.get("cause")
    yield "next", error.get("hint")
    if found.skew is not None:
        yield "clock", describe_skew(found.skew) + (", which is too much" if found.off else "")
    warnings = body.get("warnings")
    yield "warnings", "; ".join(str(text) for text in warnings) if isinstance(warnings, list) else ""


def _seconds(value: object) -> str:
    return seconds(value) if isinstance(value, int | float) else ""


def _map(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = body.get(key)
    return found if isinstance(found, Mapping) else {}


def _rows(body: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = body.get(key)
    return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """A table under its title; without rows neither."""
    known = list(rows)
    if known:
        click.echo(f"\n{title}")
        print_table(columns, known)
