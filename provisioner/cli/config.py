"""``provisioner config``: what an instance would be told, without any node or service."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import click

from provisioner.cli.desired import read_desired
from provisioner.cli.files import read_text
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import read_options
from provisioner.errors import ManifestError, NotFound, Problem
from provisioner.images.claims import find_templates
from provisioner.metadata.build import build_metadata
from provisioner.model.deployment import Node, Placement
from provisioner.model.hardware import BmcAddress, NodeSpec, Port, SecretRef
from provisioner.model.plan import Deploy, Observed
from provisioner.model.role import Desired, Role
from provisioner.model.states import NodeState
from provisioner.plan.build import build_plan
from provisioner_agent.render.problem import RenderError
from provisioner_agent.render.tree import RenderedFile, build_data, render_tree, split_tree

BMC = BmcAddress(address="192.0.2.1", username="none", password=SecretRef(env="NONE"))
"""Of nodes that only stand for some (RFC 5737, section 3)."""


@click.command("render")
@click.argument("cloud", type=click.Path(path_type=Path))
@click.argument("name", metavar="MEMBER-OR-ROLE")
@output_option
@pass_options
def render(options: Options, cloud: Path, name: str) -> None:
    """Render the files of one instance and print them; nothing is touched and no service is needed.

    The cloud is thought onto nodes that match; addresses are those that a first deployment would get. Secrets are
    placeholders, and a file that would hold secrets alone is not shown.

    \b
    Example:
      provisioner config render cloud-lab.yaml galera-1
    """
    settings = read_options(options)
    desired = read_desired(cloud, settings)
    members = think_placements(desired)
    placement = next((p for p in members if name in (p.hostname, p.role, p.node)), None)
    if placement is None:
        names = ", ".join([*desired.cloud.roles, *(p.hostname for p in members)])
        raise NotFound("the cloud has no such member or role", where=name, hint=f"write one of: {names}")
    role = desired.roles[placement.role]
    secrets = {secret: f"(secret {secret})" for secret in role.secrets}
    document = build_metadata(desired, placement, members, _uuid(placement.node), secrets, 1)
    files = _render(role, settings.source_dir, document)
    if options.json:
        print_json([_json(file) for file in files])
        return
    for file in files:
        click.echo(f"== {file.path}  {file.mode:04o} {file.owner}:{file.group}")
        click.echo("(not shown: sensitive)" if file.sensitive else clean(file.content.rstrip("\n")))
        click.echo()


def think_placements(desired: Desired) -> list[Placement]:
    """Where ``plan`` would put each member, on nodes that match by construction."""
    nodes: list[Node] = []
    images: dict[str, str] = {}
    for role_name, use in desired.cloud.roles.items():
        images[role_name] = f"{role_name}-000000000000"
        named = [*use.nodes, *(f"{role_name}-node{index}" for index in range(len(use.nodes), use.count))]
        nodes += [_think_node(name, desired.roles[role_name], number) for number, name in enumerate(named, len(nodes))]
    plan = build_plan(desired, Observed(nodes=tuple(nodes), images=images | {"ramdisk": "ramdisk-000000000000"}))
    return [action.placement for action in plan.actions if isinstance(action, Deploy)]


def _think_node(name: str, role: Role, number: int) -> Node:
    mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
    properties = dict(role.match.properties)
    spec = NodeSpec(name=name, bmc=BMC, ports=(Port(mac=mac),), tags=role.match.tags, properties=properties)
    return Node(uuid=_uuid(name), spec=spec, state=NodeState.AVAILABLE)


def _uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def _render(role: Role, source: Path, document: dict[str, Any]) -> list[RenderedFile]:
    """The files of the role's template trees.

    :raises ManifestError: with every problem of the templates. :raises ImageError: two trees have one path.
    """
    texts = {path: read_text(place) for path, place in find_templates(source, role.image.templates).items()}
    try:
        rendered = render_tree(*split_tree(texts), build_data(document))
    except RenderError as error:
        raise ManifestError([Problem(f"templates: {p.where}", p.what) for p in error.problems]) from error
    return [rendered[path] for path in sorted(rendered)]


def _json(file: RenderedFile) -> dict[str, Any]:
    return {
        "path": file.path,
        "mode": f"{file.mode:04o}",
        "owner": file.owner,
        "group": file.group,
        "validate": list(file.validate),
        "sensitive": file.sensitive,
        "content": None if file.sensitive else file.content,
    }
