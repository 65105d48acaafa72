"""What seed/bootstrap does a second time on the same host. Its functions are taken alone, with folders of the test."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def bootstrap(folder: Path, words: str) -> subprocess.CompletedProcess[str]:
    """:param words: of bash, with the script's functions."""
    places = f"config={folder}/etc/provisioner.conf state_dir={folder}/state run_dir={folder}/run venv={folder}/venv"
    script = f"source {ROOT}/seed/bootstrap; {places}; source_dir={folder}/source; bundle={folder}; {words}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30)


def test_what_an_operator_wrote_into_the_configuration_stays(tmp_path: Path) -> None:
    write = "write_config '# real' eno2 10.0.0.1/24 10.0.0.100"
    assert bootstrap(tmp_path, f"{write} 10.0.0.199").returncode == 0
    path = tmp_path / "etc" / "provisioner.conf"
    first = path.read_text()
    assert "[network]\ninterface = eno2\naddress = 10.0.0.1/24\n" in first
    more = first + "service = 10.0.0.2\n\n[operators]\nlisten = 10.0.0.1:8443\n"
    path.write_text(more)
    assert bootstrap(tmp_path, f"{write} 10.0.0.199").returncode == 0
    assert path.read_text() == more
    assert bootstrap(tmp_path, f"{write} 10.0.0.150").returncode == 0
    assert path.read_text() == more.replace("10.0.0.199", "10.0.0.150")


def test_a_configuration_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    assert bootstrap(tmp_path, "write_config '# lab' a b c d").returncode == 0
    path = tmp_path / "etc" / "provisioner.conf"
    before = path.read_text()
    done = bootstrap(tmp_path, "write_config '# real' e f g h")
    assert done.returncode == 1 and "says something else" in done.stderr and path.read_text() == before
    path.write_text("# lab\n[DEFAULT]\n")
    done = bootstrap(tmp_path, "write_config '# lab' a b c d")
    assert done.returncode == 1 and f"write: source_dir = {tmp_path}/source" in done.stderr


def test_packages_come_from_the_bundle_that_the_source_came_in(tmp_path: Path) -> None:
    write = "write_config '# real' a b c d"
    path = tmp_path / "etc" / "provisioner.conf"
    bootstrap(tmp_path, write)
    assert "apt_sources" not in path.read_text()
    (tmp_path / "wheels").mkdir()
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "Packages").write_text("")
    for _ in range(2):
        assert bootstrap(tmp_path, write).returncode == 0
        assert path.read_text().count(f"source_dir = {tmp_path}/source\napt_sources = {tmp_path}/sources.list\n") == 1
    path.write_text(path.read_text().replace(f"{tmp_path}/sources.list", f"{tmp_path}/gone/sources.list"))
    assert bootstrap(tmp_path, write).returncode == 0 and f"apt_sources = {tmp_path}/sources.list\n" in path.read_text()
    (tmp_path / "etc" / "mirror.list").write_text("")
    own = path.read_text().replace(f"{tmp_path}/sources.list", f"{tmp_path}/etc/mirror.list")
    path.write_text(own)
    assert bootstrap(tmp_path, write).returncode == 0 and path.read_text() == own, "a mirror that the operator named"
    path.write_text(own.replace(f"{tmp_path}/etc/mirror.list", f"{tmp_path}/sources.list"))
    (tmp_path / "wheels").rmdir()
    before = path.read_text()
    done = bootstrap(tmp_path, write)
    assert done.returncode == 1 and "which is not there" in done.stderr and path.read_text() == before
    (tmp_path / "sources.list").write_text("")
    assert bootstrap(tmp_path, write).returncode == 0 and path.read_text() == before


def test_a_newer_program_and_another_configuration_are_seen(tmp_path: Path) -> None:
    for name in ("provisioner", "provisioner_agent"):
        (tmp_path / "source" / name).mkdir(parents=True)
        (tmp_path / "source" / name / "main.py").write_text("old")
    (tmp_path / "state").mkdir()
    assert bootstrap(tmp_path, "write_config '# lab' a b c d; source_state >$state_dir/served").returncode == 0

    def same() -> bool:
        return bootstrap(tmp_path, "serves_this_source").returncode == 0

    assert same()
    for path, text in (("source/provisioner/main.py", "old"), ("etc/provisioner.conf", "# lab")):
        kept = (tmp_path / path).read_text()
        assert kept.startswith(text)
        (tmp_path / path).write_text(kept + "new")
        assert not same()
        (tmp_path / path).write_text(kept)
        assert same()


def test_the_end_of_a_lab_leaves_a_seed_in_a_machine_alone(tmp_path: Path) -> None:
    for name in ("seed-vm/disk.qcow2", "images/one/manifest"):
        (tmp_path / "state" / name).parent.mkdir(parents=True)
        (tmp_path / "state" / name).write_text("")
    done = bootstrap(tmp_path, "lab_down")
    assert done.returncode == 0 and "kept:" in done.stdout
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["seed-vm"]
    assert (tmp_path / "state" / "seed-vm" / "disk.qcow2").exists()
    (tmp_path / "state" / "seed-vm" / "disk.qcow2").unlink()
    (tmp_path / "state" / "seed-vm").rmdir()
    assert bootstrap(tmp_path, "lab_down").returncode == 0 and not (tmp_path / "state").exists()
