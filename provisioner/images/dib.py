"""One run of diskimage-builder: elements on a layer become a file tree (a tar file)."""

from __future__ import annotations

import re
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import HostError, ImageError
from provisioner.events import Event, Observer
from provisioner.images.sources import Source
from provisioner.system.run import LAST_LINES, PATH, Runner

DEADLINE = 2400.0
PHASE = re.compile(
    r"dib-run-parts (?:Sourcing|Running)? ?.*/(?:hooks|in_target\.d)/(?P<phase>[a-z-]+)\.d/(?P<script>[^/ ]+)"
)
LAYER_ELEMENT = "provisioner-layer"


@dataclass(frozen=True)
class DibRun:
    """What diskimage-builder is told. ``elements_path``: folders searched in order, ours first."""

    name: str
    elements: tuple[str, ...]
    elements_path: tuple[Path, ...]
    layer: Path
    agent_source: Path
    ca_bundle: Path | None
    sources: tuple[Source, ...]
    pool: Path


def dib_environment(run: DibRun, work: Path) -> dict[str, str]:
    """A clean environment: nothing of the caller's shell reaches the build."""
    venv = Path(sys.executable).parent
    env = {
        "PATH": f"{venv}:{PATH}",
        "ELEMENTS_PATH": ":".join(str(path) for path in run.elements_path),
        "ARCH": "amd64",
        "DIB_RELEASE": "bookworm",
        "DIB_APT_LOCAL_CACHE": "0",  # its cache is emptied by each build and shared without a lock
        "DIB_IMAGE_CACHE": str(work / "cache"),
        "DIB_QUIET": "0",
        "DIB_NO_TIMESTAMP": "1",
        "DIB_PYTHON_VERSION": "3",
        "TMP_DIR": str(work),
        "TMPDIR": str(work),  # its mktemp prefers this; what an interrupted run leaves goes with the folder
        "DIB_NO_TMPFS": "1",
        "PYTHONHASHSEED": "0",  # element and package order follow Python's set order
        "PROVISIONER_LAYER": str(run.layer),
        "PROVISIONER_AGENT_SOURCE": str(run.agent_source),
        "PROVISIONER_POOL": str(run.pool),
    }
    if run.ca_bundle is not None:
        env["PROVISIONER_CA_BUNDLE"] = str(run.ca_bundle)
    return env


def build_tree(run: DibRun, tar: Path, *, work: Path, runner: Runner, observer: Observer) -> None:
    """Run diskimage-builder; ``tar`` appears whole or not at all.

    It runs in a mount namespace of its own, so that whatever it mounts goes with it. All it says is kept in
    ``work/NAME.log`` until the next run.

    :raises ImageError: a hook failed; names the script, its last lines and the log.
    """
    work.mkdir(parents=True, exist_ok=True)
    log = work / f"{run.name}.log"
    log.write_text("")
    said: deque[str] = deque(maxlen=LAST_LINES)
    script = "before the first script"
    phases: list[str] = []

    def line(text: str) -> None:
        nonlocal script
        said.append(text)
        with log.open("a") as file:
            file.write(f"{text}\n")
        match = PHASE.search(text)
        if match:
            script = f"{match['phase']}.d/{match['script']}"
            if match["phase"] not in phases:
                phases.append(match["phase"])
                observer(Event("image.phase", f"{run.name}: {match['phase']}", data={"phase": match["phase"]}))

    with tempfile.TemporaryDirectory(dir=work, prefix=f"{run.name}.") as folder:
        output = Path(folder) / run.name
        try:
            runner.run(
                command(run, output),
                env=dib_environment(run, Path(folder)),
                cwd=Path(folder),
                deadline=DEADLINE,
                on_line=line,
            )
        except HostError as error:
            raise ImageError(
                f"diskimage-builder could not build {run.name}",
                where=script,
                cause="\n".join(said) or error.cause,
                hint=f"all it said is in {log}; correct the script and run provisioner image build again",
            ) from error
        tar.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{output}.tar").replace(tar)


def command(run: DibRun, output: Path) -> Sequence[str | Path]:
    program = Path(sys.executable).with_name("disk-image-create")
    return ["unshare", "-m", program, "-n", "-t", "tar", "-o", output, LAYER_ELEMENT, *run.elements]


def element_folders(elements: Sequence[str], path: Sequence[Path]) -> Mapping[str, Path]:
    """Where each element and what it depends on lie, of those that are in our folders.

    Elements that diskimage-builder ships are not listed: its version stands for them.

    :raises ImageError: an element is in none of the folders nor in diskimage-builder.
    """
    stock = Path(sys.executable).parents[1].glob("lib/python3*/site-packages/diskimage_builder/elements")
    shipped = {entry.name for folder in stock for entry in folder.iterdir()}
    found: dict[str, Path] = {}
    todo = list(elements)
    while todo:
        name = todo.pop()
        folder = next((base / name for base in path if (base / name).is_dir()), None)
        if folder is None:
            if name not in shipped:
                raise ImageError(
                    f"there is no element {name}",
                    where=", ".join(str(base) for base in path),
                    hint="correct the role's image.elements, or add its folder to elements_path",
                )
            continue
        if name not in found:
            found[name] = folder
            deps = folder / "element-deps"
            todo += deps.read_text().split() if deps.is_file() else []
    return dict(sorted(found.items()))
