"""Phases: the scripts that bring a rendered configuration into force.

``/usr/libexec/os-refresh-config/PHASE.d/NAME``: executable files whose names are letters, digits, dashes and
underscores, run in the order of their names, one after another; the first that fails ends the run. A script has 600 s,
or what it asks for in its first lines: ``# time-limit: 1000``.

They are told by environment:

``PROVISIONER_CHANGED``   paths that were written or removed, one in each line
``PROVISIONER_METADATA``  file with the metadata (JSON)
``PROVISIONER_PERMIT``    file with the permit's answer: ``{"once": {NAME: {"do": bool, "fence": int}}}``
``PROVISIONER_FIRST``     ``1`` while no generation has been applied on this disk yet
``PROVISIONER_BOOT``      ``1`` when the kernel was started since the last run; services are down
``PROVISIONER_ROLLBACK``  ``1`` when the previous files were put back
``PROVISIONER_GENERATION``, ``PROVISIONER_PHASE``

Between ``configure`` and ``post-configure`` the agent restarts or reloads the units whose files were written or
removed, as the control files of these say (:mod:`.services`); a unit that they leave to a phase (``phase``) is a
script's to restart. systemd has read changed files of ``/etc/systemd/system`` again before the first script. Before
``migration``, after which there is no way back, a change that may have cut the node off is confirmed
(:mod:`.confirm`). Of ``drain`` and ``undrain``, which are no part of this, see :mod:`.drain`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner_agent.instance import places
from provisioner_agent.instance.host import Host

BEFORE_SERVICES, AFTER_SERVICES, LAST = ("pre-configure", "configure"), ("post-configure",), ("migration",)
"""Between the first two the agent restarts what is due; before the last one a change that may have cut the node off
must be confirmed, since what the last one does cannot be taken back."""
PHASES = BEFORE_SERVICES + AFTER_SERVICES + LAST
AFTER_FAILURE = "error"
TIME_LIMIT = 600.0
LAST_LINES = 15

LOG = logging.getLogger("provisioner-agent")
NAME = re.compile(r"^[0-9A-Za-z_-]+$")
ASKED = re.compile(rb"^# time-limit: ([0-9]+)$", re.MULTILINE)


@dataclass(frozen=True)
class PhaseResult:
    """How one script ended. ``tail`` holds the last lines that it said."""

    phase: str
    script: str
    seconds: float
    code: int
    tail: str = ""
    timed_out: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"phase": self.phase, "script": self.script, "seconds": round(self.seconds, 3), "code": self.code}


Tell = Callable[[str], None]
"""Told what is being done when that takes long."""


def silent(what: str) -> None:
    """Nobody wants to know."""


def run_phases(
    host: Host, env: Mapping[str, str], phases: tuple[str, ...] = PHASES, tell: Tell = silent
) -> list[PhaseResult]:
    """Run the scripts of ``phases``; after a failure those of ``error.d`` run too, and how they end changes nothing.

    :returns: one result for each script that ran; only the last can have another code than 0.
    """
    results: list[PhaseResult] = []
    for phase in phases:
        for script in scripts_of(host, phase):
            results.append(run_script(host, phase, script, env, tell))
            if results[-1].code != 0:
                run_after_failure(host, env)
                return results
    return results


def run_after_failure(host: Host, env: Mapping[str, str]) -> None:
    for late in scripts_of(host, AFTER_FAILURE):
        run_script(host, AFTER_FAILURE, late, env)


def failure_of(results: Sequence[PhaseResult]) -> PhaseResult | None:
    return results[-1] if results and results[-1].code != 0 else None


def scripts_of(host: Host, phase: str) -> list[str]:
    return [name for name in host.scripts(f"{places.PHASES}/{phase}.d") if NAME.match(name)]


def run_script(host: Host, phase: str, script: str, env: Mapping[str, str], tell: Tell = silent) -> PhaseResult:
    """Within its own time limit; what it said goes to the log."""
    path = f"{places.PHASES}/{phase}.d/{script}"
    started = host.monotonic()
    limit = _time_limit(host, path)
    env = {**env, "PROVISIONER_PHASE": phase}
    done = host.run([host.real(path)], limit=limit, env=env, slow=lambda: tell(f"runs {phase}.d/{script}"))
    seconds = host.monotonic() - started
    lines = done.output.rstrip().splitlines()[-LAST_LINES:]
    if done.timed_out:
        lines.append(f"ended by the agent after {limit:g} s")
    code = done.code if not done.timed_out else done.code or -9
    LOG.info("%s/%s: code %s after %.1f s", phase, script, code, seconds)
    for line in lines:
        LOG.info("%s/%s: %s", phase, script, line)
    return PhaseResult(phase, script, seconds, code, "\n".join(lines), done.timed_out)


def _time_limit(host: Host, path: str) -> float:
    state = host.read(path)
    found = ASKED.search(b"\n".join(state.data.splitlines()[:10])) if state else None
    return float(found[1]) if found else TIME_LIMIT
