"""Reports: what the server, and whoever runs ``provisioner-agent status``, learn of this instance."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from provisioner_agent.instance import places
from provisioner_agent.instance.apply import BROKEN
from provisioner_agent.instance.drain import describe_drain
from provisioner_agent.instance.host import FileState, Host
from provisioner_agent.instance.probes import ProbeResult, is_green
from provisioner_agent.instance.record import Record
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.link import Link, Refused, ServerAway

NONE: Mapping[str, str] = {}
ONCE = ("diff", "validators")
"""Of a change's account: long, so told until the server has taken it, and not again."""
INTERVAL = 600.0
RETRY = 5.0
TIMEOUT = 10.0
"""Seconds: between reports when nothing changes, until a lost one is sent again, until the server counts as away."""

LOG = logging.getLogger("provisioner-agent")


class Reporter:
    """Keeps the status file true and tells the server: at once when something changed, else each ten minutes."""

    def __init__(self, host: Host, link: Link, root: str | None = None) -> None:
        self.host = host
        self.link = link
        self.root = host.root_argument() if root is None else root
        self.due = 0.0
        self.told: dict[str, Any] | None = None
        self.known: Mapping[str, Any] | None = None
        """The account that the server has taken."""

    def tell(
        self,
        record: Record,
        probes: Mapping[str, ProbeResult],
        *,
        drift: Mapping[str, str] = NONE,
        units: Mapping[str, str] = NONE,
        settled: bool = True,
        doing: str | None = None,
        waiting: str | None = None,
        problem: str | None = None,
        send: bool = True,
    ) -> None:
        """Report when something differs from what was last told, or when it is time again.

        :param drift: what was changed by hand, by path. :param units: how those of managed files are, by name.
        :param settled: False while a generation is being applied: the node does not count as healthy then.
        :param doing: what takes long of that. :param waiting: why the agent waits. :param problem: why the server
            cannot be heard, or what was ignored. :param send: False only keeps the status file true.
        """
        now = self.compose(record, probes, drift=drift, units=units, settled=settled, doing=doing, problem=problem)
        status = now | {"waiting": waiting, "refused": record.refused, "updated": self.host.now()}
        self.host.write(places.RUN_STATUS, FileState(json.dumps(status, indent=1).encode(), 0o600))
        clock = self.host.monotonic()
        news = now != self.told
        if send and record.state and (clock >= self.due or (news and self.told is not None)):
            self._send(now, record.account if settled else self.known, clock)

    def compose(
        self,
        record: Record,
        probes: Mapping[str, ProbeResult],
        *,
        drift: Mapping[str, str] = NONE,
        units: Mapping[str, str] = NONE,
        settled: bool = True,
        doing: str | None = None,
        problem: str | None = None,
    ) -> dict[str, Any]:
        """The message, but for what is told once and the clock."""
        healthy = settled and bool(record.applied) and record.state != BROKEN and is_green(probes, "node")
        return {
            "generation": record.about,
            "applied": record.applied,
            "state": record.state,
            "doing": doing,
            "healthy": healthy,
            "probes": {name: result.to_dict() for name, result in probes.items()},
            "phases": list(record.phases),
            "seconds": dict(record.account.get("seconds") or {}),
            "services": dict(units),
            "error": record.error,
            "drift": dict(drift),
            messages.DRAIN: describe_drain(self.host, record.drain),
            "boot_id": self.host.boot_id(),
            "root": self.root,
            "warnings": [problem] if problem else [],
        }

    def _send(self, message: dict[str, Any], account: Mapping[str, Any] | None, clock: float) -> None:
        whole = message | {"clock": self.host.now()}
        if account and account != self.known:
            whole.update({name: account.get(name) for name in ONCE})
        try:
            self.link.call("POST", messages.REPORT, whole, timeout=TIMEOUT)
        except (ServerAway, Refused) as error:
            LOG.warning("the report was not taken: %s", error)
            self.told = None
            self.due = clock + RETRY
            return
        self.told, self.known = message, account
        self.due = clock + INTERVAL

    @property
    def next(self) -> float:
        """Seconds until :meth:`tell` should be called again."""
        return max(0.0, self.due - self.host.monotonic())


def status_text(status: Mapping[str, Any]) -> str:
    """The status file for a person."""
    health = "healthy" if status["healthy"] else "not healthy"
    lines = [f"generation {status['applied'] or 'none'} is in force; {health}"]
    if status["state"] not in ("", "applied"):
        doing = f"; {status['doing']}" if status.get("doing") else ""
        lines.append(f"generation {status['generation']}: {status['state']}{doing}")
    if status["error"]:
        lines += [f"  {status['error']['summary']}", f"  {status['error']['cause']}"]
    drain = status.get(messages.DRAIN) or {}
    if drain.get("state"):
        lines.append(f"drain: {drain['state']}" + (f" at {drain['script']}" if drain.get("script") else ""))
    if status["waiting"]:
        lines.append(f"waiting: {status['waiting']}")
    lines += [f"warning: {text}" for text in status["warnings"]]
    lines += [f"changed by hand: {path}; provisioner-agent why {path}" for path in status.get("drift") or ()]
    lines += [f"unit {unit} is {state}" for unit, state in (status.get("services") or {}).items()]
    for name, probe in status["probes"].items():
        lines.append(f"{'green' if probe['ok'] else 'red':6}{probe['scope']:5} {name}: {probe['output']}")
    return "\n".join(lines)
