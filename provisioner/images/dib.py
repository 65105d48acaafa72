"""One run of diskimage-builder: elements on a layer become a file tree (a tar file)."""

from __future__ import annotations

import re
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import HostError, ImageError
from provisioner.events import Event, Observer
from provisioner.images.disk import EPOCH
from provisioner.images.elements import LAYER_ELEMENT
from provisioner.system.run import PATH, Runner

DEADLINE = 2400.0
SAID = 20
"""Lines of its log that an error shows."""
PHASE = re.compile(
    r"dib-run-parts (?:Sourcing|Running)? ?.*/(?:hooks|in_target\.d)/(?P<phase>[a-z-]+)\.d/(?P<script>[^/ ]+)"
)
INSTALLS = re.compile(r"^> *\d+ upgraded, (?P<count>\d+) newly installed")
STEPS = ("> Unpacking ", "> Setting up ")


@dataclass(frozen=True)
class DibRun:
    """What diskimage-builder is told.

    :param name: of the image or layer; its log is ``NAME.log``. :param elements_path: folders searched in order.
    :param layer: the file that the tree begins with.
    """

    name: str
    elements: tuple[str, ...]
    elements_path: tuple[Path, ...]
    layer: Path
    agent_source: Path
    ca_bundle: Path | None
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
        "SOURCE_DATE_EPOCH": EPOCH,  # initramfs-tools makes the same archive of the same files then
        "PYTHONHASHSEED": "0",  # element and package order follow Python's set order
        "PROVISIONER_LAYER": str(run.layer),
        "PROVISIONER_AGENT_SOURCE": str(run.agent_source),
        "PROVISIONER_POOL": str(run.pool),
    }
    if run.ca_bundle is not None:
        env["PROVISIONER_CA_BUNDLE"] = str(run.ca_bundle)
    return env


class Watch:
    """Reads what diskimage-builder says: keeps it, and tells phases and packages as events.

    ``script`` is the hook that runs, ``said`` the last lines.
    """

    def __init__(self, name: str, log: Path, observer: Observer) -> None:
        self.said: deque[str] = deque(maxlen=SAID)
        self.script = "before the first script"
        self._name = name
        self._log = log
        self._observer = observer
        self._phase = ""
        self._packages = self._done = 0

    def line(self, text: str) -> None:
        self.said.append(text)
        with self._log.open("a") as file:
            file.write(f"{text}\n")
        if match := PHASE.search(text):
            self.script = f"{match['phase']}.d/{match['script']}"
            if match["phase"] != self._phase:
                self._phase = match["phase"]
                self._tell("image.phase", f"{self._name}: {self._phase}")
        elif match := INSTALLS.match(text):
            self._packages, self._done = int(match["count"]), 0
        elif text.startswith(STEPS) and self._packages:
            self._done += 1
            self._tell("image.packages", f"{self._name}: package {(self._done + 1) // 2} of {self._packages}")

    def _tell(self, kind: str, message: str) -> None:
        # Each package is unpacked and set up: two steps.
        data = {"image": self._name, "phase": self._phase, "steps": self._done, "of": 2 * self._packages}
        self._observer(Event(kind, message, data=data))


def build_tree(run: DibRun, tar: Path, *, work: Path, logs: Path, runner: Runner, observer: Observer) -> None:
    """Run diskimage-builder; ``tar`` appears whole or not at all.

    It runs in a mount namespace of its own, so that whatever it mounts goes with it. All it says is kept in
    ``logs/NAME.log`` until the next run.

    :raises ImageError: a hook failed; names the script, its last lines and the log.
    """
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{run.name}.log"
    log.write_text("")
    watch = Watch(run.name, log, observer)
    with tempfile.TemporaryDirectory(dir=work, prefix=f"{run.name}.") as folder:
        output = Path(folder) / run.name
        try:
            runner.run(
                command(run, output),
                env=dib_environment(run, Path(folder)),
                cwd=Path(folder),
                deadline=DEADLINE,
                on_line=watch.line,
            )
        except HostError as error:
            raise ImageError(
                f"diskimage-builder could not build {run.name}",
                where=watch.script,
                cause="\n".join(watch.said) or error.cause,
                hint=f"all it said is in {log}; correct the script and run provisioner image build again",
            ) from error
        tar.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{output}.tar").replace(tar)


def command(run: DibRun, output: Path) -> Sequence[str | Path]:
    program = Path(sys.executable).with_name("disk-image-create")
    wrapped: list[str | Path] = ["unshare", "-m", sys.executable, "-m", "provisioner.system.nosync", program]
    return [*wrapped, "-n", "-t", "tar", "-o", output, LAYER_ELEMENT, *run.elements]
