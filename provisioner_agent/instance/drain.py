"""Draining: before its instance ends, a member gives away what others need of it, and lets nothing new in.

``drain.d`` and ``undrain.d`` beside the phases hold the scripts; they are run as those are, in the order of their
names, and the first that fails ends the run. A drain that was interrupted, by the end of the agent or a boot, is begun
again, so scripts look what is left to do. What they are told by environment beside ``PROVISIONER_METADATA`` and
``PROVISIONER_PHASE``:

``PROVISIONER_DRAIN``      ``release``: nothing of the disks is used again; ``rebuild``: volumes that are kept are
``PROVISIONER_ROLE_ENDS``  ``1`` when all members of the role leave

``undrain.d`` is run when the member stays after all; then the generation in force is brought up as after a boot.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from provisioner_agent.instance import places
from provisioner_agent.instance.account import build_mask
from provisioner_agent.instance.document import Document, read_document
from provisioner_agent.instance.failure import build_error, script_error
from provisioner_agent.instance.host import FileState, Host
from provisioner_agent.instance.phases import PhaseResult, run_script, scripts_of
from provisioner_agent.protocol.messages import DRAIN, DRAIN_FAILED, DRAINED, DRAINING

UNDRAIN = "undrain"


def read_order(document: Document | None) -> Mapping[str, Any] | None:
    """What metadata ask for when the instance is to end; None while it is not."""
    asked = None if document is None else document.own.get(DRAIN)
    return asked if isinstance(asked, Mapping) and asked.get("id") else None


def run_drain(host: Host, document: Document, note: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Run the scripts that the metadata ask for. :returns: how it ended, in words of the report.

    :param note: is given the same before each script. :raises OSError: the metadata cannot be written for them.
    """
    order = read_order(document) or {}
    state: dict[str, Any] = {"id": order.get("id"), "state": DRAINING, "boot_id": host.boot_id()}
    note(state)
    env = {"PROVISIONER_DRAIN": str(order.get("for") or "release")}
    if order.get("role_ends") is True:
        env["PROVISIONER_ROLE_ENDS"] = "1"
    results = _run(host, document, DRAIN, env, lambda script: note(state | {"script": script}))
    error = script_error(results)
    phases = [result.to_dict() for result in results]
    if error is None:
        return state | {"state": DRAINED, "phases": phases}
    error |= {"cause": build_mask(document, read_document(host, places.APPLIED))(error["cause"] or "")}
    return state | {"state": DRAIN_FAILED, "script": results[-1].script, "phases": phases, "error": error}


def run_undrain(host: Host, document: Document) -> list[PhaseResult]:
    """One result for each script that ran; only the last can have another code than 0."""
    return _run(host, document, UNDRAIN, {}, lambda script: None)


def _run(
    host: Host, document: Document, phase: str, env: Mapping[str, str], begins: Callable[[str], None]
) -> list[PhaseResult]:
    host.write(places.RUN_METADATA, FileState(json.dumps(document.body).encode(), 0o600))
    env = {**env, "PROVISIONER_METADATA": host.real(places.RUN_METADATA)}
    results: list[PhaseResult] = []
    for script in scripts_of(host, phase):
        begins(script)
        results.append(run_script(host, phase, script, env))
        if results[-1].code != 0:
            break
    return results


def unwritten(host: Host, document: Document, error: OSError) -> dict[str, Any]:
    """As :func:`run_drain`, when nothing could be begun."""
    told = build_error("the drain cannot be begun", str(error), "on the instance: journalctl -u provisioner-agent")
    return {
        "id": (read_order(document) or {}).get("id"),
        "state": DRAIN_FAILED,
        "boot_id": host.boot_id(),
        "error": told,
    }


def is_over(known: Mapping[str, Any], order: Mapping[str, Any], boot_id: str) -> bool:
    """Whether an order to drain has been carried out, or has failed, and nothing has been started since."""
    same = known.get("id") == order.get("id") and known.get("state") in (DRAINED, DRAIN_FAILED)
    return same and known.get("boot_id") == boot_id


def describe_drain(host: Host, known: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of it."""
    told: Sequence[str] = ("id", "state", "script", "phases", "error")
    return {"scripts": len(scripts_of(host, DRAIN)), **{key: known[key] for key in told if key in known}}
