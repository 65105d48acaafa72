"""Certificates of members: real TLS between them, renewed in time, in no answer."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conductor_rack import Rack, cloud, role

from provisioner.conductor.certificates import Renewal
from provisioner.conductor.clouds import renew_metadata
from provisioner.conductor.doors import Doors
from provisioner.errors import ManifestError, NotFound
from provisioner.model.role import CertificateSpec, Config, Desired
from provisioner.plan.text import render_plan
from provisioner.trust.certificates import CERTIFICATE_DAYS, RENEW_DAYS
from provisioner_agent.render.tree import build_data

TREE = {
    "etc/web.pem": "{{certificates.web.certificate}}{{certificates.web.key}}",
    "etc/web.pem.control": '{"mode": "0600"}',
    "etc/authority.pem": "{{cloud.authority}}",
}
PLAIN = {"web": {"size": 1, "front": "192.0.2.9/24", "aliases": ["www.example.org", "*.example.org"]}}
DAY = 86400.0


def certified(count: int = 2, values: Mapping[str, Any] = PLAIN, **uses: Any) -> Desired:
    spec = CertificateSpec(also=("web.front", "web.aliases", "web.absent"))
    return cloud(count, (role(certificates={"web": spec}, config=Config(values=dict(values))),), **uses)


def ready(folder: Path, desired: Desired, nodes: int = 2) -> Rack:
    rack = Rack(folder, nodes, desired)
    rack.clock.sleep(time.time() - rack.clock.now())  # TLS knows no other clock
    rack.images.trees["web"] = TREE
    rack.enroll()
    rack.apply()
    rack.play()
    return rack


def told(rack: Rack, node: str) -> dict[str, Any]:
    generation = rack.store.clouds.newest(node)
    assert generation is not None
    return build_data(rack.store.clouds.document(generation))


def shake_hands(server: Mapping[str, Any], client: Mapping[str, Any], name: str, folder: Path) -> str:
    """Both prove who they are; the version of TLS. :raises ssl.SSLError: one does not believe the other."""
    ends, lines = [], (ssl.MemoryBIO(), ssl.MemoryBIO())
    for number, (data, side) in enumerate(((server, ssl.PROTOCOL_TLS_SERVER), (client, ssl.PROTOCOL_TLS_CLIENT))):
        context = ssl.SSLContext(side)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=data["cloud"]["authority"])
        pem = folder / f"{number}.pem"
        pem.write_text(data["certificates"]["web"]["certificate"] + data["certificates"]["web"]["key"])
        context.load_cert_chain(pem)
        way = lines if number == 0 else lines[::-1]
        ends.append(context.wrap_bio(*way, server_side=number == 0, server_hostname=name if number else None))
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    version = ends[1].version()
    assert version is not None
    return version


def test_members_prove_to_each_other_who_they_are(tmp_path: Path) -> None:
    rack = ready(tmp_path, certified())
    first, second = told(rack, "node1"), told(rack, "node2")
    assert first["certificates"]["web"]["key"] != second["certificates"]["web"]["key"]
    for name in ("web-0", first["node"]["address"], "192.0.2.9", "www.example.org", "mail.example.org"):
        assert shake_hands(first, second, name, tmp_path).startswith("TLS")
    for name in ("web-1", second["node"]["address"], "192.0.2.8"):
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(first, second, name, tmp_path)
    assert rack.conductor.cloud_authority("lab") == first["cloud"]["authority"]
    assert rack.conductor.plan(rack.desired).empty


def test_another_cloud_has_another_authority(tmp_path: Path) -> None:
    rack = ready(tmp_path, certified(1))
    stranger = ready(tmp_path / "other", certified(1))
    with pytest.raises(ssl.SSLError):
        shake_hands(told(rack, "node1"), told(stranger, "node1"), "web-0", tmp_path)


def test_a_name_that_comes_later_makes_a_new_certificate_that_the_plan_tells_of(tmp_path: Path) -> None:
    rack = ready(tmp_path, certified())
    before = told(rack, "node1")
    wanted = certified(values={"web": PLAIN["web"] | {"front": "192.0.2.10/24"}})
    plan = rack.conductor.plan(wanted)
    assert "writes /etc/web.pem" in render_plan(plan) and "authority" not in render_plan(plan)
    rack.desired = wanted
    rack.conductor.apply(plan)
    rack.play()
    after = told(rack, "node1")
    assert before["cloud"] == after["cloud"]
    assert shake_hands(after, before, "192.0.2.10", tmp_path)
    assert rack.conductor.plan(wanted).empty


def test_they_are_replaced_before_they_end(tmp_path: Path) -> None:
    rack = ready(tmp_path, certified())
    before = told(rack, "node1")
    renewal = Renewal(rack.conductor._doors, renew_metadata)
    rack.clock.sleep((CERTIFICATE_DAYS - RENEW_DAYS - 1) * DAY)
    renewal.look()
    assert told(rack, "node1") == before
    assert rack.conductor.plan(rack.desired).empty
    rack.clock.sleep(DAY)
    assert "writes /etc/web.pem" in render_plan(rack.conductor.plan(rack.desired))
    renewal.look()
    after = told(rack, "node1")
    assert after["certificates"] != before["certificates"] and after["cloud"] == before["cloud"]
    assert rack.conductor.plan(rack.desired).empty


def test_one_cloud_that_cannot_be_renewed_does_not_hold_up_the_others(tmp_path: Path) -> None:
    rack = ready(tmp_path, certified())
    second = certified(1)
    second = second.model_copy(update={"cloud": second.cloud.model_copy(update={"cloud": "a-first"})})
    renewed: list[str] = []

    def renew(doors: Doors, cloud: str) -> None:
        if cloud == "a-first":
            raise NotFound("there is no secret x, to which a value of web refers", where=cloud)
        renewed.append(cloud)

    rack.store.clouds.put(second, rack.clock.now())
    rack.store.certificates.put("a-first", rack.store.certificates.of("lab"))
    rack.clock.sleep(CERTIFICATE_DAYS * DAY)
    Renewal(rack.conductor._doors, renew).look()
    assert renewed == ["lab"]


def test_who_takes_the_name_of_one_that_went_has_another_key(tmp_path: Path) -> None:
    rack = ready(tmp_path, certified(), 3)
    before = told(rack, "node2")
    rack.conductor.release("node2", drain=False)  # what was on its disk is in other hands, say
    rack.apply()
    rack.play()
    after = told(rack, "node3")
    assert (after["node"]["hostname"], after["node"]["address"]) == ("web-1", before["node"]["address"])
    assert after["certificates"]["web"]["key"] != before["certificates"]["web"]["key"]


def test_keys_are_sealed_and_in_no_answer(tmp_path: Path) -> None:
    rack = ready(tmp_path, certified(1))
    key = told(rack, "node1")["certificates"]["web"]["key"]
    words = [line for line in key.splitlines() if "-" not in line]
    (file,) = [file for file in rack.conductor.node_files("node1").files if file.path == "/etc/web.pem"]
    assert file.content == "(certificate web)(key of certificate web)"
    wanted = certified(1, values={"web": PLAIN["web"] | {"front": "192.0.2.10/24"}})
    shown = rack.conductor.cloud_diff(wanted, None).model_dump_json() + rack.conductor.plan(wanted).model_dump_json()
    shown += str(rack.conductor.events(0, 10000))
    records = b"".join(path.read_bytes() for path in tmp_path.glob("*.db*"))
    assert len(words) > 1 and records
    for word in words:
        assert word not in shown and word.encode() not in records


def test_a_member_that_went_leaves_none_behind(tmp_path: Path) -> None:
    rack = ready(tmp_path, certified())
    assert len(rack.store.certificates.of("lab")) == 3
    rack.desired = certified(1, remove=("web-1",))
    rack.apply()
    rack.play()
    assert [slot for slot in rack.store.certificates.of("lab") if slot[0]] == [("web-0", "web")]


def test_a_cloud_without_any_is_as_before(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1, cloud(1))
    rack.enroll()
    rack.apply()
    rack.play()
    document = told(rack, "node1")
    assert "certificates" not in document and "authority" not in document["cloud"]
    assert rack.store.certificates.of("lab") == {}
    with pytest.raises(NotFound, match="the cloud has no authority"):
        rack.conductor.cloud_authority("lab")


def test_what_is_no_name_is_refused_with_its_place(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1, certified(1, values={"web": PLAIN["web"] | {"aliases": ["fine.example", "not fine"]}}))
    rack.enroll()
    with pytest.raises(ManifestError, match=r"the certificate web cannot be for web\.aliases: 'not fine' is no host"):
        rack.apply()
