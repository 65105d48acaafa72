"""A build from its inputs to the catalogue, with diskimage-builder and mmdebstrap played by a fake."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import zstandard

from provisioner.errors import ImageError, ProgramFailed
from provisioner.events import RecordingObserver
from provisioner.images.assemble import TEMPLATE_TREE, read_templates
from provisioner.images.build import Built, Tester, build_images, update_lock, used_files
from provisioner.images.catalogue import Catalogue
from provisioner.images.check import Verdict, check_images
from provisioner.images.debian import setup_script
from provisioner.images.dib import DibRun, dib_environment
from provisioner.images.elements import find_elements
from provisioner.images.lock import parse_lock
from provisioner.images.sources import Source
from provisioner.images.workshop import BuildSpec, Workshop
from provisioner.model.role import ImageSpec
from provisioner.system.run import Completed, HostRunner
from provisioner.trust.keys import SiteKeys

SOURCE = Source("http://mirror.example/debian", "bookworm", ("main",))
WRAPPER = "provisioner.system.nosync"
DIB_LINES = """\
dib-run-parts Running /build/hooks/root.d/10-unpack-layer
dib-run-parts Running /tmp/in_target.d/install.d/01-package-installs
E: Unable to locate package mistyped
"""
AGENT = "usr/lib/python3/dist-packages/provisioner_agent"


class Builders:
    """Plays mmdebstrap and diskimage-builder; all other programs are real. ``broken``: the program that fails.

    ``more``: files by path that diskimage-builder's tree has besides.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken = ""
        self.environment: Mapping[str, str] = {}
        self.more: Mapping[str, str] = {}

    def stop(self) -> None:
        self.broken = "every program"

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        deadline: float = 60.0,
        check: bool = True,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        words = [str(word) for word in argv]
        wrapped = words[words.index(WRAPPER) + 1 :] if WRAPPER in words else words
        name = Path(wrapped[0]).name
        if name == "mmdebstrap":
            self.calls.append(name)
        elif name == "disk-image-create":
            self.calls.append(f"{name} {Path(words[words.index('-o') + 1]).name}")
        for line in DIB_LINES.splitlines():
            if on_line is not None:
                on_line(line)
        if name == self.broken:
            raise ProgramFailed(f"{name} ended with code 1", cause="E: Unable to locate package mistyped")
        if name == "mmdebstrap":
            Path(words[-2]).write_bytes(b"layer")
        elif name == "disk-image-create":
            self.environment = dict(env or {})
            make_tree(Path(words[words.index("-o") + 1] + ".tar"), self.more)
        elif name == "tar":  # as anybody: owners and devices need root
            opener = zstandard.open if words[-1].endswith(".zst") else open
            with opener(words[-1], "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                tar.extractall(words[2])
        elif name == "dpkg-query":
            return Completed(tuple(words), 0, "galera-4 26.4 amd64 galera-4\nrsync 3.2.7 amd64 rsync\n", "")
        else:
            return HostRunner().run(argv, stdin=stdin, env=env, cwd=cwd, deadline=deadline, check=check)
        return Completed(tuple(words), 0, "", "")


def make_tar(path: Path, more: Mapping[str, str]) -> None:
    files = {
        f"{AGENT}/old.py": "removed since",
        "etc/systemd/system/provisioner-agent.service": "old",
        "etc/dib-manifests/dib_environment": "PATH=/home/somebody",
        "run/leftover": "of the build",
        f"{TEMPLATE_TREE}/etc/element.conf": "of an element\n",
        "usr/libexec/os-refresh-config/configure.d/50-galera": "#!/bin/sh",
        **more,
    }
    with tarfile.open(path, "w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            entry.mtime = 10**9
            tar.addfile(entry, io.BytesIO(text.encode()))


def make_tree(path: Path, more: Mapping[str, str]) -> None:
    make_tar(path, more)


PACKAGES, CONFIGURATION = "disk-image-create layer-galera", "disk-image-create galera"
SPEC = BuildSpec("galera", ImageSpec(elements=("galera",), templates=("galera",)))


class Site:
    """A source tree, a state folder and a catalogue."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source"
        for name, text in {
            "elements/provisioner-layer/element-provides": "operating-system",
            "elements/galera/element-deps": "package-installs\n",
            "elements/galera/package-installs.yaml": "galera-4:\n",
            "elements/galera/install.d/70-galera": "#!/bin/sh\n",
            "templates/galera/etc/my.cnf": "a={{a}}\n",
            "elements/provisioner-layer/README.rst": "layer\n",
            "provisioner_agent/instance/main.py": "print()\n",
            "provisioner_agent/instance/provisioner-agent.service": "[Unit]\n",
            "sources.list": f"{SOURCE.line()}\n",
        }.items():
            self.write(name, text)
        self.catalogue = Catalogue(folder / "images", SiteKeys.ensure(folder / "keys"))
        self.lock = self.source / "images.lock"
        self.runner = Builders()
        self.observer = RecordingObserver()

    def write(self, name: str, text: str) -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    @property
    def workshop(self) -> Workshop:
        return Workshop(
            self.source,
            self.source / "provisioner_agent",
            (),
            self.folder / "state",
            self.folder / "state" / "pool",
            self.lock,
            apt=(self.source / "sources.list",),
        )

    def update(self) -> list[str]:
        keys = SiteKeys.ensure(self.folder / "keys")
        return update_lock(
            [SPEC], self.lock, workshop=self.workshop, keys=keys, runner=self.runner, observer=self.observer
        )

    def build(self, force: bool = False, tester: Tester | None = None, spec: BuildSpec = SPEC) -> Built:
        self.runner.calls.clear()
        (built,) = build_images(
            [spec],
            workshop=self.workshop,
            catalogue=self.catalogue,
            runner=self.runner,
            observer=self.observer,
            tester=tester,
            force=force,
        )
        return built

    def inside(self, path: str) -> str:
        """A file of the newest image, read out of its chunks."""
        image = self.catalogue.newest("galera")
        assert image is not None
        index = self.catalogue.index(image.id)
        disk = bytearray(index.size)
        stored = self.catalogue.path(image.id, "root.zst").read_bytes()
        for chunk in index.chunks:
            frame = stored[chunk.frame : chunk.frame + chunk.frame_length]
            disk[chunk.offset : chunk.offset + chunk.length] = zstandard.ZstdDecompressor().decompress(frame)
        (self.folder / "disk").write_bytes(disk)
        return HostRunner().run(["debugfs", "-R", f"cat {path}", self.folder / "disk"]).stdout


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_first_build_makes_everything(site: Site) -> None:
    built = site.build()
    assert built.rebuilt and built.reason == "because it was never built here"
    assert site.runner.calls == ["mmdebstrap", PACKAGES, CONFIGURATION]
    assert site.catalogue.newest("galera") == built.image
    assert built.image.packages == {"galera-4": "26.4", "rsync": "3.2.7"}
    assert built.image.mapped == site.catalogue.index(built.image.id).mapped > 0
    assert site.inside("/usr/libexec/provisioner-agent/templates/etc/my.cnf") == "a={{a}}\n"
    assert site.catalogue.templates(built.image.id) == {
        "etc/my.cnf": "a={{a}}\n",
        "etc/element.conf": "of an element\n",
    }
    assert site.inside(f"/{AGENT}/instance/main.py") == "print()\n"
    assert site.inside("/etc/systemd/system/provisioner-agent.service") == "[Unit]\n"
    for gone in (f"/{AGENT}/old.py", "/etc/dib-manifests/dib_environment", "/run/leftover"):
        assert site.inside(gone) == ""


def test_a_template_that_the_agent_could_not_read_is_no_image(site: Site) -> None:
    (site.source / "templates/galera/etc/my.cnf").write_bytes(b"\xff")
    with pytest.raises(ImageError) as caught:
        site.build()
    assert caught.value.where == "/usr/libexec/provisioner-agent/templates/etc/my.cnf"
    assert site.catalogue.images() == []


def test_a_link_out_of_the_templates_is_not_followed_to_a_file_of_this_host(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("of this host")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_text("x")
    (tmp_path / "tree/b").symlink_to("a")
    assert read_templates(tmp_path / "tree") == {"a": "x", "b": "x"}
    (tmp_path / "tree/c").symlink_to(tmp_path / "here")
    with pytest.raises(ImageError, match="no file of UTF-8 text"):
        read_templates(tmp_path / "tree")


def test_an_image_of_before_is_made_anew_out_of_the_same_tree(site: Site) -> None:
    site.build()
    record = site.workshop.record("galera")
    before = json.loads(record.read_text())
    del before["assembly"]
    record.write_text(json.dumps(before))
    built = site.build()
    assert built.reason == "because assembly was added" and site.runner.calls == []


def test_nothing_changed_builds_nothing(site: Site) -> None:
    first = site.build()
    again = site.build()
    assert not again.rebuilt and again.image == first.image and site.runner.calls == []
    assert site.observer.kinds()[-1] == "image.unchanged"


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("templates/galera/etc/my.cnf", []),
        ("provisioner_agent/instance/main.py", []),
        ("elements/galera/install.d/70-galera", [CONFIGURATION]),
        ("elements/galera/package-installs.yaml", [PACKAGES, CONFIGURATION]),
        ("elements/provisioner-layer/README.rst", [CONFIGURATION]),
    ],
)
def test_what_changed_decides_how_much_is_built(site: Site, name: str, calls: list[str]) -> None:
    site.build()
    site.write(name, "other:\n")
    built = site.build()
    label = name.replace("provisioner_agent/", "agent/")
    assert built.rebuilt and built.reason == f"because {label} changed"
    assert site.runner.calls == calls


def test_what_values_an_element_has_is_in_no_image(site: Site) -> None:
    site.build()
    site.write("elements/galera/values.yaml", "properties: {}\n")
    assert not site.build().rebuilt


def test_a_unit_of_the_agent_is_enabled_again_when_it_changed(site: Site) -> None:
    site.write("elements/galera/element-deps", "package-installs\nprovisioner-agent\n")
    site.write("elements/provisioner-agent/install.d/60-agent", "systemctl enable provisioner-agent.service\n")
    site.build()
    unit = "instance/provisioner-agent.service"
    site.write(f"provisioner_agent/{unit}", "[Install]\n")
    assert site.build().reason == f"because agent/{unit} changed"
    assert site.runner.calls == [CONFIGURATION]


def test_the_same_inputs_give_the_same_image(site: Site) -> None:
    first = site.build()
    again = site.build(force=True)
    assert again.rebuilt and again.reason == "because it was asked for"
    assert again.image.id == first.image.id


def test_the_lock_is_a_part_of_every_image_and_what_it_could_not_hold_is_said(site: Site) -> None:
    site.build()
    site.lock.write_text("# head\ngalera-4 26.4\nrsync 3.2.6\n")
    built = site.build()
    assert built.reason == "because images.lock changed"
    assert site.runner.calls == ["mmdebstrap", PACKAGES, CONFIGURATION]
    (drift,) = [event.message for event in site.observer.events if event.kind == "image.drift"]
    assert "rsync 3.2.6 → 3.2.7" in drift and "galera-4" not in drift and "--update" in drift


def test_update_writes_down_the_newest_versions_and_says_what_moved(site: Site) -> None:
    site.lock.write_text("galera-4 26.3\ngone 1\n")
    assert site.update() == ["galera-4 26.3 → 26.4", "gone 1 → (none)", "rsync (none) → 3.2.7"]
    assert parse_lock("images.lock", site.lock.read_text()) == {"galera-4": "26.4", "rsync": "3.2.7"}
    assert site.catalogue.images() == []  # what was built aside is nobody's image
    assert site.update() == []
    site.runner.broken = "mmdebstrap"
    before = site.lock.read_text()
    with pytest.raises(ImageError):
        site.update()
    assert site.lock.read_text() == before


def test_a_failed_build_names_the_script_and_its_last_lines_and_leaves_what_was(site: Site) -> None:
    first = site.build()
    site.write("elements/galera/package-installs.yaml", "mistyped:\n")
    site.runner.broken = "disk-image-create"
    with pytest.raises(ImageError) as caught:
        site.build()
    error = caught.value
    assert error.where == "install.d/01-package-installs"
    assert "Unable to locate package mistyped" in str(error.cause)
    log = site.folder / "state" / "logs" / "layer-galera.log"
    assert str(log) in str(error.hint) and "01-package-installs" in log.read_text()
    assert site.catalogue.images() == [first.image]
    assert sorted(path.name for path in log.parent.iterdir()) == ["galera.log", "layer-galera.log"]
    site.runner.broken = ""
    assert site.build().rebuilt


def test_a_failed_layer_leaves_nothing(site: Site) -> None:
    site.runner.broken = "mmdebstrap"
    with pytest.raises(ImageError, match="layer debian") as caught:
        site.build()
    assert "mistyped" in str(caught.value.cause)
    assert not (site.folder / "state" / "layers").exists()
    assert list((site.folder / "state" / "work").iterdir()) == []
    assert site.catalogue.images() == []


def test_a_disk_that_cannot_be_written_is_said_and_leaves_no_image(site: Site) -> None:
    site.folder.joinpath("images").write_text("a file where the catalogue should be")
    with pytest.raises(ImageError) as caught:
        site.build()
    assert caught.value.where == str(site.folder / "images") and "df -h" in str(caught.value.hint)
    assert not (site.folder / "state" / "records" / "galera.json").exists()


class Bench:
    """A boot test that notes what it was given; ``error`` is how it ends."""

    def __init__(self) -> None:
        self.tested: list[str] = []
        self.error: ImageError | None = None

    def __call__(self, build: BuildSpec, image: Path, work: Path) -> None:
        assert (image / "root.zst").is_file() and list(work.iterdir()) == []
        self.tested.append(build.name)
        if self.error:
            raise self.error


def test_an_image_is_published_when_it_passed_its_test(site: Site) -> None:
    bench = Bench()
    assert site.build(tester=bench).image.test == "passed"
    assert not site.build(tester=bench).rebuilt and bench.tested == ["galera"]


def test_an_image_that_does_not_pass_is_not_published(site: Site) -> None:
    first, bench = site.build(), Bench()
    site.write("templates/galera/etc/my.cnf", "broken\n")
    bench.error = ImageError("the image galera does not boot")
    with pytest.raises(ImageError, match="does not boot"):
        site.build(tester=bench)
    assert site.catalogue.newest("galera") == first.image
    assert [path.name for path in site.catalogue.folder.glob(".*")] == []
    bench.error = None
    assert site.build(tester=bench).image.id != first.image.id, "what failed is tried again"


def test_what_was_published_untested_is_tested_by_the_next_build_and_not_built_again(site: Site) -> None:
    first, bench = site.build(), Bench()
    assert first.image.test == "skipped"
    again = site.build(tester=bench)
    assert (again.rebuilt, again.image.id, again.image.test) == (False, first.image.id, "passed")
    assert bench.tested == ["galera"] and site.runner.calls == []
    assert site.catalogue.get(first.image.id).test == "passed"


def test_an_image_tells_where_it_is_from(site: Site) -> None:
    image = site.build().image
    said = site.catalogue.provenance(image.id)
    assert {one["name"]: one["digest"]["sha256"] for one in said["subject"]} == image.files
    predicate = said["predicate"]
    assert predicate["buildDefinition"]["externalParameters"]["elements"] == ["galera"]
    assert predicate["runDetails"]["builder"]["version"]["diskimage-builder"]


def test_what_a_killed_build_left_goes_with_the_next(site: Site) -> None:
    left = [site.folder / "state/work/build.left/galera.x/tree", site.folder / "images/.building.left/out"]
    for folder in left:
        folder.mkdir(parents=True)
    site.build()
    assert not any(folder.parent.exists() for folder in left)


def check(site: Site) -> Verdict:
    keys = SiteKeys.ensure(site.folder / "keys")
    (verdict,) = check_images(
        [SPEC], among=[SPEC], workshop=site.workshop, keys=keys, runner=site.runner, observer=site.observer
    )
    return verdict


def test_two_builds_are_compared_aside(site: Site) -> None:
    assert not check(site).differences
    assert site.runner.calls == ["mmdebstrap", PACKAGES, CONFIGURATION] * 2
    assert site.catalogue.images() == [] and not list((site.folder / "state" / "work").iterdir())


def test_the_first_path_that_differs_between_two_builds_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = iter(range(100))

    def make_other(path: Path, more: Mapping[str, str]) -> None:
        make_tar(path, {"etc/machine-id": str(next(serial)), "etc/other": "same"})

    monkeypatch.setitem(globals(), "make_tree", make_other)
    assert check(site).differences == ("/etc/machine-id (content)",)


def test_what_a_build_used_is_what_a_cache_keeps(site: Site) -> None:
    site.build()
    found = {path.relative_to(site.workshop.state).parts[0] for path in used_files([SPEC], [SPEC], site.workshop)}
    assert found == {"layers", "trees", "records"}
    assert all(path.is_file() for path in used_files([SPEC], [SPEC], site.workshop))


def test_unknown_elements_and_templates_are_refused_before_anything_runs(site: Site) -> None:
    with pytest.raises(ImageError, match="no element mistyped"):
        find_elements(("mistyped",), (site.source / "elements",))
    (site.source / "templates" / "galera" / "etc" / "my.cnf").unlink()
    for folder in ("templates/galera/etc", "templates/galera"):
        (site.source / folder).rmdir()
    with pytest.raises(ImageError, match="no templates galera"):
        site.build()
    assert site.runner.calls == []


def test_two_that_claim_one_path_are_refused_before_anything_runs(site: Site) -> None:
    site.write("templates/more/etc/my.cnf", "b={{b}}\n")
    both = BuildSpec("galera", ImageSpec(elements=("galera",), templates=("galera", "more")))
    with pytest.raises(ImageError, match=r"/etc/my\.cnf: .*galera/etc/my\.cnf and .*more/etc/my\.cnf"):
        site.build(spec=both)
    assert site.runner.calls == []


def test_a_template_that_an_element_has_put_there_is_not_replaced(site: Site) -> None:
    site.runner.more = {"usr/libexec/provisioner-agent/templates/etc/my.cnf": "of an element"}
    with pytest.raises(ImageError, match="put a template there already"):
        site.build()
    assert site.catalogue.newest("galera") is None


def test_elements_bring_what_they_depend_on_and_ours_come_first(site: Site, tmp_path: Path) -> None:
    site.write("elements/galera/element-deps", "agent\npackage-installs\n")
    site.write("elements/agent/element-deps", "provisioner-layer\n")
    (tmp_path / "more" / "agent").mkdir(parents=True)
    found = find_elements(("galera",), (site.source / "elements", tmp_path / "more"))
    assert {name: path.parent for name, path in found.items()} == dict.fromkeys(
        ("agent", "galera", "provisioner-layer"), site.source / "elements"
    )


def test_diskimage_builder_gets_a_clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIB_OFFLINE", "1")
    run = DibRun("galera", ("galera",), (Path("/a"), Path("/b")), Path("/layer"), Path("/agent"), None, Path("/pool"))
    env = dib_environment(run, tmp_path)
    assert env["ELEMENTS_PATH"] == "/a:/b" and env["PROVISIONER_LAYER"] == "/layer"
    assert env["TMP_DIR"] == env["TMPDIR"] == env["DIB_IMAGE_CACHE"].removesuffix("/cache") == str(tmp_path)
    assert "DIB_OFFLINE" not in env and "PROVISIONER_CA_BUNDLE" not in env


def test_the_layers_setup_writes_the_initramfs_hook(tmp_path: Path) -> None:
    HostRunner().run(["sh", "-c", setup_script(), "sh", tmp_path])
    hook = tmp_path / "etc/initramfs-tools/hooks/provisioner"
    assert hook.stat().st_mode & 0o777 == 0o755
    HostRunner().run(["sh", "-n", hook])
    assert HostRunner().run([hook, "prereqs"]).stdout == ""
    assert "drivers/nvme" in hook.read_text()
    assert (tmp_path / "etc/initramfs-tools/conf.d/provisioner").read_text() == "MODULES=list\n"
