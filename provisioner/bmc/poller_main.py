"""The poller's process: ``python -m provisioner.bmc.poller_main``. Sweeps on request, one line of JSON each way.

In: ``{"id": N, "seconds": S, "targets": [[key, address, port, username, password], ...]}``; without ``targets`` those
of the request before. Out, as they come: ``{"id": N, "seen": [[key, power, trouble, seconds], ...]}``, and at the end
``{"id": N, "done": true}``. Passwords travel in this pipe and nowhere else. The end of standard input ends it.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import IO, Any

from provisioner.bmc.poller import Poller, Seen, Target


def serve(poller: Poller, inward: IO[str], outward: IO[str]) -> None:
    """Answer requests until there are no more."""
    for line in inward:
        request = json.loads(line)
        if "targets" in request:
            poller.watch([Target(*target) for target in request["targets"]])
        for seen in poller.sweep(float(request["seconds"])):
            _say(outward, {"id": request["id"], "seen": [_row(one) for one in seen]})
        _say(outward, {"id": request["id"], "done": True})
    poller.close()


def _row(seen: Seen) -> list[Any]:
    trouble = seen.trouble
    said = None if trouble is None else [trouble.kind, trouble.summary, trouble.cause, trouble.hint]
    return [seen.key, seen.power, said, round(seen.at, 4)]


def _say(outward: IO[str], message: dict[str, Any]) -> None:
    outward.write(json.dumps(message) + "\n")
    outward.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(Poller(), sys.stdin, sys.stdout)
    except BrokenPipeError:
        sys.exit(1)  # nobody reads the answers any more
