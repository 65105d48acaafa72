"""Probes: commands that say whether this node, and its role, are healthy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from provisioner_agent.instance.host import Host

PAUSE = 5.0
"""Seconds between two looks while something is not green."""
PAUSE_GREEN, PAUSE_LONGEST = 15.0, 300.0
"""The same while all is green: the shortest, and the longest."""
SHARE = 20.0
"""Looks while all is green take at most one part in so many of the time: programs may cost much each time."""
SHOWN = 200


@dataclass(frozen=True)
class Probe:
    """Green when ``command`` ends with 0 and, if ``expect`` is given, prints exactly that. ``timeout`` in seconds."""

    name: str
    command: tuple[str, ...]
    scope: str
    expect: str | None = None
    timeout: float = 20.0


@dataclass(frozen=True)
class ProbeResult:
    """What a probe said; ``output`` is cut to 200 characters. ``final``: it will never say anything else by itself."""

    ok: bool
    output: str
    scope: str
    final: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "output": self.output, "scope": self.scope}


def run_probe(host: Host, probe: Probe, mask: Callable[[str], str] = str) -> ProbeResult:
    done = host.run(probe.command, limit=probe.timeout)
    output = done.output.strip()
    ok = not done.timed_out and done.code == 0 and (probe.expect is None or output == probe.expect)
    if done.timed_out:
        output = f"no answer within {probe.timeout:g} s"
    return ProbeResult(ok, mask(output)[-SHOWN:], probe.scope)


def run_probes(host: Host, probes: Iterable[Probe], mask: Callable[[str], str] = str) -> dict[str, ProbeResult]:
    """Results by the probes' names. ``mask`` hides secrets in what they said."""
    return {probe.name: run_probe(host, probe, mask) for probe in probes}


def pause_after(results: Mapping[str, ProbeResult], took: float) -> float:
    """Seconds until the next look, after one that took ``took`` seconds."""
    return min(max(PAUSE_GREEN, SHARE * took), PAUSE_LONGEST) if is_green(results) else PAUSE


def is_green(results: Mapping[str, ProbeResult], scope: str | None = None) -> bool:
    """Whether all results of a scope (or all there are) are green; none at all is green."""
    return all(result.ok for result in results.values() if scope in (None, result.scope))


def wait_for_green(
    host: Host,
    probes: Iterable[Probe],
    wait: float,
    seen: Callable[[dict[str, ProbeResult]], None],
    beside: Callable[[], Mapping[str, ProbeResult]] = dict,
    mask: Callable[[str], str] = str,
) -> bool:
    """Run all probes until those of the node are green, at most ``wait`` seconds. ``seen`` gets each round's results.

    The role's probes run along but are not waited for: members would wait for each other in a circle.

    :param beside: gives results of another kind, which count as well. :param mask: hides secrets in what probes said.
    """
    chosen = tuple(probes)
    end = host.monotonic() + wait
    while True:
        results = {**run_probes(host, chosen, mask), **beside()}
        seen(results)
        if is_green(results, "node"):
            return True
        lost = any(result.final and not result.ok for result in results.values() if result.scope == "node")
        if lost or host.monotonic() >= end:
            return False
        host.sleep(min(PAUSE, max(0.0, end - host.monotonic())))
