"""``provisioner lab fleet``: a thousand servers that are only a program, for a real service; done in this process."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Mapping
from pathlib import Path

import click

from provisioner.cli.image import open_catalogue
from provisioner.cli.options import Options, clean, pass_options
from provisioner.cli.reach import read_options
from provisioner.errors import UsageError
from provisioner.lab.fleet import Fault, Fleet, Pace
from provisioner.lab.fleet_files import publish_images, write_manifests
from provisioner.system.settings import CONFIG_FILE, LOOPBACK
from provisioner.trust.keys import new_secret

EVERY = 10.0
DOORS_EACH = 2
"""Open files for each node: its controller's port, and its connection to the service."""
DOORS_BESIDE = 100


class FaultShare(click.ParamType[tuple[Fault, float]]):
    """``KIND=PERCENT``."""

    name = "kind=percent"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> tuple[Fault, float]:
        kind, _, percent = value.partition("=")
        try:
            fault, share = Fault(kind), float(percent.removesuffix("%")) / 100
        except ValueError:
            self.fail(f"{value!r}: write one of {', '.join(Fault)} and a percentage, such as lost=2", param, context)
        if not 0 <= share <= 1:
            raise UsageError("a part of the fleet is between 0 and 100 percent", hint="such as --fail lost=2")
        return fault, share


@click.command("fleet")
@click.option("--nodes", "count", type=click.IntRange(1, 50_000), default=1000, show_default=True, help="How many.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("fleet"),
    show_default=True,
    help="Where hardware file, role and cloud file are written.",
)
@click.option("--fail", "faults", type=FaultShare(), multiple=True, help="Part of the fleet with a fault; see above.")
@click.option("--boot-seconds", default=2.0, show_default=True, help="From power-on to the ramdisk.")
@click.option("--image-seconds", default=3.0, show_default=True, help="For writing an image.")
@click.option("--start-seconds", default=2.0, show_default=True, help="From the restart to the config agent.")
@click.option("--apply-seconds", default=2.0, show_default=True, help="From fetched metadata to a report of them.")
@click.option(
    "--real",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for a real agent: it gets the files of the last server's instance, which is then run by nobody else.",
)
@click.option(
    "--service", "services", multiple=True, help="URL of another service that shares the records; may be repeated."
)
@click.option("--seed", default=1, show_default=True, help="Another number gives the faults to other nodes.")
@pass_options
def fleet(
    options: Options,
    count: int,
    folder: Path,
    faults: tuple[tuple[Fault, float], ...],
    boot_seconds: float,
    image_seconds: float,
    start_seconds: float,
    apply_seconds: float,
    real: Path | None,
    services: tuple[str, ...],
    seed: int,
) -> None:
    """Run a fleet of servers that are only a program, until Ctrl-C: what a seed can carry, before there are servers.

    Their controllers speak IPMI and their guests the agents' protocol, to the service of this configuration; it must
    listen on the loopback (`[network]` `interface = lo`, `address = 127.0.0.1/8`) and have a state_dir of its own,
    since the images that the fleet takes hold nothing. Give it another --config than a site's.

    \b
    Faults, each of a part of the fleet:
    silent  its controller never answers
    lost    a boot of the ramdisk does not come up
    disk    the image cannot be written
    red     the instance's probe is never green

    With --real, the last server's instance is run by a real agent: provisioner-agent run --root FOLDER.

    \b
    Example:
      provisioner lab fleet --nodes 1000 --fail lost=2 --fail silent=1
    """
    settings = read_options(options)
    if settings.interface != LOOPBACK:
        raise UsageError(
            "the service of this configuration does not listen on the loopback",
            where=str(options.config or CONFIG_FILE),
            cause=f"interface is {settings.interface or 'not set'}",
            hint="write another file: [network] interface = lo, address = 127.0.0.1/8, http_port = 8089",
        )
    _allow_files(count * DOORS_EACH + DOORS_BESIDE)
    pace = Pace(boot_seconds, image_seconds, start_seconds, apply_seconds, dict(faults), seed)
    password = new_secret()
    publish_images(open_catalogue(settings))
    swarm = Fleet(count, [settings.url, *services], pace, password)
    swarm.nodes[-1].handed_to = real
    try:
        hardware, cloud = write_manifests(folder.resolve(), swarm.nodes, swarm.ports, password)
        program = f"provisioner --config {options.config}" if options.config else "provisioner"
        click.echo(f"{count} servers are off; their service is {settings.url}. Elsewhere:")
        for words in (f"node enroll {hardware}", f"apply {cloud} --wait"):
            click.echo(f"  {program} {words}")
        asyncio.run(_run(swarm))
    finally:
        swarm.close()


async def _run(swarm: Fleet) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    shown: dict[str, int] = {}

    def say(counts: Mapping[str, int]) -> None:
        if counts != shown:
            shown.clear()
            shown.update(counts)
            click.echo(clean(", ".join(f"{name}: {number}" for name, number in sorted(counts.items()))))

    await swarm.run(stop, say, EVERY)


def _allow_files(wanted: int) -> None:
    """:raises UsageError: this system does not allow so many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UsageError(f"{wanted} open files are needed, {hard} are allowed", hint=f"ulimit -n {wanted}, as root")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
