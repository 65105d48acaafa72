"""``serve``: a module of its own, because what clients of the service need would stay in its memory."""

from __future__ import annotations

import click

from provisioner.cli.options import Options, pass_options
from provisioner.server.serve import serve
from provisioner.system.settings import read_settings


@click.command("serve")
@pass_options
def serve_command(options: Options) -> None:
    """Run the service in the foreground until SIGTERM or Ctrl-C.

    It answers operators on a unix socket, and nodes on the address of the configuration file. It may be killed at any
    moment: started again, it looks and goes on.

    \b
    Example:
      provisioner serve
    """
    serve(read_settings(options.config))
