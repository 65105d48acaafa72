"""Power fails at any instant of a change of files: what is left of the disk is settled to the old tree or the new one.

A virtual machine runs the real config agent on an ext4 disk whose writes QEMU logs (``blklogwrites``). From that log
the disks are built that a power cut may have left: at each flush, and with chance parts of what was written after it.
On each, ext4's own journal is replayed, ``provisioner-agent settle`` runs as in early boot, and then the agent.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pystache
import pytest
from rack import PROGRAM, ROOT

from provisioner.images.cpio import write_cpio
from provisioner.lab.machine import KVM, MACHINE, QEMU, TCG, kvm_works
from provisioner.lab.powercut import Cut, Replay, list_cuts, read_log
from provisioner.system.run import HostRunner
from provisioner_agent.instance import journal as journals
from provisioner_agent.instance import places
from provisioner_agent.instance.document import Document
from provisioner_agent.instance.files import render_files
from provisioner_agent.instance.host import LinuxHost
from provisioner_agent.instance.main import read_metadata
from provisioner_agent.instance.record import read_record
from provisioner_agent.instance.settle import run_command
from provisioner_agent.instance.trial import run_trial

Tree = dict[str, tuple[int, bytes]]
"""Mode and content by path."""
DISK_MIB = 24
SEED = 7
CHOSEN = 1
"""Chance parts of the writes between two flushes."""
MOST_CUTS = 1200
"""They are taken evenly out of all."""
WORKERS = 2
STARTS = 3
"""Of the agent: for what the boot asks for, for the newest generation, and one that finds nothing to be done."""
BOOT_SECONDS = 600.0
MANAGED = "etc/managed"
JUDGE = f"#!/bin/sh\ntest ! -e {MANAGED}/f00.conf || ! grep -q 'port 83' {MANAGED}/f00.conf\n"
"""The phase script: generation 3 does not get through."""
INIT = """#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PYTHONPATH=/cut PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
modprobe -a -q virtio_pci virtio_blk crc32c-intel crc32c_generic ext4
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vdb ] && break; sleep 1; done
run() { # DEVICE [--careless]
    mount -t ext4 "$1" /mnt && mkdir -p /mnt/run && mount -t tmpfs tmpfs /mnt/run || return
    shift
    python3 /cut/inside.py /mnt /cut/2.json /cut/3.json "$@"
    umount /mnt/run /mnt
}
run /dev/vda
run /dev/vdb --careless
poweroff -f
"""


def metadata(generation: int) -> dict[str, Any]:
    return {
        "generation": generation,
        "cloud": {"name": "lab"},
        "role": {"name": "web", "count": 1},
        "node": {"name": "n1", "hostname": "web-0"},
        "values": {"port": 80 + generation, "filler": "x" * 20_000},
        "health": {"node": [], "role": [], "wait": 1},
    }


def template_tree(*, later: bool) -> dict[str, str]:
    """Of the files of the earlier tree three go away; three come, and of three the mode changes."""
    files = {}
    for number in range(3 if later else 0, 23 if later else 20):
        path = f"{MANAGED}/{'deep/er/' if number % 5 == 4 else ''}f{number % 20 if number < 20 else number:02d}.conf"
        files[path] = f"file {number}: port {{{{port}}}}\n" + ("{{filler}}\n" if number % 7 == 0 else "")
        if number % 6 == 5:
            files[f"{path}.control"] = json.dumps({"mode": "0600" if later else "0640"})
    files[f"{MANAGED}/f00.conf"] = "the judge reads port {{port}}\n"
    return files


def put_templates(root: Path, *, later: bool) -> None:
    top = root / places.TEMPLATES.lstrip("/")
    shutil.rmtree(top, ignore_errors=True)
    for path, text in template_tree(later=later).items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)


def read_tree(root: Path) -> Tree:
    files = [path for path in (root / MANAGED).rglob("*") if not path.is_dir()]
    return {str(p.relative_to(root)): (p.stat().st_mode & 0o7777, p.read_bytes()) for p in files}


def rendered(root: Path, document: Document) -> Tree:
    files = render_files(LinuxHost(root), document)
    return {path.lstrip("/"): (file.mode, file.content.encode()) for path, file in files.items()}


@dataclass(frozen=True)
class Story:
    """What the agent did: generation 1 with the earlier templates is on the disk, then an instance with the later ones
    is booted, 2 is applied, and 3 is taken back.

    :param trees: the files of each stage.
    """

    disk: Path
    logs: dict[str, Path]
    documents: dict[int, Document]
    trees: dict[str, Tree]
    said: str


pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def ramdisk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as the other tests do, or taken from what they have built."""
    folder = tmp_path_factory.mktemp("site")
    state = ROOT / ".tox" / "rack"
    config = folder / "provisioner.conf"
    config.write_text(f"[DEFAULT]\nstate_dir = {state}\nrun_dir = {folder / 'run'}\nsource_dir = {ROOT}\n")
    words = [PROGRAM, "--config", str(config), "image", "build", "ramdisk", "--no-test"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return state / "images" / (state / "images" / "ramdisk.newest").read_text().strip()


@pytest.fixture(scope="module")
def story(ramdisk: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    root = folder / "root"
    documents = {}
    for generation in (1, 2, 3):
        file = folder / f"{generation}.json"
        file.write_text(json.dumps(metadata(generation)))
        documents[generation] = read_metadata(file)
    judge = root / places.PHASES.lstrip("/") / "configure.d" / "50-judge"
    judge.parent.mkdir(parents=True)
    judge.write_text(JUDGE)
    judge.chmod(0o755)
    put_templates(root, later=False)
    assert run_trial(LinuxHost(root), documents[1])["state"] == "applied"
    trees = {"before": read_tree(root)}
    put_templates(root, later=True)
    trees |= {name: rendered(root, documents[n]) for name, n in (("booted", 1), ("new", 2), ("refused", 3))}
    shutil.rmtree(root / "run")
    disk = folder / "disk.raw"
    words = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-J", "size=4", "-d", root, disk, f"{DISK_MIB}M"]
    subprocess.run(words, check=True, timeout=60)
    logs = {name: folder / f"{name}.log" for name in ("careful", "careless")}
    said = boot(ramdisk, disk, logs, folder)
    return Story(disk, logs, documents, trees, said)


def boot(ramdisk: Path, disk: Path, logs: dict[str, Path], folder: Path) -> str:
    """Run the agent in a machine with one copy of the disk for each log; what its console said."""
    stage = folder / "stage"
    (stage / "cut").mkdir(parents=True)
    unwanted = shutil.ignore_patterns("__pycache__", "tests", "*.egg-info")
    shutil.copytree(ROOT / "provisioner_agent", stage / "cut" / "provisioner_agent", ignore=unwanted)
    shutil.copytree(Path(pystache.__file__).parent, stage / "cut" / "pystache", ignore=unwanted)
    shutil.copy2(Path(__file__).with_name("powercut_inside.py"), stage / "cut" / "inside.py")
    for generation in (2, 3):
        shutil.copy2(folder / f"{generation}.json", stage / "cut")
    (stage / "init").write_text(INIT)
    (stage / "init").chmod(0o755)
    archive, initramfs, console = folder / "more.cpio", folder / "initramfs", folder / "console.log"
    with archive.open("wb") as file:
        write_cpio(stage, file)
    packed = subprocess.run(["zstd", "-q", "-3", "-c", archive], check=True, capture_output=True).stdout
    initramfs.write_bytes((ramdisk / "initramfs").read_bytes() + packed)
    words = [
        QEMU, "-machine", MACHINE, *(KVM if kvm_works(HostRunner()) else TCG), "-smp", "2", "-m", "1024",
        "-display", "none", "-nodefaults", "-no-reboot", "-kernel", ramdisk / "kernel", "-initrd", initramfs,
        "-append", "console=ttyS0,115200 quiet panic=-1", "-serial", f"file:{console}",
    ]  # fmt: skip
    for name, log in logs.items():
        image = folder / f"{name}.raw"
        shutil.copyfile(disk, image)
        log.touch()
        # The machine's flushes reach the filter, where they are logged, and need not reach this host's disk.
        for node, path in ((f"{name}-image", image), (f"{name}-log", log)):
            words += ["-blockdev", f"driver=file,node-name={node},filename={path},cache.no-flush=on"]
        words += ["-blockdev", f"driver=blklogwrites,node-name={name},file={name}-image,log={name}-log"]
        words += ["-device", f"virtio-blk-pci,drive={name}"]
    subprocess.run(words, check=True, timeout=BOOT_SECONDS, stdin=subprocess.DEVNULL)
    return console.read_text(errors="replace")


@dataclass(frozen=True)
class Job:
    """A share of the cuts for one process. ``number`` of ``WORKERS``."""

    story: Story
    log: Path
    most: int
    number: int


@dataclass(frozen=True)
class Verdict:
    """How many cuts left the journal in each state, and a mixture of files before it was settled (``found``); where the
    promise was not kept, and how (``wrong``)."""

    found: Counter[str]
    wrong: tuple[str, ...]


def prove(story: Story, log: Path, most: int) -> Verdict:
    """Cut the power in all ways that were chosen, and judge what is left."""
    with ProcessPoolExecutor(WORKERS) as pool:
        shares = list(pool.map(judge_share, [Job(story, log, most, number) for number in range(WORKERS)]))
    found: Counter[str] = sum((share.found for share in shares), Counter())
    return Verdict(found, tuple(line for share in shares for line in share.wrong))


def spread(cuts: Sequence[Cut], most: int) -> list[Cut]:
    """At most ``most`` of them, evenly."""
    if len(cuts) <= most:
        return list(cuts)
    return [cuts[number * len(cuts) // most] for number in range(most)]


def judge_share(job: Job) -> Verdict:
    logging.disable(logging.CRITICAL)
    found: Counter[str] = Counter()
    wrong: list[str] = []
    seen: set[int] = set()
    memory = Path("/dev/shm")  # elsewhere the flushes on so many disks cost minutes
    place = memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30 else None
    with job.log.open("rb") as source, tempfile.TemporaryDirectory(dir=place) as work:
        writes = list(read_log(source))
        cuts = spread(list_cuts(writes, random.Random(SEED), CHOSEN), job.most)
        replay = Replay(source, writes, job.story.disk.read_bytes())
        for cut in cuts[job.number :: WORKERS]:
            root = Path(work) / "root"
            problem = extract(replay.disk_after(cut), root)
            if problem is None:
                files = sorted(path for path in root.rglob("*") if path.is_file())
                state = hash(tuple((path, path.stat().st_mode, path.read_bytes()) for path in files))
                if state in seen:
                    found["seen before"] += 1
                    continue
                seen.add(state)
                found["mixture"] += read_tree(root) not in job.story.trees.values()
                name, problem = judge(root, job.story)
                found[name] += 1
            if problem is not None:
                wrong.append(f"{cut.flushed} entries of {len(writes)} and {len(cut.kept)} more: {problem}")
    return Verdict(found, tuple(wrong))


def extract(disk: bytes, root: Path) -> str | None:
    """The files of a file system after its journal was replayed; what is wrong with it.

    Preening mends nothing but that: what else it finds is more than a power cut may do.
    """
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    image = root.with_suffix(".raw")
    image.write_bytes(disk)
    checked = subprocess.run(["e2fsck", "-fp", image], capture_output=True, text=True, timeout=60)
    if checked.returncode > 1:
        return f"e2fsck ended with {checked.returncode}: {checked.stdout}{checked.stderr}"
    for top in ("etc", "usr", "var"):
        words = ["debugfs", "-R", f"rdump /{top} {root}", image]
        subprocess.run(words, check=True, capture_output=True, timeout=60)
    return None


def judge(root: Path, story: Story) -> tuple[str, str | None]:
    """(the state in which the journal was, what is wrong) of an instance that boots with these files."""
    record = root / journals.RECORD.lstrip("/")
    state = "no journal"
    try:
        if record.exists():
            state = json.loads(record.read_bytes())["state"]
        return state, find_fault(root, story)
    except Exception as error:  # whatever it dies of, it comes to no good end
        return state, f"{state}: {type(error).__name__}: {error}"


def find_fault(root: Path, story: Story) -> str | None:
    """Boot: early boot first, then the agent; what is wrong with what they leave."""
    host = LinuxHost(root)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run_command(["--root", str(root)], "settle")
    if code != 0:
        return f"settle ended with {code}: {said.getvalue()}"
    wanted = expected(host, story)
    left = read_tree(root)
    if left not in [story.trees[name] for name in wanted]:
        return f"the files are not those of {' or '.join(wanted)}: {mixture(left, story)}"
    record = read_record(host)
    newest = story.documents[3 if record.applied == 2 else 2]
    reports = [run_trial(host, newest) for _ in range(STARTS)]
    record = read_record(host)
    end = (reports[-1]["healthy"], record.applied, record.refused, journals.read_journal(host))
    if end != (True, 2, 3 if newest.generation == 3 else 0, None) or read_tree(root) != story.trees["new"]:
        return f"the agent came to no good end: {end}, {mixture(read_tree(root), story)}"
    return None


def expected(host: LinuxHost, story: Story) -> tuple[str, ...]:
    """What the files must be, by the record and the journal. Only the way to a new tree or back leaves a journal."""
    record, journal = read_record(host), journals.read_journal(host)
    if journal is None:
        return ("before", "booted") if record.applied == 1 else ("new",)
    name = {1: "booted", 2: "new", 3: "refused"}[journal.document.generation]
    if journal.state == journals.SWITCHED:
        return (name,)
    if (journal.state, name) != (journals.RETURNING, "refused"):
        raise ValueError(f"settle left {journal.state} to generation {journal.document.generation}")
    return ("new",)


def mixture(left: Tree, story: Story) -> str:
    """Of which tree how many files are."""
    same = {name: sum(left.get(path) == file for path, file in tree.items()) for name, tree in story.trees.items()}
    return f"{len(left)} files, of which are {same}"


def test_after_a_power_cut_the_files_are_the_old_or_the_new(story: Story) -> None:
    assert story.said.count('"state": "applied"') >= 1 and '"state": "rolled-back"' in story.said, story.said[-3000:]
    verdict = prove(story, story.logs["careful"], MOST_CUTS)
    assert verdict.wrong == ()
    for state in ("mixture", "no journal", journals.SWITCHING, journals.SWITCHED, journals.RETURNING):
        assert verdict.found[state] > 5, f"too few cuts left this to prove anything: {verdict.found}"


def test_an_agent_that_leaves_out_a_flush_is_found(story: Story) -> None:
    verdict = prove(story, story.logs["careless"], MOST_CUTS // 10)
    assert len(verdict.wrong) > 5, f"the proof above proves nothing: {verdict}"


@pytest.fixture
def intact(story: Story, tmp_path: Path) -> Path:
    """The files as they were before the machine was switched on."""
    root = tmp_path / "root"
    assert extract(story.disk.read_bytes(), root) is None
    return root


def test_a_mixture_is_found(intact: Path, story: Story) -> None:
    for path, change in (("f01.conf", "port 82\n"), ("f05.conf", None), ("f99.conf", "stray\n")):
        root = intact.with_name(f"changed-{path}")
        shutil.copytree(intact, root)
        file = root / MANAGED / path
        if change is None:
            file.chmod(0o600)
        else:
            file.write_text(change)
        state, problem = judge(root, story)
        assert state == "no journal" and problem is not None and "not those of before or booted" in problem
    assert judge(intact, story) == ("no journal", None)
