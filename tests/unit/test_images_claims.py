"""Two elements or template trees that claim one path: an error with both places, before anything is built."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from provisioner.cli.main import main
from provisioner.errors import ImageError
from provisioner.images.claims import check_claims, find_templates
from provisioner.images.workshop import BuildSpec, Workshop
from provisioner.model.role import ImageSpec

ROOT = Path(__file__).resolve().parents[2]
CASES = Path(__file__).parent / "cases" / "claims.yaml"
UNIT = "provisioner_agent/instance/provisioner-agent.service"


def check(source: Path, files: list[str | dict[str, str]]) -> None:
    """:param files: paths, or a path with what is in the file."""
    for file in [*files, UNIT]:
        for name, text in (file if isinstance(file, dict) else {file: ""}).items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text)
    (source / "templates/x").mkdir(parents=True, exist_ok=True)
    (source / "templates/y").mkdir(parents=True, exist_ok=True)
    elements = tuple(sorted(path.name for path in (source / "elements").glob("*")))
    workshop = Workshop(source, source / "provisioner_agent", (), source / "state", source / "pool", None)
    check_claims(BuildSpec("web", ImageSpec(elements=elements, templates=("x", "y"))), workshop)


@pytest.mark.parametrize(("title", "case"), yaml.safe_load(CASES.read_text()).items())
def test_case(tmp_path: Path, title: str, case: dict[str, Any]) -> None:
    twice = case.get("twice", {})
    if not twice:
        check(tmp_path, case["files"])
        return
    with pytest.raises(ImageError) as caught:
        check(tmp_path, case["files"])
    wanted = [f"{path}: {' and '.join(f'{tmp_path}/{place}' for place in places)}" for path, places in twice.items()]
    assert caught.value.cause is not None and caught.value.hint
    assert sorted(caught.value.cause.split("; ")) == sorted(wanted)


def test_the_elements_and_templates_of_each_role_have_paths_of_their_own() -> None:
    workshop = Workshop(ROOT, ROOT / "provisioner_agent", (), ROOT / "none", ROOT / "none", None)
    for path in sorted((ROOT / "roles").glob("*.yaml")):
        image = yaml.safe_load(path.read_text()).get("image", {})
        spec = ImageSpec(elements=tuple(image.get("elements", ())), templates=tuple(image.get("templates", ())))
        check_claims(BuildSpec(path.stem, spec), workshop)


def test_the_files_of_template_trees_by_their_path(tmp_path: Path) -> None:
    check(tmp_path, ["templates/x/etc/a", "templates/y/etc/b"])
    assert find_templates(tmp_path, ("y", "x")) == {
        "etc/b": tmp_path / "templates/y/etc/b",
        "etc/a": tmp_path / "templates/x/etc/a",
    }


@pytest.mark.parametrize(
    ("name", "target", "cause"),
    [
        ("linked", "etc", "it is a link to etc, which is no file"),
        ("linked", "nowhere", "it is a link to nowhere, which is no file"),
        ("two\nlines", None, "its name has a line break, or is not UTF-8"),
        ("latin\udce9", None, "its name has a line break, or is not UTF-8"),
    ],
)
def test_what_could_not_be_in_an_image_is_said_before_the_build(
    tmp_path: Path, name: str, target: str | None, cause: str
) -> None:
    check(tmp_path, ["templates/x/etc/a"])
    (tmp_path / "templates/x/to-a").symlink_to("etc/a")
    check(tmp_path, [])
    place = tmp_path / "templates/x" / name
    place.symlink_to(target) if target else place.write_text("")
    for look in (lambda: check(tmp_path, []), lambda: find_templates(tmp_path, ("x",))):
        with pytest.raises(ImageError) as caught:
            look()
        assert caught.value.cause == cause and str(caught.value.where).isascii()


@pytest.fixture
def colliding(tmp_path: Path) -> Path:
    """The source of the lab's cloud, with a second tree for its role that has a file of the first."""
    for name in ("roles", "templates", "elements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "cloud-lab.yaml", tmp_path)
    role = tmp_path / "roles/galera.yaml"
    role.write_text(role.read_text().replace("templates: [", "templates: [more, "))
    (tmp_path / "templates/more/etc/mysql").mkdir(parents=True)
    shutil.copy(tmp_path / "templates/galera/etc/mysql/application.sql", tmp_path / "templates/more/etc/mysql")
    return tmp_path


def call(source: Path, *words: str) -> Result:
    config = source / "provisioner.conf"
    config.write_text(f"[DEFAULT]\nstate_dir = {source}/state\nrun_dir = {source}/run\nsource_dir = {source}\n")
    return CliRunner().invoke(main, ["--config", str(config), *words])


def test_config_render_names_both_places(colliding: Path) -> None:
    done = call(colliding, "config", "render", str(colliding / "cloud-lab.yaml"), "galera-0")
    said = "".join(done.output.split())
    assert done.exit_code == 1
    for tree in ("galera", "more"):
        assert f"{colliding}/templates/{tree}/etc/mysql/application.sql" in said
    (colliding / "templates/more/etc/mysql/application.sql").rename(colliding / "templates/more/etc/mysql/other.sql")
    done = call(colliding, "config", "render", str(colliding / "cloud-lab.yaml"), "galera-0")
    assert done.exit_code == 0 and "== /etc/mysql/other.sql" in done.output
