"""The agent of an instance whose image somebody else made: it proves that the node runs, and ends.

One file with this module, its room's probes and door, and the protocol is put into the instance by cloud-init, which
starts it once: ``python3 visitor.pyz CONFIG``. It needs Python 3.8 and nothing beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from provisioner_agent.instance.document import Document, parse_document
from provisioner_agent.instance.host import Host, LinuxHost
from provisioner_agent.instance.probes import ProbeResult, is_green, wait_for_green
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.link import HttpLink, Link, Refused, ServerAway
from provisioner_agent.protocol.servers import read_servers

TIMEOUT = 30.0
PAUSE = 5.0
TRIES = 720
"""Of a message, PAUSE seconds apart: an hour."""


def visit(host: Host, link: Link) -> bool:
    """Run the probes until those of the node are green, and tell the server of each round. :returns: whether they are.

    :raises ServerAway: it was not heard for an hour.
    """
    document = _ask(host, link)

    def tell(results: dict[str, ProbeResult]) -> None:
        healthy = is_green(results, "node")
        report = {
            "generation": document.generation,
            "applied": document.generation,
            "state": "applied",
            "healthy": healthy,
            "probes": {name: result.to_dict() for name, result in results.items()},
            "phases": [],
            "error": None,
            "boot_id": host.boot_id(),
            "root": find_root(host),
            "warnings": [],
        }
        _call(host, link, "POST", messages.REPORT, report)

    return wait_for_green(host, document.probes, document.wait, tell)


def find_root(host: Host) -> str:
    """The partition on which the root lies in the end, as ``PARTUUID=...``; empty when it cannot be told."""
    source = host.run(
        ["findmnt", "--noheadings", "--nofsroot", "--output", "SOURCE", "/"], limit=TIMEOUT
    ).output.strip()
    lsblk = ["lsblk", "--noheadings", "--inverse", "--raw", "--output", "PARTUUID", source]
    words = host.run(lsblk, limit=TIMEOUT).output.split()
    return f"PARTUUID={words[0].lower()}" if words else ""


def _ask(host: Host, link: Link) -> Document:
    document = None
    while document is None:
        document = parse_document(_call(host, link, "GET", f"{messages.METADATA}?since=0&wait=0", None))
        if document is None:
            host.sleep(PAUSE)
    return document


def _call(host: Host, link: Link, method: str, target: str, body: Any) -> Any:
    for _ in range(TRIES):
        try:
            return link.call(method, target, body, timeout=TIMEOUT)
        except (ServerAway, Refused) as error:
            why = error
            host.sleep(PAUSE)
    raise ServerAway(f"{method} {target} was tried for an hour: {why}")


def main() -> None:
    config = json.loads(Path(sys.argv[1]).read_text())
    sys.exit(0 if visit(LinuxHost(), HttpLink(read_servers(config), config["token"])) else 1)


if __name__ == "__main__":
    main()
