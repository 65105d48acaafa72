"""``provisioner image build``: done in this process, no service needed."""

from __future__ import annotations

import click

from provisioner.cli.desired import read_source_roles
from provisioner.cli.image import open_catalogue
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import read_options
from provisioner.cli.show import print_table
from provisioner.errors import NotFound
from provisioner.events import Event
from provisioner.images.build import RAMDISK_SPEC, BuildSpec, Workshop, build_images, host_ca_bundle
from provisioner.system.run import HostRunner
from provisioner.system.settings import Settings


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
        catalogue=open_catalogue(settings),
        runner=HostRunner(),
        observer=say,
        force=force,
    )
    if options.json:
        print_json([{"id": b.image.id, "rebuilt": b.rebuilt, "reason": b.reason, "seconds": b.seconds} for b in built])
        return
    rows = [(b.image.id, "built" if b.rebuilt else "unchanged", b.reason, f"{b.seconds:.1f}") for b in built]
    print_table(("image", "result", "why", "seconds"), rows)
