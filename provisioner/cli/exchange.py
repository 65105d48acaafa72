"""``provisioner image export`` and ``import``: images as files, no service needed."""

from __future__ import annotations

from pathlib import Path

import click

from provisioner.cli.build import known_specs
from provisioner.cli.building import watched
from provisioner.cli.desired import read_source_roles
from provisioner.cli.image import find_image, open_catalogue
from provisioner.cli.options import Options, output_option, pass_options, print_json
from provisioner.cli.reach import read_options
from provisioner.cli.show import megabytes
from provisioner.cli.workshop import open_workshop
from provisioner.errors import Conflict, ImageError, NotFound, UsageError
from provisioner.images.build import used_files
from provisioner.images.bundle import write_bundle
from provisioner.images.catalogue import Catalogue
from provisioner.images.exchange import export_image, fresh_file, import_image, is_archive, trust_key, trusted_keys
from provisioner.images.foreign import GIB, import_foreign, inspect
from provisioner.images.provenance import key_id
from provisioner.images.whole import DiskPlan, convert_disk, expand_chunks, make_disk
from provisioner.model.hardware import NAME
from provisioner.model.image import Image
from provisioner.system.run import HostRunner
from provisioner.system.scratch import held_folder
from provisioner.system.settings import Settings
from provisioner.trust.keys import SiteKeys

FORMS = {".tar": "archive", ".raw": "raw", ".img": "raw", ".qcow2": "qcow2"}
EXPORT, IMPORT = "export.", "import."
NETWORK = "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n"


class PutFile(click.ParamType[tuple[str, Path]]):
    """``/PATH=FILE``."""

    name = "/path=file"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> tuple[str, Path]:
        path, _, file = value.partition("=")
        if not path.startswith("/") or not Path(file).is_file():
            self.fail(f"{value!r}: write /PATH=FILE, with a file that is there", param, context)
        return path, Path(file)


class PutLink(click.ParamType[tuple[str, str]]):
    """``/PATH=TARGET``."""

    name = "/path=target"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> tuple[str, str]:
        path, _, target = value.partition("=")
        if not path.startswith("/") or not target:
            self.fail(f"{value!r}: write /PATH=TARGET", param, context)
        return path, target


def _read_put(source: Path) -> tuple[bytes, int]:
    return source.read_bytes(), source.stat().st_mode & 0o7777


