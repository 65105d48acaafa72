"""Values as text: tables, seconds, bytes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from provisioner.cli.options import clean

WIDE = 180
"""Columns when the output is a file or a pipe: nothing is cut there."""
COLOURS = {
    "active": "green", "done": "green", "enrolled": "green", "ready": "green", "on": "green",
    "failed": "red bold", "running": "yellow", "deploying": "yellow", "cleaning": "yellow", "waiting": "dim",
    "broken": "red bold", "passed": "green", "degraded": "yellow",
}  # fmt: skip
MEGA = 1_000_000


def terminal(*, err: bool = False) -> Console:
    stream = sys.stderr if err else sys.stdout
    return Console(width=None if stream.isatty() else WIDE, stderr=err, highlight=False, markup=False, emoji=False)


def build_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in {"seconds", "MB"} else "left")
    for row in rows:
        words = [clean("" if cell is None else str(cell)) for cell in row]
        table.add_row(*(Text(word, style=COLOURS.get(word, "")) for word in words))
    return table


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    terminal().print(build_table(columns, rows))


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """``name  value`` lines; facts that are not known are left out."""
    known = [(name, str(value)) for name, value in facts if value not in (None, "", ())]
    width = max((len(name) for name, _ in known), default=0)
    console = terminal()
    for name, value in known:
        console.print(Text(f"{name:<{width}}  ", style="bold") + Text(clean(value)), soft_wrap=True)


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def megabytes(value: float) -> str:
    return f"{value / MEGA:.0f}"


def clock_time(epoch: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch))


UNSAID = frozenset({"waiting", "not_before", "looked", "fetch", "resumed", "contact", "seen_off", "dark"})
"""Parts of a step's detail that have a column or a word of their own, or that the service notes for itself."""


def describe(detail: dict[str, Any]) -> str:
    """What a step says of itself; bytes, rate and rest in words, all else as ``name=value``."""
    words = []
    rest = {name: value for name, value in detail.items() if name not in UNSAID and value != ""}
    if phase := rest.pop("phase", None):
        words.append(str(phase))
    done, total = rest.pop("bytes", None), rest.pop("total", None)
    rate, remaining = rest.pop("rate", None), rest.pop("remaining", None)
    if isinstance(done, int | float):
        of = f" of {megabytes(total)}" if isinstance(total, int | float) and total else ""
        words.append(f"{megabytes(done)}{of} MB")
    if isinstance(rate, int | float) and rate:
        words.append(f"{rate / MEGA:.1f} MB/s")
    if isinstance(remaining, int | float) and remaining:
        words.append(f"{remaining:.0f} s left")
    if waited := rest.pop("waited", None):
        words.append(f"waited {waited:.0f} s for its turn")
    words += [f"{name}={value}" for name, value in rest.items() if isinstance(value, str | int | float)]
    return ", ".join(words)
