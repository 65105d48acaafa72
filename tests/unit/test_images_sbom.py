"""The parts list: licences as SPDX names them, a document that is the same for the same parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provisioner.images.sbom import Part, parse_licence, read_parts, render_sbom, used_parts
from provisioner.system.run import FakeRunner

CASES = Path(__file__).parent / "cases" / "licences"
BASH = Part("bash", "5.2.15-2+b7", "amd64", "bash", "GPL-3.0-or-later")
OWN = Part("g++", "4:12.2", "amd64", "gcc-defaults", "LicenseRef-own")


@pytest.mark.parametrize("case", sorted(CASES.glob("*.copyright")), ids=lambda path: path.stem)
def test_licences(case: Path) -> None:
    assert parse_licence(case.read_text()) == case.with_suffix(".expected").read_text().strip()


def test_packages_and_their_licences_are_read_from_the_tree(tmp_path: Path) -> None:
    doc = tmp_path / "usr/share/doc"
    (doc / "bash").mkdir(parents=True)
    (doc / "bash/copyright").write_text("see /usr/share/common-licenses/GPL-3.\n")
    (doc / "sh").symlink_to("/etc")
    runner = FakeRunner({"dpkg-query": (0, "sh 1 all sh\nbash 5.2.15-2+b7 amd64 bash\n\n")})
    bash, sh = read_parts(tmp_path, runner)
    assert (bash.name, bash.licence, sh.licence) == ("bash", "GPL-3.0-only", "NOASSERTION")


def test_the_document_names_every_part_and_every_licence_that_spdx_does_not_know() -> None:
    text = render_sbom("galera", [BASH, OWN], "provisioner-1")
    document = json.loads(text)
    assert [package["name"] for package in document["packages"]] == ["bash", "g++"]
    assert document["packages"][0]["licenseDeclared"] == "GPL-3.0-or-later"
    assert document["packages"][1]["SPDXID"] == "SPDXRef-g-2b--2b-"
    purls = [package["externalRefs"][0]["referenceLocator"] for package in document["packages"]]
    assert purls == ["pkg:deb/debian/bash@5.2.15-2%2Bb7?arch=amd64", "pkg:deb/debian/g%2B%2B@4%3A12.2?arch=amd64"]
    assert [info["licenseId"] for info in document["hasExtractedLicensingInfos"]] == ["LicenseRef-own"]
    assert text == render_sbom("galera", [BASH, OWN], "provisioner-1")
    assert (
        document["documentNamespace"] != json.loads(render_sbom("galera", [BASH], "provisioner-1"))["documentNamespace"]
    )


def test_a_ramdisk_has_the_parts_that_files_were_taken_from(tmp_path: Path) -> None:
    info, taken = tmp_path / "tree/var/lib/dpkg/info", tmp_path / "taken"
    info.mkdir(parents=True)
    (taken / "bin").mkdir(parents=True)
    (taken / "bin/bash").touch()
    (taken / "bin/g++").symlink_to("bash")
    (info / "bash.list").write_text("/.\n/bin\n/bin/bash\n")
    (info / "g++:amd64.list").write_text("/.\n/bin\n/bin/g++\n")
    assert used_parts([BASH, OWN], tmp_path / "tree", taken) == [BASH]
