"""What is told of a change that did not come into force: what, why, and where to look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from provisioner_agent.instance.document import Document
from provisioner_agent.instance.phases import PhaseResult, failure_of
from provisioner_agent.instance.services import OWN, SERVICES, WATCH


def build_error(summary: str, cause: str, hint: str | None) -> dict[str, Any]:
    return {"error": "ConfigureError", "summary": summary, "where": None, "cause": cause, "hint": hint}


def unconfirmed_error(document: Document, why: str) -> dict[str, Any]:
    """The server was not heard again. :param why: what the last try met."""
    seconds = f"{document.confirm_seconds:g} s"
    summary = f"the server was not heard over a new connection within {seconds} of the switch"
    return build_error(
        summary, why, "look at what the change does to network, firewall, sshd and the agent's own files"
    )


def unwatched_error(why: str) -> dict[str, Any]:
    """Nothing was changed, since nobody would have taken it back."""
    summary = f"{WATCH} does not start, and without it nobody takes back what ends the agent"
    return build_error(summary, why, f"on the instance: systemctl status {WATCH}")


def absent_error(seconds: float, state: str, said: str) -> dict[str, Any]:
    """The agent was not there to end the change. :param state: of its unit. :param said: its last lines."""
    summary = f"the agent did not go on with the change for {seconds:.0f} s, so {WATCH} took it back"
    return build_error(
        summary, f"{OWN} was {state}\n{said}".rstrip(), "look at what the change does to the agent's own unit and files"
    )


def script_error(results: Sequence[PhaseResult]) -> dict[str, Any] | None:
    """Of the last of these, when it failed: a phase script, or the work on a unit."""
    wrong = failure_of(results)
    if wrong is None:
        return None
    how = "did not end in time" if wrong.timed_out else f"ended with code {wrong.code}"
    if wrong.phase == SERVICES:
        unit = wrong.script.rpartition(" ")[2]
        return build_error(f"systemctl {wrong.script} {how}", wrong.tail, f"on the instance: systemctl status {unit}")
    summary = f"the phase script {wrong.phase}.d/{wrong.script} {how}"
    return build_error(summary, wrong.tail, "on the instance: journalctl -u provisioner-agent") | {
        "phase": wrong.phase,
        "script": wrong.script,
        "code": wrong.code,
    }
