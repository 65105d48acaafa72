"""``provisioner-agent recover HISTORY SEQUENCE``: a phase script says how far this member had come, and who begins.

It prints the server's answer as one JSON map, ``{"verdict": "lead" | "join" | "wait", "why", "fence"}``, and ends
with 0; with 75 when the server cannot be asked, or is older than this question.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from provisioner_agent.instance.host import LinuxHost
from provisioner_agent.instance.run import read_config
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.auth import AuthError
from provisioner_agent.protocol.link import HttpLink, Link, Refused, ServerAway
from provisioner_agent.protocol.servers import read_servers

EXIT_ERROR, EXIT_USAGE, EXIT_AWAY = 1, 64, 75
SLACK = 10.0
"""Seconds beyond the long poll until the server counts as away."""
VERDICTS = ("lead", "join", "wait")


def main(argv: Sequence[str], program: str) -> None:
    parser = argparse.ArgumentParser(
        prog=program, description="Ask who of a role that is down as a whole begins again."
    )
    parser.add_argument("history", help="which history this member's state is of; empty for none")
    parser.add_argument("sequence", type=int, help="how far it had come; -1 when it has no state")
    parser.add_argument("--wait", type=float, default=messages.LONG_POLL, help="seconds to wait for a verdict")
    parser.add_argument("--root", type=Path, default=Path("/"), help="folder that stands for the root")
    try:
        words = parser.parse_args(argv)
    except SystemExit as end:
        sys.exit(EXIT_USAGE if end.code else 0)
    try:
        config = read_config(LinuxHost(words.root))
        link = HttpLink(read_servers(config), config["token"])
    except (OSError, ValueError, KeyError, AuthError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    try:
        sys.exit(ask(link, words.history, words.sequence, words.wait))
    finally:
        link.close()


def ask(link: Link, history: str, sequence: int, wait: float) -> int:
    """Print what the server answers; the exit code."""
    body = {"history": history, "sequence": sequence, "wait": wait}
    try:
        answer = link.call("POST", messages.RECOVER, body, timeout=wait + SLACK)
    except (ServerAway, Refused) as error:
        print(error, file=sys.stderr)
        return EXIT_AWAY
    if not isinstance(answer, dict) or answer.get("verdict") not in VERDICTS:
        print("the server's answer cannot be understood", file=sys.stderr)
        return EXIT_AWAY
    print(json.dumps(answer))
    return 0
