"""``provisioner node enroll``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import yaml

from provisioner.cli.files import read_passwords, read_text
from provisioner.cli.main import error_lines
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import open_client
from provisioner.errors import EXIT_ERROR, NotFound, UsageError, error_from_dict
from provisioner.manifest.hardware import parse_hardware
from provisioner.model.status import EnrollResult


@click.command("enroll")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--scan", metavar="NETWORK", help="Find and enroll the BMCs of a network, such as 10.0.4.0/24.")
@click.option("--username", help="With --scan: the user of the BMCs.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    help="Holds the password of nodes whose file says `stored: true`; with --scan the user's.",
)
@click.option("--to", "target", type=click.Path(path_type=Path), help="With --scan: the hardware file to write.")
@output_option
@pass_options
def enroll(
    options: Options,
    files: tuple[Path, ...],
    scan: str | None,
    username: str | None,
    password_file: Path | None,
    target: Path | None,
) -> int:
    """Log in to each BMC that hardware FILES name, check it, and take the node on record.

    A password is read here from where the file says it is, and goes over the socket only. A node that fails does not
    keep the others from being enrolled; the exit code is then 1. Ports that a file does not list are found out by
    `provisioner node inspect`. Where a hardware file says `password: {stored: true}`, the password is only in the
    service's own records: --password-file puts it there, once and for all. With --scan a hardware file is written
    first, of all that answers and is not on record.

    \b
    Example:
      provisioner node enroll hardware/lab.yaml
      provisioner node enroll hardware/lab.yaml --password-file /run/bmc
      provisioner node enroll --scan 10.0.4.0/24 --username admin --password-file /etc/bmc --to hardware/rack-b.yaml
    """
    given = {"--username": username, "--password-file": password_file, "--to": target}
    stored = password_file
    if scan is not None:
        missing = [name for name, value in given.items() if value is None]
        if missing or files:
            what = f"{', '.join(missing)} missing" if missing else "--scan writes a hardware file, it takes none"
            raise UsageError(what, hint="see the example in --help")
        assert username and password_file and target
        _write_found(options, scan, username, password_file.absolute(), target)
        files, stored = (target,), None
    elif not files or username or target:
        raise UsageError("name hardware files, or give --scan with its options", hint="provisioner node enroll --help")
    items = read_passwords(parse_hardware({str(path): read_text(path) for path in files}), stored)
    results = []
    with open_client(options) as client:
        for result in client.enroll(items):
            results.append(result)
            if not options.json:
                click.echo(clean("\n".join(_enroll_lines(result))))
    if options.json:
        print_json([result.model_dump(mode="json") for result in results])
    return EXIT_ERROR if any(result.result == "failed" for result in results) else 0


def _write_found(options: Options, network: str, username: str, password_file: Path, target: Path) -> None:
    """:raises UsageError: the file is there already. :raises NotFound: no BMC answers that is not on record."""
    if target.exists():
        raise UsageError("the file is there already", where=str(target), hint="name another, or move it away")
    nodes: list[dict[str, Any]] = []
    known = 0
    with open_client(options) as client:
        for found in client.scan(network):
            what = f"is {found.node}" if found.node else "is new"
            click.echo(f"  {found.address}  {', '.join(found.drivers)}  {what}", err=True)
            known += found.node is not None
            if found.node is None:
                name = "bmc-" + re.sub(r"[.:]+", "-", found.address)
                nodes.append({"name": name, "bmc": {"driver": found.drivers[0], "address": found.address}})
    if not nodes:
        cause = f"{known} answered, all of them on record" if known else "nothing answered IPMI or Redfish there"
        raise NotFound("no new BMC was found", where=network, cause=cause, hint="check the network and the way to it")
    defaults = {"bmc": {"username": username, "password": {"file": str(password_file)}}}
    text = yaml.safe_dump({"defaults": defaults, "nodes": nodes}, sort_keys=False, default_flow_style=None, width=120)
    target.write_text(f"# Found by a scan of {network}. Ports are found out by: provisioner node inspect NAME\n{text}")
    click.echo(f"{len(nodes)} BMCs are new; they are in {target}", err=True)


def _enroll_lines(result: EnrollResult) -> list[str]:
    lines = [f"{result.node:<16} {result.result:<10} {result.seconds:6.1f} s"]
    lines += [f"    {change}" for change in result.changes]
    if result.error:
        lines += [f"    {line}" for line in error_lines(error_from_dict(result.error))]
    return lines
