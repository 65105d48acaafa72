"""Asks controllers what makes them unsafe, and compares their firmware with that of their siblings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from provisioner.conductor.doors import Doors
from provisioner.errors import BmcError
from provisioner.model.deployment import Node
from provisioner.model.status import AuditFinding, AuditResult

AUDIT_SECONDS = 60.0
"""Some twenty questions, and a controller that drops what it does not like answers none of them."""
AT_ONCE = 32
ORDER = {"high": 0, "medium": 1, "low": 2}


def audit(doors: Doors, names: Sequence[str]) -> Iterator[AuditResult]:
    """The findings of each node as they come; of all nodes when none is named.

    :raises NotFound: there is no node of a name.
    """
    everyone = doors.store.nodes.all()
    nodes = [doors.store.nodes.get(name) for name in names] or everyone
    workers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="audit")
    futures = [workers.submit(_audit_one, doors, node, everyone) for node in nodes]
    workers.shutdown(wait=False)
    return (future.result() for future in as_completed(futures))


def _audit_one(doors: Doors, node: Node, everyone: Sequence[Node]) -> AuditResult:
    found = [AuditFinding.model_validate(finding) for finding in find_old_firmware(node, everyone)]
    try:
        said = doors.bmcs.audit(node.bmc, doors.store.nodes.password(node.name), AUDIT_SECONDS)
    except BmcError as error:
        return AuditResult(node=node.name, findings=tuple(found), error=error.to_dict())
    for finding in said:
        mend = str(finding["mend"]).replace("{node}", node.name)
        found.append(AuditFinding.model_validate(finding | {"mend": mend}))
    return AuditResult(node=node.name, findings=tuple(sorted(found, key=lambda one: ORDER[one.risk])))


def find_old_firmware(node: Node, everyone: Sequence[Node]) -> Iterator[dict[str, Any]]:
    """Whether a sibling of the same make has a newer firmware in its controller."""
    make, mine = _make(node.bmc_facts), _version(node.bmc_facts)
    if make is None or not mine:
        return
    newest = max((other for other in everyone if _make(other.bmc_facts) == make), key=lambda o: _version(o.bmc_facts))
    if _version(newest.bmc_facts) > mine:
        yield {
            "check": "old-firmware",
            "risk": "low",
            "summary": "the controller's firmware is older than that of its siblings",
            "cause": f"it has {node.bmc_facts['firmware']}, {newest.name} has {newest.bmc_facts['firmware']}",
            "mend": "update the controller's firmware with the vendor's tool, then enroll the node again",
        }


def _make(facts: Mapping[str, Any]) -> tuple[object, object] | None:
    made = facts.get("manufacturer_id", facts.get("manufacturer"))
    product = facts.get("product_id", facts.get("product"))
    return None if made is None else (made, product)


def _version(facts: Mapping[str, Any]) -> tuple[int, ...]:
    """``2.10b`` → (2, 10); digits decide, as vendors' letters follow no order."""
    return tuple(int(number) for number in re.findall(r"\d+", str(facts.get("firmware") or "")))
