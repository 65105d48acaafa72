"""What the benchmarks share: a process's memory, and the table of measured figures beside their bars."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass
class Row:
    """One line of the table. ``bar``: the most that ``measured`` may be; ``detail``: what it was computed from."""

    work: str
    measured: float
    bar: float
    unit: str
    detail: str

    @property
    def holds(self) -> bool:
        return self.measured <= self.bar


def memory_of(pid: int, figure: str) -> float:
    """MB of a process. ``figure``: ``VmRSS``, what it has now, or ``VmHWM``, the most that it had (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{figure}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit(f"process {pid} has ended")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def show(rows: Sequence[Row], results: Path | None) -> None:
    """Print the table; write it to ``results`` too, as JSON."""
    for row in rows:
        bar = f"bar {row.bar:g}{' ' + row.unit if row.unit else ''}"
        print(
            f"{row.measured:8.2f} {row.unit:3} {bar:12} {'holds ' if row.holds else 'MISSED'}  {row.work}  {row.detail}"
        )
    if results:
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps([asdict(row) | {"holds": row.holds} for row in rows], indent=1) + "\n")
