"""``provisioner image list``, ``show``, ``diff`` and ``prune``: done in this process, no service needed."""

from __future__ import annotations

from pathlib import Path

import click

from provisioner.cli.options import Options, output_option, pass_options, print_json
from provisioner.cli.reach import read_options
from provisioner.cli.show import megabytes, print_facts, print_table
from provisioner.cli.workshop import open_workshop
from provisioner.errors import ImageError, NotFound, TrustError
from provisioner.images.catalogue import CONTENTS, SBOM, Catalogue
from provisioner.images.contents import compare_contents, read_contents
from provisioner.images.prune import plan_prune, prune
from provisioner.model.image import Image
from provisioner.store.store import Store
from provisioner.system.settings import Settings
from provisioner.trust.keys import SiteKeys


def open_catalogue(settings: Settings) -> Catalogue:
    return Catalogue(settings.images, SiteKeys.ensure(settings.keys))


def find_image(catalogue: Catalogue, name: str) -> Image:
    """An image by its id, or the newest of a name. :raises NotFound: there is none."""
    return catalogue.newest(name) or catalogue.get(name)


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
        ("image", "newest", "test", "MB", "elements", "packages"),
        [
            (
                image.id,
                "yes" if newest.get(image.name) == image.id else "",
                image.test,
                megabytes(sum(image.sizes.values())),
                " ".join(image.elements),
                len(image.packages),
            )
            for image in images
        ],
    )


@click.command("show")
@click.argument("image_id", metavar="IMAGE")
@output_option
@pass_options
def show(options: Options, image_id: str) -> None:
    """Show one image, by its id or the newest of a name: files, elements, layers, packages, who built it when.

    \b
    Example:
      provisioner image show galera
    """
    catalogue = open_catalogue(read_options(options))
    image = find_image(catalogue, image_id)
    try:
        run = catalogue.provenance(image.id)["predicate"]["runDetails"]
    except (NotFound, TrustError):
        run = {"builder": {"id": ""}, "metadata": {"finishedOn": ""}}
    if options.json:
        print_json(image.model_dump(mode="json") | {"provenance": run})
        return
    print_facts(
        [
            ("image", image.id),
            ("name", image.name),
            ("kind", image.kind),
            ("test", image.test),
            ("built", f"{run['metadata']['finishedOn']} {run['builder']['id'].removeprefix('urn:provisioner:host:')}"),
            ("elements", " ".join(image.elements)),
            ("layers", " ".join(image.layers)),
            ("data", f"{megabytes(image.mapped)} MB" if image.mapped else ""),
            ("folder", str(catalogue.folder / image.id)),
            ("licences", SBOM if SBOM in image.files else ""),
        ]
    )
    print_table(
        ("file", "MB", "sha256"),
        [(name, megabytes(image.sizes[name]), sha) for name, sha in sorted(image.files.items())],
    )
    print_table(("package", "version"), sorted(image.packages.items()))


@click.command("diff")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@output_option
@pass_options
def diff(options: Options, old: str, new: str) -> None:
    """Say which packages and files differ from image A to image B; ids, or names for their newest.

    A file's time alone is no difference. Packages that only one of the images has are shown with no version for the
    other.

    \b
    Example:
      provisioner image diff galera-0123456789ab galera
    """
    catalogue = open_catalogue(read_options(options))
    before, after = (find_image(catalogue, name) for name in (old, new))
    packages = [
        (name, before.packages.get(name, ""), after.packages.get(name, ""))
        for name in sorted(before.packages.keys() | after.packages.keys())
        if before.packages.get(name) != after.packages.get(name)
    ]
    old_files, new_files = (read_contents(_contents(catalogue, image)) for image in (before, after))
    files = list(compare_contents(old_files, new_files))
    if options.json:
        print_json(
            {
                "from": before.id,
                "to": after.id,
                "packages": [{"package": name, "from": a or None, "to": b or None} for name, a, b in packages],
                "files": [{"path": found.path, "what": found.what} for found in files],
            }
        )
        return
    if packages:
        print_table(("package", before.id, after.id), packages)
    if files:
        print_table(("file", "what"), [(found.path, found.what) for found in files])
    click.echo(f"{len(packages)} packages and {len(files)} files differ")


def _contents(catalogue: Catalogue, image: Image) -> Path:
    """:raises ImageError: the image has no list of its files, as those that somebody brought."""
    if CONTENTS not in image.files:
        raise ImageError(
            "the image has no list of its files", where=image.id, hint="compare images that were built here"
        )
    return catalogue.path(image.id, CONTENTS)


@click.command("prune")
@click.option("--keep", default=1, show_default=True, help="Images of each name that stay besides the newest.")
@click.option("--days", default=30.0, show_default=True, help="Layers and trees that no build used for so long go.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@output_option
@pass_options
def prune_command(options: Options, keep: int, days: float, dry_run: bool) -> None:
    """Remove images that no deployment needs, and layers that no build used for long.

    Kept are the newest image of each name, and every image that a deployment on record was made from.

    \b
    Example:
      provisioner image prune --dry-run
    """
    settings = read_options(options)
    catalogue, workshop = open_catalogue(settings), open_workshop(settings)
    found = plan_prune(catalogue, workshop, needed_images(settings), keep=keep, days=days, now=options.clock.now())
    freed = sum(removal.bytes for removal in found) if dry_run else prune(catalogue, found)
    if options.json:
        print_json(
            [
                {"kind": r.kind, "name": r.path.name, "bytes": r.bytes, "why": r.why, "removed": not dry_run}
                for r in found
            ]
        )
        return
    if found:
        print_table(("what", "name", "MB", "why"), [(r.kind, r.path.name, megabytes(r.bytes), r.why) for r in found])
    click.echo(f"{megabytes(freed)} MB {'would be freed' if dry_run else 'freed'}")


def needed_images(settings: Settings) -> set[str]:
    """The images of all deployments on record that hold a node."""
    if not settings.database_url and not settings.records.exists():
        return set()
    store = Store(settings.database, SiteKeys.ensure(settings.keys))
    try:
        return {deployment.placement.image for deployment in store.deployments.live()}
    finally:
        store.close()
