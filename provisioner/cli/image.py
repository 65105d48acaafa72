"""``provisioner image list`` and ``show``: done in this process, no service needed."""

from __future__ import annotations

import click

from provisioner.cli.options import Options, output_option, pass_options, print_json
from provisioner.cli.reach import read_options
from provisioner.cli.show import megabytes, print_facts, print_table
from provisioner.images.catalogue import Catalogue
from provisioner.system.settings import Settings
from provisioner.trust.keys import SiteKeys


def open_catalogue(settings: Settings) -> Catalogue:
    return Catalogue(settings.images, SiteKeys.ensure(settings.keys))


@click.command("list")
@output_option
@pass_options
def list_images(options: Options) -> None:
    """List the images of the catalogue whose signature holds; new deployments take the newest of each name.

    \b
    Example:
      provisioner image list
    """
    catalogue = open_catalogue(read_options(options))
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
    image = open_catalogue(read_options(options)).get(image_id)
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
