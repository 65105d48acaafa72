"""``provisioner node enroll``."""

from __future__ import annotations

from pathlib import Path

import click

from provisioner.cli.files import read_passwords, read_text
from provisioner.cli.main import error_lines
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import open_client
from provisioner.errors import EXIT_ERROR, error_from_dict
from provisioner.manifest.hardware import parse_hardware
from provisioner.model.status import EnrollResult


@click.command("enroll")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_option
@pass_options
def enroll(options: Options, files: tuple[Path, ...]) -> int:
    """Log in to each BMC that hardware FILES name, check it, and take the node on record.

    A password is read here from where the file says it is, and goes over the socket only. A node that fails does not
    keep the others from being enrolled; the exit code is then 1.

    \b
    Example:
      provisioner node enroll hardware/lab.yaml
    """
    items = read_passwords(parse_hardware({str(path): read_text(path) for path in files}))
    results = []
    with open_client(options) as client:
        for result in client.enroll(items):
            results.append(result)
            if not options.json:
                click.echo(clean("\n".join(_enroll_lines(result))))
    if options.json:
        print_json([result.model_dump(mode="json") for result in results])
    return EXIT_ERROR if any(result.result == "failed" for result in results) else 0


def _enroll_lines(result: EnrollResult) -> list[str]:
    lines = [f"{result.node:<16} {result.result:<10} {result.seconds:6.1f} s"]
    lines += [f"    {change}" for change in result.changes]
    if result.error:
        lines += [f"    {line}" for line in error_lines(error_from_dict(result.error))]
    return lines
