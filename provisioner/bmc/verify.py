"""Who many controllers are, asked all at once: what enrolling needs, in four questions to each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.bmc.facts import parse_device_id
from provisioner.bmc.login import ADMINISTRATOR, OPERATOR
from provisioner.bmc.poller import POWER, Poller, Question, Seen, Target
from provisioner.bmc.trouble import Failed, Trouble

SET_PRIVILEGE, DEVICE_ID, SYSTEM_GUID = (0x06, 0x3B), (0x06, 0x01), (0x06, 0x37)
PRIVILEGES = {ADMINISTRATOR: "administrator", OPERATOR: "operator"}
HASHES = {17: "sha256", 3: "sha1"}
LESSER = ("the user lacks the privilege", "the user is unknown", "the controller refused the command")
"""What a controller says to a user who may not be what was asked for; some call the user unknown then."""


@dataclass(frozen=True)
class Verified:
    """Facts as :meth:`~provisioner.bmc.contract.Bmcs.verify` gives them, or the trouble."""

    key: str
    facts: dict[str, Any] | None
    trouble: Trouble | None


def verify_targets(targets: Sequence[Target], seconds: float) -> Iterator[list[Verified]]:
    """Log in to each as administrator, else as operator; the results as they come, all within ``seconds``."""
    end = time.monotonic() + seconds
    wanted = {target.key: target for target in targets}
    for privilege in PRIVILEGES:
        questions = (
            Question(SET_PRIVILEGE, bytes((privilege,))),
            Question(DEVICE_ID),
            Question(SYSTEM_GUID, optional=True),
            *POWER,
        )
        poller = Poller(questions=questions, privilege=privilege)
        poller.watch(list(wanted.values()))
        try:
            for batch in poller.sweep(max(end - time.monotonic(), 0.5)):
                results = []
                for seen in batch:
                    summary = seen.trouble.summary if seen.trouble else ""
                    if privilege == ADMINISTRATOR and summary in LESSER:
                        continue  # asked once more, for less
                    results.append(_result(seen, privilege))
                    del wanted[seen.key]
                yield results
        finally:
            poller.close()
        if not wanted:
            return


def _result(seen: Seen, privilege: int) -> Verified:
    if seen.trouble is not None:
        return Verified(seen.key, None, seen.trouble)
    _, device, guid, _ = seen.answers
    try:
        facts = parse_device_id(device or b"")
    except Failed as trouble:
        return Verified(seen.key, None, trouble)
    return Verified(
        seen.key,
        facts
        | {
            "guid": (guid or b"")[:16].hex() or None,
            "privilege": PRIVILEGES[privilege],
            "hash": HASHES[seen.suite],
            "seconds": round(seen.at, 3),
            "power": seen.power,
        },
        None,
    )
