"""What every command knows: the options given before its name, and how to print."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from provisioner.system.clock import Clock, HostClock

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Options:
    """:param config: the configuration file, if not the usual one. :param output: ``table`` or ``json``.

    :param itself: whether also the node is meant that the service itself runs on.
    """

    config: Path | None = None
    output: str = "table"
    itself: bool = False
    clock: Clock = field(default_factory=HostClock)

    @property
    def json(self) -> bool:
        return self.output == "json"


pass_options = click.make_pass_decorator(Options, ensure=True)


def output_option(command: F) -> F:
    """``-o json|table``; it counts before anything else is read, so that errors keep to it."""

    def keep(context: click.Context, _parameter: click.Parameter, value: str) -> None:
        context.ensure_object(Options).output = value

    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        expose_value=False,
        is_eager=True,
        callback=keep,
        help="How to print.",
    )(command)


def self_option(command: F) -> F:
    """``--self``: the command may take away the node that the service itself runs on."""

    def keep(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        context.ensure_object(Options).itself = value

    return click.option(
        "--self",
        is_flag=True,
        expose_value=False,
        callback=keep,
        help="Also if that is the node on which the service itself runs.",
    )(command)


def print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def clean(text: str) -> str:
    """Text of guests and controllers without what would steer a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)
