"""Every file in cases/manifest: what is wrong in it is found, all of it, at its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from casefile import parse_case, split_case

from provisioner.cli.desired import read_desired
from provisioner.errors import ManifestError
from provisioner.manifest.hardware import parse_hardware
from provisioner.system.settings import Settings

CASES = sorted((Path(__file__).parent / "cases" / "manifest").glob("*.case"))
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(case: Path) -> None:
    files = split_case(case.read_text())
    expected = sorted(files.pop("expect").splitlines())
    found: list[str] = []
    try:
        if "cloud.yaml" in files:
            parse_case(files)
        else:
            parse_hardware(files)
    except ManifestError as error:
        found = sorted(map(str, error.problems))
    assert found == expected


def test_the_files_that_we_ship_are_accepted() -> None:
    hardware = {str(path): path.read_text() for path in sorted((ROOT / "hardware").glob("*.yaml"))}
    names = [f"a{number:02}" for number in range(1, 19)]
    racks = [f"node{number}" for number in (1, 2, 3, 11, 12, 13, 14, 15, 16)]
    assert [spec.name for spec in parse_hardware(hardware)] == [*names, *racks]
    desired = read_desired(ROOT / "cloud-lab.yaml", Settings(source_dir=ROOT))
    assert desired.cloud.roles["galera"].count == 3
    assert desired.place("roles.galera.count").startswith(f"{ROOT}/cloud-lab.yaml:")
    overcloud = read_desired(ROOT / "cloud-overcloud.yaml", Settings(source_dir=ROOT)).cloud
    assert {name: use.count for name, use in overcloud.roles.items()} == {"galera": 3, "controller": 1, "compute": 1}


def test_mac_addresses_are_lower_case_whatever_was_written() -> None:
    files = split_case(next(case for case in CASES if case.stem == "hardware-accepted").read_text())
    first, second = parse_hardware({"hardware.yaml": files["hardware.yaml"]})
    assert first.ports[0].mac == "52:54:00:12:34:56"
    assert second.ports[0].mac == "52:54:00:ab:cd:ef"
    assert (first.bmc.username, second.bmc.username) == ("admin", "root")


def test_a_range_is_as_many_nodes_as_it_says() -> None:
    files = split_case(next(case for case in CASES if case.stem == "hardware-ranges").read_text())
    specs = parse_hardware({"hardware.yaml": files["hardware.yaml"]})
    assert [spec.name for spec in specs][::15] == ["a01", "a16"]
    assert [spec.bmc.address for spec in specs][9:12] == ["10.0.4.20", "10.0.4.22", "10.0.4.30"]
    assert [spec.ports[0].mac[-2:] for spec in specs][:7] == ["0a", "0b", "0c", "0d", "0e", "0f", "10"]
    assert [spec.location.unit for spec in specs] == list(range(1, 17))
