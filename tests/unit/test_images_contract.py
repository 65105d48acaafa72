"""What we rely on in diskimage-builder, whose version is pinned: when one of these fails, read its release notes."""

from __future__ import annotations

import configparser
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from diskimage_builder.element_dependencies import get_elements

from provisioner.cli.desired import read_source_roles
from provisioner.events import RecordingObserver
from provisioner.images.dib import INSTALLS, STEPS, Watch
from provisioner.images.elements import LAYER_ELEMENT, MACHINERY, find_elements, shipped_elements
from provisioner.system.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
CREATE = (BIN / "disk-image-create").read_text()
LIBRARY = Path(str(sys.modules["diskimage_builder"].__file__)).parent / "lib"
ROLES = read_source_roles(Settings(source_dir=ROOT))


def test_the_version_is_the_one_that_is_pinned() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert f"diskimage-builder=={version('diskimage-builder')}" in config["options"]["install_requires"].split()


def test_the_elements_that_make_packages_come_in_are_there() -> None:
    assert shipped_elements() >= MACHINERY


@pytest.mark.parametrize("name", ROLES)
def test_our_reading_of_element_deps_is_diskimage_builders(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = LIBRARY.parent / "elements"
    wanted = [LAYER_ELEMENT, *ROLES[name].image.elements]
    theirs = {path for _, path in get_elements(wanted, f"{ROOT / 'elements'}:{stock}")}
    ours = {str(path) for path in find_elements(wanted, (ROOT / "elements",)).values()}
    assert ours == {path for path in theirs if not path.startswith(str(stock))}


def script() -> str:
    """The main program and the functions that it sources."""
    return CREATE + "".join(path.read_text() for path in LIBRARY.iterdir() if path.is_file())


@pytest.mark.parametrize(
    "name",
    ["ELEMENTS_PATH", "DIB_NO_TMPFS", "TMP_DIR", "TMP_HOOKS_PATH", "TARGET_ROOT", "DIB_IMAGE_CACHE", "TMP_MOUNT_PATH"],
)
def test_the_variables_that_we_set_or_read_are_known(name: str) -> None:
    assert name in script()


def test_the_phases_run_in_the_order_that_our_hooks_count_on() -> None:
    text = script()
    places = [text.rindex(f"run_d_in_target {name}") for name in ("pre-install", "install", "post-install")]
    assert places == sorted(places)
    assert "run_d extra-data" in text and "run_d_in_target finalise" in text and "run_d block-device" in text


def test_what_a_hook_runner_says_is_understood(tmp_path: Path) -> None:
    hooks = tmp_path / "hooks" / "install.d"
    hooks.mkdir(parents=True)
    (hooks / "50-hook").write_text("#!/bin/sh\nexit 3\n")
    (hooks / "50-hook").chmod(0o755)
    watch = Watch("image", tmp_path / "log", RecordingObserver())
    words = [LIBRARY / "dib-run-parts", hooks]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    for line in (done.stdout + done.stderr).splitlines():
        watch.line(line)
    assert done.returncode == 3 and watch.script == "install.d/50-hook"


def test_what_apt_says_of_packages_is_understood(tmp_path: Path) -> None:
    observer = RecordingObserver()
    watch = Watch("image", tmp_path / "log", observer)
    for text in ("> 0 upgraded, 2 newly installed, 0 to remove", "> Unpacking a (1) ...", "> Setting up a (1) ..."):
        watch.line(text)
    assert INSTALLS.pattern and STEPS
    assert (observer.events[-1].data["steps"], observer.events[-1].data["of"]) == (2, 4)
