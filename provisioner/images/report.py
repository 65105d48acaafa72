"""How each image of a build ended, as files for CI jobs: JSON for programs, JUnit XML for the pages of CI systems."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from provisioner.errors import ProvisionerError
from provisioner.events import Event, Observer

ENDS = {"image.done": "built", "image.unchanged": "unchanged", "image.failed": "failed"}


@dataclass
class Outcome:
    """One image: ``result`` is built, unchanged or failed; ``phases`` are seconds by name."""

    name: str
    result: str
    id: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    error: dict[str, Any] | None = None
    phases: dict[str, float] = field(default_factory=dict)


class Report:
    """An observer of :func:`~provisioner.images.build.build_images` that hands each event on."""

    def __init__(self, then: Observer) -> None:
        self._then = then
        self._phases: dict[str, dict[str, float]] = {}
        self._outcomes: dict[str, Outcome] = {}

    def __call__(self, event: Event) -> None:
        data = event.data
        if event.kind == "image.timing":
            self._phases.setdefault(str(data["image"]), {})[str(data["phase"])] = round(float(data["seconds"]), 3)
        elif event.kind in ENDS:
            name = str(data["image"])
            self._outcomes[name] = Outcome(
                name=name,
                result=ENDS[event.kind],
                id=data.get("id"),
                reason=data.get("reason"),
                seconds=round(float(data.get("seconds", 0.0)), 3),
                error=data.get("error"),
            )
        self._then(event)

    def fail(self, names: Iterable[str], error: ProvisionerError) -> None:
        """The build ended before these images did."""
        for name in names:
            if name not in self._outcomes:
                self._outcomes[name] = Outcome(name=name, result="failed", error=error.to_dict())

    @property
    def outcomes(self) -> list[Outcome]:
        """By name, each with the seconds of its phases."""
        for name, outcome in self._outcomes.items():
            outcome.phases = self._phases.get(name, {})
        return [self._outcomes[name] for name in sorted(self._outcomes)]

    def render_json(self) -> str:
        """``{"images": [...], "phases": {...}}``; ``phases`` are those that the images shared."""
        shared = {name: phases for name, phases in self._phases.items() if name not in self._outcomes}
        return json.dumps({"images": [asdict(one) for one in self.outcomes], "phases": shared}, indent=1) + "\n"

    def render_junit(self) -> str:
        """One test case for each image; what had not changed counts as skipped."""
        cases = [_case(outcome) for outcome in self.outcomes]
        failures = sum(one.result == "failed" for one in self.outcomes)
        skipped = sum(one.result == "unchanged" for one in self.outcomes)
        seconds = sum(one.seconds for one in self.outcomes)
        counts = f'tests="{len(cases)}" failures="{failures}" skipped="{skipped}" errors="0" time="{seconds:.3f}"'
        return "\n".join(
            [
                '<?xml version="1.0" encoding="UTF-8"?>',
                f'<testsuite name="images" {counts}>',
                *cases,
                "</testsuite>",
                "",
            ]
        )


def _case(outcome: Outcome) -> str:
    inner = ""
    if outcome.error is not None:
        lines = [f"{key}: {outcome.error[key]}" for key in ("where", "cause", "hint") if outcome.error.get(key)]
        inner = f"<failure message={quoteattr(str(outcome.error['summary']))}>{_clean(lines)}</failure>"
    elif outcome.result == "unchanged":
        inner = '<skipped message="nothing changed"/>'
    name = quoteattr(outcome.name)
    return f'  <testcase classname="image" name={name} time="{outcome.seconds:.3f}">{inner}</testcase>'


def _clean(lines: Iterable[str]) -> str:
    """XML 1.0 has no place for most control characters, and programs print them."""
    return escape("".join(c for c in "\n".join(lines) if c in "\n\t" or c >= " "))
