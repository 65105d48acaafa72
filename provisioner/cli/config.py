"""``provisioner config render``: an instance's files, without any node; of a cloud file without a service, too."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from provisioner.cli.config_node import is_manifest, render_node
from provisioner.cli.desired import read_desired
from provisioner.cli.files import read_text
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import read_options
from provisioner.cli.thought import find_placement, think_placements, think_uuid
from provisioner.errors import ManifestError, Problem, UsageError
from provisioner.images.claims import find_templates
from provisioner.manifest.values import Values
from provisioner.metadata.build import build_metadata, needed_secrets
from provisioner.metadata.certificates import certificate_stand_in, needs_authority
from provisioner.model.role import Role
from provisioner_agent.render.problem import RenderError
from provisioner_agent.render.tree import RenderedFile, build_data, render_tree, split_tree


@click.command("render")
@click.argument("cloud", metavar="NODE|CLOUD.yaml", type=click.Path(path_type=Path))
@click.argument("name", metavar="[MEMBER-OR-ROLE]", required=False)
@output_option
@pass_options
def render(options: Options, cloud: Path, name: str | None) -> None:
    """Render the files of one instance and print them; nothing is touched.

    With NODE, one on record: its image's templates with its newest generation, which the service renders without the
    node. With CLOUD.yaml and a member or role, what these files make: no service is needed, the cloud is thought onto
    nodes that match, and addresses are those that a first deployment would get. Secrets are placeholders, and a file
    that would hold secrets alone is not shown.

    \b
    Examples:
      provisioner config render node2
      provisioner config render cloud-lab.yaml galera-1
    """
    if name is None:
        if is_manifest(str(cloud)):
            hint = f"provisioner config render {cloud} MEMBER-OR-ROLE"
            raise UsageError("which of its members or roles is not said", where=str(cloud), hint=hint)
        render_node(options, str(cloud))
        return
    settings = read_options(options)
    desired = read_desired(cloud, settings)
    members = think_placements(desired)
    placement = find_placement(desired, members, name)
    role = desired.roles[placement.role]
    needed = needed_secrets(desired, Values(desired).of(placement.role, "", placement.node))
    secrets = {secret: f"(secret {secret})" for secret in needed}
    authority = certificate_stand_in("authority")["certificate"] if needs_authority(desired) else ""
    document = build_metadata(desired, placement, members, think_uuid(placement.node), secrets, 1, authority=authority)
    words = {*secrets.values(), *(word for pair in document.get("certificates", {}).values() for word in pair.values())}
    files = _render(role, settings.source_dir, document, words)
    if options.json:
        print_json([_json(file) for file in files])
        return
    for file in files:
        click.echo(f"== {file.path}  {file.mode:04o} {file.owner}:{file.group}")
        click.echo("(not shown: sensitive)" if file.sensitive else clean(file.content.rstrip("\n")))
        click.echo()


def _render(role: Role, source: Path, document: dict[str, Any], stand_ins: Collection[str]) -> list[RenderedFile]:
    """The files of the role's template trees. :param stand_ins: what stands in the place of secrets.

    :raises ManifestError: with every problem of the templates. :raises ImageError: two trees have one path.
    """
    texts = {path: read_text(place) for path, place in find_templates(source, role.image.templates).items()}
    try:
        rendered = render_tree(*split_tree(texts), build_data(document), stand_ins)
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
