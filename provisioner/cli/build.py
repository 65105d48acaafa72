"""``provisioner image build``: done in this process, no service needed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import click

from provisioner.cli.building import BuildFace, open_face, watched
from provisioner.cli.desired import read_desired, read_source_roles
from provisioner.cli.image import find_image, open_catalogue
from provisioner.cli.options import Options, clean, output_option, pass_options, print_json
from provisioner.cli.reach import read_options
from provisioner.cli.show import print_table
from provisioner.cli.workshop import open_workshop
from provisioner.errors import ImageError, NotFound, ProvisionerError, UsageError
from provisioner.events import Observer
from provisioner.images.build import PASSED, Tester, build_images, from_elements, update_lock, used_files
from provisioner.images.cache import load_cache, save_cache
from provisioner.images.catalogue import INDEX
from provisioner.images.check import check_images
from provisioner.images.lock import LOCK
from provisioner.images.report import Report
from provisioner.images.workshop import RAMDISK, RAMDISK_SPEC, BuildSpec, Workshop
from provisioner.lab.trial import Bench, try_image, try_ramdisk
from provisioner.manifest.values import whole_roles
from provisioner.model.hardware import Firmware
from provisioner.model.image import ImageIndex
from provisioner.model.role import Role
from provisioner.system.contain import contain
from provisioner.system.files import write_file
from provisioner.system.run import HostRunner, Runner
from provisioner.system.scratch import held_folder
from provisioner.system.settings import Settings
from provisioner.trust.keys import SiteKeys

INTERRUPTED = 130
"""The exit code of who was ended by SIGINT, as shells say it."""


def known_specs(roles: Mapping[str, Role]) -> list[BuildSpec]:
    """The ramdisk and one image for each role that has one of its own."""
    return [RAMDISK_SPEC, *(BuildSpec(role.role, role.image) for role in roles.values() if role.image.is_built)]


def choose_specs(known: list[BuildSpec], names: Collection[str], settings: Settings) -> list[BuildSpec]:
    """Those of ``names``; all without any."""
    unknown = set(names) - {spec.name for spec in known}
    if unknown:
        raise NotFound(
            f"there is no image {', '.join(sorted(unknown))}",
            where=str(settings.source_dir / "roles"),
            hint=f"the images are: {', '.join(spec.name for spec in known)}",
        )
    return [spec for spec in known if not names or spec.name in names]


def make_tester(
    roles: Mapping[str, Role], runner: Runner, observer: Observer, firmware: Firmware = Firmware.UEFI
) -> Tester:
    """The boot test of what a build made."""

    def test(build: BuildSpec, image: Path, work: Path) -> None:
        bench = Bench(work, runner, observer, firmware)
        if build.name == RAMDISK:
            try_ramdisk(image, bench)
        else:
            index = ImageIndex.model_validate_json((image / INDEX).read_bytes())
            try_image(image, index, roles[build.name], bench)

    return test


def _write_report(folder: Path, report: Report, logs: Path) -> None:
    write_file(folder / "results.json", report.render_json())
    write_file(folder / "junit.xml", report.render_junit())
    for log in sorted(logs.glob("*.log")):
        write_file(folder / "logs" / log.name, log.read_bytes())


@click.command("build")
@click.argument("names", nargs=-1)
@click.option("--force", is_flag=True, help="Build also what has not changed.")
@click.option(
    "--update", is_flag=True, help="First move images.lock to the newest package versions; builds all images."
)
@click.option(
    "--cloud",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Build what this cloud needs: the ramdisk and the images of its roles.",
)
@click.option(
    "--ci",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write results.json, junit.xml and logs/ there, whether or not the build succeeds.",
)
@click.option(
    "--cache",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Take layers and packages from there, and leave there what the next build can use; for CI jobs.",
)
@click.option("--check", is_flag=True, help="Publish nothing: build twice, aside and from nothing, and compare.")
@click.option("--no-test", is_flag=True, help="Publish without the boot test; the manifest says so.")
@output_option
@pass_options
def build(
    options: Options,
    names: tuple[str, ...],
    force: bool,
    update: bool,
    cloud: Path | None,
    ci: Path | None,
    cache: Path | None,
    check: bool,
    no_test: bool,
) -> None:
    """Build the images whose inputs have changed and say why: the ramdisk and one for each role, or NAMES.

    Each image is booted in QEMU and runs its role's checks before it is published; see image test. One of a role with
    image: {disk: NAME} is that disk as it was imported, with the role's templates and scripts; it is not booted here.

    Packages come in the versions of images.lock. What the mirror does not have any more, and no build here has fetched
    before, comes in the newest version, and that is said.

    \b
    Example:
      provisioner image build galera
    """
    contain()
    try:
        _build(
            options, names, force=force, update=update, cloud=cloud, ci=ci, cache=cache, check=check, test=not no_test
        )
    except KeyboardInterrupt:
        click.echo("interrupted; nothing was published half, and the layers that were made are there", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None


def _build(
    options: Options,
    names: tuple[str, ...],
    *,
    force: bool,
    update: bool,
    cloud: Path | None,
    ci: Path | None,
    cache: Path | None,
    check: bool,
    test: bool,
) -> None:
    settings = read_options(options)
    workshop, roles = open_workshop(settings), read_source_roles(settings)
    if check and (update or force or ci or cache):
        raise UsageError("--check builds aside and publishes nothing", hint="give it alone, or with names")
    if update and (names or cloud):
        raise UsageError("--update is for all images, since they share one lock", hint="leave the names out")
    if cloud is not None:
        used = whole_roles(read_desired(cloud, settings))  # maybe of a folder beside the cloud file
        built_ones = (name for name, role in used.items() if role.image.is_built)
        names, roles = (*names, RAMDISK, *built_ones), {**roles, **used}
    known = known_specs(roles)
    specs = choose_specs(known, names, settings)
    if check:
        _check(from_elements(specs), from_elements(known), workshop, settings, options)
        return
    face, runner = open_face(options, workshop), HostRunner()
    report = Report(face)
    try:
        if cache is not None:
            load_cache(cache, workshop, face)
        if update:
            _update(from_elements(known), workshop, settings, face, options)
        built = build_images(
            specs,
            among=known,
            workshop=workshop,
            catalogue=open_catalogue(settings),
            runner=runner,
            observer=report,
            tester=make_tester(roles, runner, report) if test else None,
            force=force,
        )
        if cache is not None:
            save_cache(cache, workshop, used_files(from_elements(specs), from_elements(known), workshop))
    except ProvisionerError as error:
        report.fail([spec.name for spec in specs], error)
        raise
    finally:
        face.close()
        if ci is not None:
            _write_report(ci, report, workshop.logs)
    if options.json:
        print_json([{"id": b.image.id, "rebuilt": b.rebuilt, "reason": b.reason, "seconds": b.seconds} for b in built])
        return
    rows = [(b.image.id, "built" if b.rebuilt else "unchanged", b.reason, f"{b.seconds:.1f}") for b in built]
    print_table(("image", "result", "why", "seconds"), rows)


def _check(
    specs: list[BuildSpec],
    known: list[BuildSpec],
    workshop: Workshop,
    settings: Settings,
    options: Options,
) -> None:
    """:raises ImageError: two builds differ."""
    keys = SiteKeys.ensure(settings.keys)
    with watched(options, workshop) as face:
        verdicts = check_images(specs, among=known, workshop=workshop, keys=keys, runner=HostRunner(), observer=face)
    if options.json:
        print_json([{"id": v.id, "identical": not v.differences, "differences": v.differences} for v in verdicts])
    else:
        print_table(("image", "two builds"), [(v.id, _few(v.differences)) for v in verdicts])
    if different := [v for v in verdicts if v.differences]:
        raise ImageError(
            "two builds of the same inputs differ",
            where=", ".join(v.id for v in different),
            cause=f"first at {different[0].differences[0]}",
            hint="let the element that writes this path write it the same each time, or remove it",
        )


def _few(paths: tuple[str, ...], shown: int = 10) -> str:
    more = len(paths) - shown
    return "\n".join([*paths[:shown], *([f"and {more} more"] if more > 0 else [])]) or "identical"


def _update(known: list[BuildSpec], workshop: Workshop, settings: Settings, face: BuildFace, options: Options) -> None:
    keys = SiteKeys.ensure(settings.keys)
    lock = settings.source_dir / LOCK
    for change in update_lock(known, lock, workshop=workshop, keys=keys, runner=HostRunner(), observer=face):
        click.echo(clean(f"  {change}"), err=options.json)


@click.command("test")
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--firmware", type=click.Choice([f.value for f in Firmware]), default=Firmware.UEFI.value, show_default=True
)
@output_option
@pass_options
def test(options: Options, names: tuple[str, ...], firmware: str) -> None:
    """Boot images in QEMU, configured as a cloud of one, and run their roles' own checks; ids, or names for the newest.

    The image is not touched: the test works on a copy. Networks of the instance lead nowhere. The ramdisk is booted on
    a machine with one disk and one network interface of each common kind, and must find them all.

    \b
    Example:
      provisioner image test galera --firmware bios
    """
    contain()
    settings = read_options(options)
    catalogue, workshop, runner = open_catalogue(settings), open_workshop(settings), HostRunner()
    roles = read_source_roles(settings)
    known = {spec.name: spec for spec in from_elements(known_specs(roles))}
    results = []
    with watched(options, workshop) as face:
        tester = make_tester(roles, runner, face, Firmware(firmware))
        for image in [find_image(catalogue, name) for name in names]:
            if image.name not in known:
                raise NotFound(
                    "the image is of no role that is built", where=image.id, hint=f"roles are: {', '.join(known)}"
                )
            with held_folder(workshop.state / "work", "test.") as folder:
                tester(known[image.name], catalogue.folder / image.id, folder)
            results.append({"id": image.id, "firmware": firmware, "test": PASSED})
    if options.json:
        print_json(results)
