"""What a hardware test finds: passed, degraded, failed or skipped, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

PASSED, DEGRADED, FAILED, SKIPPED = "passed", "degraded", "failed", "skipped"
ORDER = (SKIPPED, PASSED, DEGRADED, FAILED)
"""From what counts least to what counts most."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    verdict: str
    text: str


def conclude(findings: Iterable[Finding], passed: str) -> dict[str, Any]:
    """The detail of a test's result: the worst verdict, and the texts of all findings that are as bad or bad too.

    :param passed: what is said when nothing is wrong.
    """
    found = list(findings)
    worst = max((finding.verdict for finding in found), key=ORDER.index, default=PASSED)
    said = [finding.text for finding in found if finding.verdict in (FAILED, DEGRADED)]
    if worst in (PASSED, SKIPPED):
        said = [passed, *(finding.text for finding in found if finding.text)]
    return {"verdict": worst, "summary": "; ".join(text for text in said if text)}
