"""Takes nodes on record whose management controllers prove what the hardware file says of them."""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provisioner.conductor.doors import Doors
from provisioner.conductor.sweep import note_power
from provisioner.errors import BmcError, BmcRefused, Conflict, ProvisionerError
from provisioner.model.hardware import NodeSpec, Power
from provisioner.model.status import EnrollItem, EnrollResult

BMC_SECONDS = 8.0

LOG = logging.getLogger(__name__)


def enroll(doors: Doors, items: Sequence[EnrollItem]) -> Iterator[EnrollResult]:
    """Verify all at once and record each as soon as its BMC has answered; the results, in the order of the answers.

    The work goes on also if nobody fetches the results.
    """
    results: queue.SimpleQueue[EnrollResult | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            for found in _enroll(doors, items):
                results.put(found)
        except Exception:
            LOG.exception("a fault of the program while nodes were enrolled")
        finally:
            results.put(None)

    threading.Thread(target=work, name="enroll", daemon=True).start()
    return iter(results.get, None)


def _enroll(doors: Doors, items: Sequence[EnrollItem]) -> Iterator[EnrollResult]:
    started = doors.clock.monotonic()
    left = {item.spec.name: item for item in items}
    for name, conflict in doors.store.nodes.conflicts([item.spec for item in items]).items():
        yield _failed(doors, name, conflict, started)
        left.pop(name, None)
    yield from _verify(doors, left, {}, started)


def _verify(
    doors: Doors, items: Mapping[str, EnrollItem], used: Mapping[str, str], started: float
) -> Iterator[EnrollResult]:
    """:param used: passwords by node that were tried before, and refused."""
    passwords: dict[str, str] = {}
    for name, item in items.items():
        ours = _own_password(doors, item) if name not in used else None
        password = ours or item.password
        if password and password != used.get(name):
            passwords[name] = password
        else:
            why = "the controller refuses the password on record" if used else "none is on record for this node"
            hint = "provisioner node enroll FILE.yaml --password-file FILE"
            yield _failed(doors, name, Conflict("there is no password", where=name, cause=why, hint=hint), started)
    again: dict[str, EnrollItem] = {}
    asked = {name: (items[name].spec.bmc, password) for name, password in passwords.items()}
    for batch in doors.bmcs.verify_all(asked, BMC_SECONDS):
        results = []
        with doors.store.transaction():  # one for all that answered together: each costs a write to the disk
            for name, facts in batch.items():
                item = items[name]
                if isinstance(facts, BmcRefused) and item.password and passwords[name] != item.password:
                    again[name] = item  # somebody changed it since we did; maybe it is the file's now
                    continue
                results.append(_record(doors, item.model_copy(update={"password": passwords[name]}), facts, started))
        yield from results
    if again:
        yield from _verify(doors, again, passwords, started)


def _own_password(doors: Doors, item: EnrollItem) -> str | None:
    """The password on record, when the file says so, or when it was made here and so is newer than any file."""
    nodes, name = doors.store.nodes, item.spec.name
    if item.password and nodes.rotated(name) is None:
        return None
    return None if nodes.find(name) is None else nodes.password(name)


def _record(doors: Doors, item: EnrollItem, facts: dict[str, Any] | BmcError, started: float) -> EnrollResult:
    """Take one node on record, all of it or nothing, whatever becomes of the others."""
    name = item.spec.name
    if isinstance(facts, BmcError):
        return _failed(doors, name, facts, started)
    try:
        with doors.store.attempt():
            result, changes = _take(doors, item, facts, Power(facts.get("power") or Power.UNKNOWN))
    except ProvisionerError as error:
        return _failed(doors, name, error, started)
    seconds = round(doors.clock.monotonic() - started, 3)
    return EnrollResult.model_validate({"node": name, "result": result, "changes": changes, "seconds": seconds})


def _failed(doors: Doors, name: str, error: ProvisionerError, started: float) -> EnrollResult:
    seconds = round(doors.clock.monotonic() - started, 3)
    return EnrollResult(node=name, result="failed", seconds=seconds, error=error.to_dict())


def _take(doors: Doors, item: EnrollItem, facts: dict[str, Any], power: Power) -> tuple[str, list[str]]:
    store, spec, now = doors.store, item.spec, doors.clock.now()
    with store.transaction():
        known = store.nodes.find(spec.name)
        if known is None:
            ident = str(uuid.uuid4())
            store.nodes.add(ident, spec, item.password, power=power, facts=facts, pool=doors.pool, now=now)
            doors.tell("node.enrolled", f"its BMC at {spec.bmc.address} was verified", spec.name)
            return "enrolled", []
        if not spec.ports:  # the file leaves them open: what an inspection found stays
            spec = spec.model_copy(update={"ports": known.spec.ports})
        changes = build_changes(known.spec, spec)
        if store.nodes.password(spec.name) != item.password:
            changes.append("bmc.password: changed")
        if not changes:
            note_power(doors, known, known, power)
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
