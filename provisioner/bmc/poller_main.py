"""The poller's process: ``python -m provisioner.bmc.poller_main``. One line of JSON each way.

In: ``{"id": N, "do": "sweep", "seconds": S, "targets": [[key, address, port, username, password], ...]}``; without
``targets`` those of the sweep before. ``"do": "verify"`` asks who they are instead, over sessions of its own. Out, as
they come: ``{"id": N, "seen": [[key, answer, trouble], ...]}``, where the answer is the power or a map of facts, and at
the end ``{"id": N, "done": true}``. Passwords travel in this pipe and nowhere else. The end of standard input ends it.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from typing import IO, Any

from provisioner.bmc.poller import Poller, Target
from provisioner.bmc.trouble import Trouble
from provisioner.bmc.verify import verify_targets


def serve(poller: Poller, inward: IO[str], outward: IO[str]) -> None:
    """Answer requests until there are no more."""
    for line in inward:
        request = json.loads(line)
        for rows in _verify(request) if request["do"] == "verify" else _sweep(poller, request):
            _say(outward, {"id": request["id"], "seen": rows})
        _say(outward, {"id": request["id"], "done": True})
    poller.close()


def _sweep(poller: Poller, request: dict[str, Any]) -> Iterator[list[list[Any]]]:
    if "targets" in request:
        poller.watch([Target(*target) for target in request["targets"]])
    for batch in poller.sweep(float(request["seconds"])):
        yield [[seen.key, seen.power, _trouble(seen.trouble)] for seen in batch]


def _verify(request: dict[str, Any]) -> Iterator[list[list[Any]]]:
    targets = [Target(*target) for target in request["targets"]]
    for batch in verify_targets(targets, float(request["seconds"])):
        yield [[found.key, found.facts, _trouble(found.trouble)] for found in batch]


def _trouble(trouble: Trouble | None) -> list[str] | None:
    return None if trouble is None else [trouble.kind, trouble.summary, trouble.cause, trouble.hint]


def _say(outward: IO[str], message: dict[str, Any]) -> None:
    outward.write(json.dumps(message) + "\n")
    outward.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(Poller(), sys.stdin, sys.stdout)
    except BrokenPipeError:
        sys.exit(1)  # nobody reads the answers any more
