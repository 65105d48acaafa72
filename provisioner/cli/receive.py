"""``receive``: a module of its own, like ``serve``: it runs on the node that is to become the master."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click

from provisioner.bmc.contract import Bmcs
from provisioner.bmc.worker import BmcWorker
from provisioner.cli.options import Options, pass_options
from provisioner.cli.reach import read_options
from provisioner.errors import UsageError
from provisioner.server.log import Log
from provisioner.server.receive import Receiver, Successor
from provisioner.store.migrate import newest_schema
from provisioner.system.fetch import fetch_file
from provisioner.system.run import HostRunner
from provisioner_agent.protocol.link import HttpLink, Link
from provisioner_agent.protocol.messages import AGENT_CONFIG
from provisioner_agent.protocol.servers import Servers

UNIT = "provisioner.service"
START_SECONDS = 330.0
"""More than the unit allows itself."""
LOGINS = Path("/root/.ssh/authorized_keys")
FETCH_SECONDS = 60.0
"""Without a byte, until the line counts as cut."""


@click.command("receive")
@click.option(
    "--agent",
    type=click.Path(dir_okay=False, path_type=Path),
    default=AGENT_CONFIG,
    show_default=True,
    help="Who this instance is: the file of its config agent.",
)
@click.option("--no-start", is_flag=True, help=f"Leave it to the caller to start the service, instead of {UNIT}.")
@pass_options
def receive(options: Options, agent: Path, no_start: bool) -> None:
    """Wait on a node until `provisioner handover` gives it the duty, take it over, and start the service.

    It asks the service that deployed this node, with the token of this instance; nothing is listened on. It may be
    killed at any moment: started again, it looks and goes on. On a node with the role undercloud a unit runs it.

    \b
    Example:
      provisioner receive
    """
    settings = read_options(options)
    if not agent.is_file():
        raise UsageError("this is no instance of a site", where=str(agent), hint="run this on a node of the undercloud")
    config = json.loads(agent.read_text())
    observer, runner = Log(options.clock), HostRunner()

    def open_link(seed: str | None) -> Link:
        # The seed names the address that is on its way here: who speaks to the seed does not follow it.
        return HttpLink(Servers(seed or config["url"], config["ca"], follows=seed is None), config["token"])

    class _Seed:
        def fetch(self, seed: str, path: str, target: Path, size: int, tell: Callable[[int], None]) -> None:
            fetch_file(Servers(seed, config["ca"]).open(FETCH_SECONDS), path, target, size, tell)

    def open_bmcs() -> tuple[Bmcs, Callable[[], None]]:
        worker = BmcWorker(observer, quirks=settings.source_dir / "hardware" / "quirks")
        return worker, worker.close

    def start() -> None:
        if not no_start:
            runner.run(["systemctl", "enable", "--now", UNIT], deadline=START_SECONDS)

    def commanded() -> bool:
        return bool(settings.operators_listen) or (LOGINS.is_file() and bool(LOGINS.read_text().strip()))

    successor = Successor(
        settings, config, newest_schema(), open_link, _Seed(), open_bmcs, commanded, start, options.clock, observer
    )
    Receiver(successor).run()
