"""The command ``run``, for ever. It stays in memory, so it imports nothing that only the other commands need."""

from __future__ import annotations

import json
import logging
import random
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provisioner_agent.instance import places
from provisioner_agent.instance.agent import Agent
from provisioner_agent.instance.collect import Box, Collector
from provisioner_agent.instance.document import PRIVATE, read_document
from provisioner_agent.instance.host import FileState, LinuxHost
from provisioner_agent.instance.root import find_root
from provisioner_agent.instance.signature import Verifier
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.auth import AuthError
from provisioner_agent.protocol.link import HttpLink
from provisioner_agent.protocol.servers import read_servers

EXIT_ERROR = 1


def main(root: Path) -> None:
    try:
        run_agent(LinuxHost(root))
    except (OSError, ValueError, KeyError, AuthError) as error:
        print(f"provisioner-agent: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)


def read_root(argv: Sequence[str]) -> Path | None:
    """The root of a plain command line, ``[--root FOLDER]``; None for one that has more to say."""
    if not argv:
        return Path("/")
    return Path(argv[1]) if len(argv) == 2 and argv[0] == "--root" else None


def run_agent(host: LinuxHost) -> None:
    """Collect and apply for ever. :raises OSError: :raises ValueError: :raises KeyError: :raises AuthError: the agent's
    configuration cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    config = read_config(host)
    link = open_link(host, config)
    box = Box(read_document(host, places.METADATA))
    chance = random.SystemRandom()
    collector = Collector(host, link, box, chance, Verifier(host, config))
    threading.Thread(target=collector.run, name="collect", daemon=True).start()

    root = find_root(host) if config.get("whole_disk") else None
    Agent(host, link, box, chance, lambda: open_link(host, read_config(host)), root).run()


def open_link(host: LinuxHost, config: Mapping[str, Any]) -> HttpLink:
    """To the master that was heard last, or to where the configuration says."""

    def keep(master: str) -> None:
        try:
            host.write(places.MASTER, FileState(master.encode(), PRIVATE))
        except OSError as error:  # such as a full disk: it is known until the agent ends
            logging.getLogger("provisioner-agent").warning("%s cannot be written: %s", places.MASTER, error)

    state = host.read(places.MASTER)
    known = "" if state is None else state.data.decode(errors="replace")
    return HttpLink(read_servers(config, known, keep), config["token"])


def read_config(host: LinuxHost) -> dict[str, Any]:
    """Where the server is, and who the agent is. :raises FileNotFoundError: :raises ValueError: it is not JSON."""
    return dict(json.loads(host_text(host, messages.AGENT_CONFIG)))


def host_text(host: LinuxHost, path: str) -> str:
    state = host.read(path)
    if state is None:
        raise FileNotFoundError(f"{host.real(path)} does not exist")
    return state.data.decode()
