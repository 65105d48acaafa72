"""``provisioner image``: done in this process, no service needed."""

from __future__ import annotations

import click

from provisioner.cli.files import read_source_roles
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import read_options
from provisioner.cli.show import megabytes, print_facts, print_table
from provisioner.errors import NotFound
from provisioner.events import Event
from provisioner.images.build import RAMDISK_SPEC, BuildSpec, Workshop, build_images, host_ca_bundle
from provisioner.images.catalogue import Catalogue
from provisioner.system.run import HostRunner
from provisioner.system.settings import Settings
from provisioner.trust.keys import SiteKeys


def _catalogue(settings: Settings) -> Catalogue:
    return Catalogue(settings.images, SiteKeys.ensure(settings.keys))


def _specs(settings: Settings, names: tuple[str, ...]) -> list[BuildSpec]:
    """The ramdisk and one image for each role, or those of ``names``."""
    roles = read_source_roles(settings)
    known = [RAMDISK_SPEC, *(BuildSpec(role.role, role.image) for role in roles.values())]
    unknown = set(names) - {spec.name for spec in known}
    if unknown:
        raise NotFound(
            f"there is no image {', '.join(sorted(unknown))}",
            where=str(settings.source_dir / "roles"),
            hint=f"the images are: {', '.join(spec.name for spec in known)}",
        )
    return [spec for spec in known if not names or spec.name in names]


@click.command("build")
@click.argument("names", nargs=-1)
@click.option("--force", is_flag=True, help="Build also what has not changed.")
@output_option
@pass_options
def build(options: Options, names: tuple[str, ...], force: bool) -> None:
    """Build the images whose inputs have changed and say why: the ramdisk and one for each role, or NAMES.

    \b
    Example:
      provisioner image build galera
    """
    settings = read_options(options)
    begun = options.clock.monotonic()

    def say(event: Event) -> None:
        click.echo(clean(f"{options.clock.monotonic() - begun:7.1f} s  {event.message}"), err=options.json)

    workshop = Workshop(
        source=settings.source_dir,
        agent=settings.source_dir / "provisioner_agent",
        elements_path=settings.elements_path,
        state=settings.state_dir / "build",
        ca_bundle=host_ca_bundle(),
    )
    built = build_images(
        _specs(settings, names),
        workshop=workshop,
        catalogue=_catalogue(settings),
        runner=HostRunner(),
        observer=say,
        force=force,
    )
    if options.json:
        print_json([{"id": b.image.id, "rebuilt": b.rebuilt, "reason": b.reason, "seconds": b.seconds} for b in built])
        return
    rows = [(b.image.id, "built" if b.rebuilt else "unchanged", b.reason, f"{b.seconds:.1f}") for b in built]
    print_table(("image", "result", "why", "seconds"), rows)


@click.command("list")
@output_option
@pass_options
def list_images(options: Options) -> None:
    """List the images of the catalogue whose signature holds; new deployments take the newest of each name.

    \b
    Example:
      provisioner image list
    """
    catalogue = _catalogue(read_options(options))
    images = catalogue.images()
    newest = {name: found.id for name in {i.name for i in images} if (found := catalogue.newest(name))}
    if options.json:
        print_json([image.model_dump(mode="json") | {"newest": newest.get(image.name) == image.id} for image in images])
        return
    print_table(
        ("image", "newest", "MB", "elements", "packages"),
        [
            (
                image.id,
                "yes" if newest.get(image.name) == image.id else "",
                megabytes(sum(image.sizes.values())),
                " ".join(image.elements),
                len(image.packages),
            )
            for image in images
        ],
    )


@click.command("show")
@click.argument("image_id", metavar="ID")
@output_option
@pass_options
def show(options: Options, image_id: str) -> None:
    """Show one image: its files with their sha256, elements, layers and packages.

    \b
    Example:
      provisioner image show galera-0123456789ab
    """
    image = _catalogue(read_options(options)).get(image_id)
    if options.json:
        print_json(image.model_dump(mode="json"))
        return
    print_facts(
        [
            ("image", image.id),
            ("name", image.name),
            ("elements", " ".join(image.elements)),
            ("layers", " ".join(image.layers)),
            ("data", f"{megabytes(image.mapped)} MB" if image.mapped else ""),
        ]
    )
    print_table(
        ("file", "MB", "sha256"),
        [(name, megabytes(image.sizes[name]), sha) for name, sha in sorted(image.files.items())],
    )
    print_table(("package", "version"), sorted(image.packages.items()))
