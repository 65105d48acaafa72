"""``provisioner operator``: who may reach the service from elsewhere, and as what."""

from __future__ import annotations

import click

from provisioner.cli.options import Options, output_option, pass_options, print_json
from provisioner.cli.reach import open_client, read_options
from provisioner.cli.show import clock_time, print_table
from provisioner.errors import NotFound
from provisioner.model.operator import OperatorRole
from provisioner.trust.ca import CA_CERTIFICATE

ROLES = """
    \b
    view     look at everything but secrets
    operate  also do everything to nodes and clouds
    admin    also secrets, credentials, and who is an operator
"""


@click.command(
    "add",
    help=f"""Give NAME a token, and print it: this once, since only its hash is kept.
{ROLES}
    With it, from another host: PROVISIONER_SERVER=https://HOST:PORT, PROVISIONER_TOKEN_FILE and PROVISIONER_CA (see
    provisioner operator ca). The service listens there when its configuration says `[operators] listen`.

    \b
    Example:
      provisioner operator add dashboard --role view > dashboard.token
""",
)
@click.argument("name")
@click.option("--role", type=click.Choice([str(role) for role in OperatorRole]), default="view", show_default=True)
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Until it runs out.")
@output_option
@pass_options
def add(options: Options, name: str, role: str, days: int) -> None:
    with open_client(options) as client:
        token = client.add_operator(name, OperatorRole(role), days)
    if options.json:
        print_json({"operator": name, "role": role, "token": token})
    else:
        click.echo(token)


@click.command("list")
@output_option
@pass_options
def list_operators(options: Options) -> None:
    """List those who have a token. What each did is in the events: provisioner events.

    \b
    Example:
      provisioner operator list
    """
    with open_client(options) as client:
        operators = client.operators()
    if options.json:
        print_json([operator.model_dump(mode="json") for operator in operators])
        return
    rows = [
        (o.name, o.role, clock_time(o.created), clock_time(o.expires) if o.expires else "never",
         clock_time(o.used) if o.used else "never")
        for o in operators
    ]  # fmt: skip
    print_table(("operator", "role", "since", "runs out", "last used (day)"), rows)


@click.command("remove")
@click.argument("name")
@output_option
@pass_options
def remove(options: Options, name: str) -> None:
    """End the token of NAME, at once.

    \b
    Example:
      provisioner operator remove dashboard
    """
    with open_client(options) as client:
        client.remove_operator(name)
    if options.json:
        print_json({"removed": name})
    else:
        click.echo(f"{name} is no operator any more")


@click.command("ca")
@pass_options
def ca(options: Options) -> None:
    """Print the certificate of the site's authority, by which other hosts know the service.

    \b
    Example:
      provisioner operator ca > site.crt
    """
    path = read_options(options).keys / CA_CERTIFICATE
    if not path.is_file():
        hint = "set [operators] listen in the configuration file, and start the service again"
        raise NotFound("this site has no authority yet", where=str(path), hint=hint)
    click.echo(path.read_text(), nl=False)
