"""Takes nodes on record whose management controllers prove what the hardware file says of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from provisioner.conductor.doors import Doors
from provisioner.errors import ProvisionerError
from provisioner.model.hardware import NodeSpec, Power
from provisioner.model.status import EnrollItem, EnrollResult

BMC_SECONDS = 8.0
AT_ONCE = 32


def enroll(doors: Doors, items: Sequence[EnrollItem]) -> Iterator[EnrollResult]:
    """Verify all at once and record each as soon as its BMC has answered; the results, in the order of the answers.

    The work goes on also if nobody fetches the results.
    """
    workers = ThreadPoolExecutor(min(AT_ONCE, max(1, len(items))), thread_name_prefix="enroll")
    futures = [workers.submit(_enroll_one, doors, item) for item in items]
    workers.shutdown(wait=False)
    return _results(futures)


def _results(futures: Sequence[Future[EnrollResult]]) -> Iterator[EnrollResult]:
    for future in as_completed(futures):
        yield future.result()


def _enroll_one(doors: Doors, item: EnrollItem) -> EnrollResult:
    started = doors.clock.monotonic()
    name = item.spec.name
    try:
        doors.store.nodes.check_free(item.spec)
        facts, power = _verify(doors, item)
        result, changes = _record(doors, item, facts, power)
    except ProvisionerError as error:
        seconds = round(doors.clock.monotonic() - started, 3)
        return EnrollResult(node=name, result="failed", seconds=seconds, error=error.to_dict())
    seconds = round(doors.clock.monotonic() - started, 3)
    return EnrollResult.model_validate({"node": name, "result": result, "changes": changes, "seconds": seconds})


def _verify(doors: Doors, item: EnrollItem) -> tuple[dict[str, Any], Power]:
    """What the BMC says of itself and of the power; both before one deadline."""
    end = doors.clock.monotonic() + BMC_SECONDS
    facts = doors.bmcs.verify(item.spec.bmc, item.password, BMC_SECONDS)
    left = max(1.0, end - doors.clock.monotonic())
    return facts, doors.bmcs.power(item.spec.bmc, item.password, left)


def _record(doors: Doors, item: EnrollItem, facts: dict[str, Any], power: Power) -> tuple[str, list[str]]:
    store, spec, now = doors.store, item.spec, doors.clock.now()
    with store.transaction():
        known = store.nodes.find(spec.name)
        if known is None:
            ident = str(uuid.uuid4())
            store.nodes.add(ident, spec, item.password, power=power, facts=facts, pool=doors.pool, now=now)
            doors.tell("node.enrolled", f"its BMC at {spec.bmc.address} was verified", spec.name)
            return "enrolled", []
        changes = build_changes(known.spec, spec)
        if store.nodes.password(spec.name) != item.password:
            changes.append("bmc.password: changed")
        if not changes:
            store.nodes.set_power(spec.name, power, now)
            return "unchanged", []
        store.nodes.change(spec, item.password, power=power, facts=facts, pool=doors.pool, now=now)
        doors.tell("node.updated", "; ".join(changes), spec.name)
        return "updated", changes


def build_changes(old: NodeSpec, new: NodeSpec) -> list[str]:
    """``path: old → new`` for each value that differs. A spec holds references to secrets, never secrets."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return [
        f"{path}: {_text(before.get(path))} → {_text(after.get(path))}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        parts = {str(index): item for index, item in enumerate(value)}.items()
    else:
        return {path: value}
    found: dict[str, Any] = {}
    for key, item in parts:
        found |= _flat(item, f"{path}.{key}" if path else str(key))
    return found


def _text(value: Any) -> str:
    if value is None or value == []:
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
