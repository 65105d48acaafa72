"""Folders to work in: gone when the work ends, swept when the process was killed, never taken from one that runs."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from provisioner.system.scratch import available_memory, held_folder, sweep_folders

HOLD = """
import sys
from pathlib import Path
from provisioner.system.scratch import held_folder
with held_folder(Path(sys.argv[1]), "build."):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_goes_with_its_block_and_is_not_swept_before(tmp_path: Path) -> None:
    with held_folder(tmp_path / "work", "build.") as folder:
        (folder / "file").touch()
        assert sweep_folders(tmp_path / "work", "build.") == []
        assert folder.is_dir()
    assert list((tmp_path / "work").iterdir()) == []


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert sweep_folders(tmp_path, "build.") == []
        process.kill()
        process.wait(timeout=10)
    (tmp_path / "other").mkdir()
    assert len(sweep_folders(tmp_path, "build.")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_memory_is_what_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:     2048 kB\n")
    assert available_memory(tmp_path / "meminfo") == 2 << 20
    assert available_memory(tmp_path / "none") == 0


def test_a_folder_that_was_just_made_is_not_swept_before_it_is_held(tmp_path: Path) -> None:
    """Two builds of one process: while one makes its folder, the other removes what it takes for left over."""
    end = threading.Event()

    def sweep() -> None:
        while not end.is_set():
            sweep_folders(tmp_path, "work.")

    sweepers = [threading.Thread(target=sweep) for _ in range(3)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        for _ in range(500):
            with held_folder(tmp_path, "work.") as folder:
                (folder / "file").write_text("mine")
                assert (folder / "file").read_text() == "mine"
    finally:
        end.set()
        for sweeper in sweepers:
            sweeper.join()
    assert list(tmp_path.iterdir()) == []