@click.command("export")
@click.argument("name", metavar="[IMAGE]", required=False)
@click.argument("file", metavar="[FILE]", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option(
    "--bundle",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Instead of one image write all that a site without mirrors needs; see seed/bootstrap --help.",
)
@click.option(
    "--form",
    type=click.Choice(sorted(set(FORMS.values()))),
    help="archive: for another site; raw, qcow2: a whole disk. By the file's ending unless given.",
)
@click.option("--grow", default=0, metavar="MIB", help="Further room in the root file system of a whole disk.")
@click.option(
    "--put", "puts", type=PutFile(), multiple=True, help="/PATH=FILE: a whole disk has this file there, mode and all."
)
@click.option("--link", "links", type=PutLink(), multiple=True, help="/PATH=TARGET: and this link.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@output_option
@pass_options
def export_command(
    options: Options,
    name: str | None,
    file: Path | None,
    bundle: Path | None,
    form: str | None,
    grow: int,
    puts: tuple[tuple[str, Path], ...],
    links: tuple[tuple[str, str], ...],
    force: bool,
) -> None:
    """Write an image, by its id or the newest of a name, to a file.

    As an archive it is signed, for provisioner image import at another site. As a whole disk it boots with UEFI and
    with BIOS, gets its address by DHCP, and its config agent rests, since no server knows it; root has no password.

    \b
    Example:
      provisioner image export base base.qcow2
      provisioner image export --bundle site.tar
    """
    settings = read_options(options)
    target = bundle or file
    if target is None or (bundle is not None) == (name is not None):
        raise UsageError(
            "an image and a file are needed, or --bundle FILE alone", hint="provisioner image export --help"
        )
    if target.exists() and not force:
        raise Conflict("this file is there already", where=str(target), hint="choose another name, or give --force")
    try:
        if name is None:
            _export_bundle(options, settings, target)
        else:
            plan = DiskPlan(name, grow, {path: _read_put(source) for path, source in puts}, dict(links))
            _export_image(options, settings, name, target, form, plan)
    except OSError as error:
        raise ImageError("the file could not be written", where=str(target), cause=error.strerror) from error


def _export_bundle(options: Options, settings: Settings, target: Path) -> None:
    """:raises NotFound: an image has not been built."""
    catalogue, keys, workshop = open_catalogue(settings), SiteKeys.ensure(settings.keys), open_workshop(settings)
    known = known_specs(read_source_roles(settings))
    images = [image for spec in known if (image := catalogue.newest(spec.name))]
    if lacking := {spec.name for spec in known} - {image.name for image in images}:
        raise NotFound(
            f"there is no image {', '.join(sorted(lacking))} to put into the bundle", hint="provisioner image build"
        )
    with watched(options, workshop) as face, held_folder(workshop.state / "work", EXPORT) as work:
        write_bundle(
            target,
            images,
            used_files(known, known, workshop),
            catalogue=catalogue,
            keys=keys,
            workshop=workshop,
            work=work,
            runner=HostRunner(),
            observer=face,
        )
    key, size = key_id(keys.public_key_pem), target.stat().st_size
    if options.json:
        print_json({"file": str(target), "images": [image.id for image in images], "bytes": size, "key": key})
        return
    click.echo(f"{target}: {len(images)} images, {megabytes(size)} MB, signed by {key}")
    click.echo(f"there: mkdir site && tar -C site -xf {target.name}")
    click.echo(f"       sudo site/source/seed/bootstrap --bundle site --trust {key}")


def _export_image(
    options: Options, settings: Settings, name: str, file: Path, form: str | None, plan: DiskPlan
) -> None:
    catalogue, keys = open_catalogue(settings), SiteKeys.ensure(settings.keys)
    image = find_image(catalogue, name)
    form = form or FORMS.get(file.suffix)
    if form is None:
        raise UsageError(
            "the form of the file is not clear", where=str(file), hint="give --form, or end the name in .tar"
        )
    if (plan.files or plan.links) and (form == "archive" or image.kind == "disk"):
        raise UsageError("--put and --link are for a whole disk of a role's image", where=image.id)
    workshop = open_workshop(settings)
    with watched(options, workshop, image.name, f"export as {form}"):
        if form == "archive":
            export_image(catalogue, image, keys, file)
        else:
            with held_folder(workshop.state / "work", EXPORT) as work:
                write_disk(catalogue, image, file, form, plan, work)
    size = file.stat().st_size
    if options.json:
        key = key_id(keys.public_key_pem)
        print_json({"id": image.id, "file": str(file), "form": form, "bytes": size, "key": key})
        return
    click.echo(f"{file}: {image.id}, {megabytes(size)} MB")
    if form == "archive":
        click.echo(f"signed by {key_id(keys.public_key_pem)}")


def write_disk(catalogue: Catalogue, image: Image, target: Path, form: str, plan: DiskPlan, work: Path) -> None:
    """The image as a whole disk; whole or not at all.

    :param plan: what it has besides; identifiers come from the image. :raises ImageError: it has no root file system.
    """
    if "root.zst" not in image.files:
        raise ImageError("this image is no disk", where=image.id, hint="export it with --form archive")
    runner, chunks, index = HostRunner(), catalogue.path(image.id, "root.zst"), catalogue.index(image.id)
    with fresh_file(target) as fresh:
        raw = fresh if form == "raw" else work / "disk.raw"
        if image.kind == "disk":
            with raw.open("wb") as disk:
                disk.truncate(index.size)
                expand_chunks(chunks, index, disk)
        else:
            texts = {
                "/etc/fstab": "LABEL=root / ext4 errors=remount-ro 0 1\n",
                "/etc/hostname": f"{image.name}\n",
                "/etc/systemd/network/80-dhcp.network": NETWORK,
            }
            files = {path: (text.encode(), 0o644) for path, text in texts.items()} | dict(plan.files)
            whole = DiskPlan(image.id, plan.grow, files, plan.links)
            make_disk(chunks, index, raw, whole, work=work, runner=runner)
        if form == "qcow2":
            convert_disk(raw, fresh, runner)


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="What a raw or qcow2 file is to be called; an archive has its own name.")
@click.option("--trust", metavar="KEY", help="From now on take what is signed with this key, as export printed it.")
@click.option(
    "--max-size", default=100, show_default=True, metavar="GIB", help="Most that a raw or qcow2 disk may have."
)
@output_option
@pass_options
def import_command(options: Options, file: Path, name: str | None, trust: str | None, max_size: int) -> None:
    """Take an image into the catalogue: what image export wrote at another site, or a raw or qcow2 file.

    An archive must be signed with a key that is trusted. A raw or qcow2 file is inspected first; one that refers to
    other files is refused. A file system is deployed under the name of a role; a whole disk by any role that names it
    (image: {disk: NAME}).

    \b
    Example:
      provisioner image import debian.qcow2 --name debian
    """
    settings = read_options(options)
    catalogue, keys = open_catalogue(settings), SiteKeys.ensure(settings.keys)
    trusted = settings.keys / "trusted"
    workshop = open_workshop(settings)
    if is_archive(file):
        if trust is not None:
            trust_key(trusted, trust)
        with watched(options, workshop, file.name, "import"):
            image = import_image(catalogue, file, keys, trusted_keys(trusted))
    else:
        if name is None or not NAME.match(name):
            raise UsageError(
                "a raw or qcow2 file needs a name",
                where=str(file),
                hint="give --name NAME: lower-case letters, digits and dashes",
            )
        found = inspect(file, max_size * GIB)
        roles = read_source_roles(settings)
        reserved = {role.role for role in roles.values() if role.image.is_built}
        with (
            watched(options, workshop, name, f"import of {found.form}"),
            held_folder(workshop.state / "work", IMPORT) as work,
        ):
            image = import_foreign(catalogue, found, name, reserved=reserved, work=work, runner=HostRunner())
    if options.json:
        print_json({"id": image.id, "kind": image.kind})
        return
    click.echo(f"{image.id}: {image.kind}, {megabytes(sum(image.sizes.values()))} MB; the newest of {image.name}")
