"""Only what the site has signed for this node comes into force; checked by the real openssl."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioner.trust.keys import MetadataKey
from provisioner_agent.instance.collect import Box, Collector
from provisioner_agent.instance.document import BadDocument, Document, parse_document
from provisioner_agent.instance.host import LinuxHost
from provisioner_agent.instance.signature import Verifier
from provisioner_agent.protocol.link import FakeLink
from provisioner_agent.protocol.parts import part_id, write_part

PART = {"values": {"port": 80}}
IDENT = part_id(write_part(PART))


class Site:
    """A server with a key, and the agent of node1."""

    def __init__(self, folder: Path) -> None:
        self.key = MetadataKey.ensure(folder / "keys")
        self.host = LinuxHost(folder / "root")
        self.folder = folder

    def answer(self, generation: int = 3, node: str = "node1", **changes: Any) -> dict[str, Any]:
        own = {"generation": generation, "node": {"name": node, "hostname": "web-0"}, "parts": [IDENT]} | changes
        signature = base64.b64encode(self.key.sign(write_part(own).encode())).decode()
        return {"generation": generation, "metadata": own, "signature": signature, "parts": {IDENT: PART}}

    def verifier(self, **config: Any) -> Verifier:
        return Verifier(self.host, {"signer": self.key.public_key_pem, "node": "node1"} | config)

    def check(self, answer: Mapping[str, Any], **config: Any) -> Document:
        document = parse_document(json.loads(json.dumps(answer)))
        assert document is not None
        self.verifier(**config).check(document, answer.get("signature"))
        return document


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_what_the_site_signed_holds_and_nothing_stays_behind(site: Site) -> None:
    assert site.check(site.answer(text="grün ☃")).body["values"] == {"port": 80}
    assert list((site.folder / "root/run/provisioner-agent/check").iterdir()) == []


def test_what_was_changed_on_the_way_does_not(site: Site) -> None:
    answer = site.answer()
    changed = answer | {"metadata": answer["metadata"] | {"secrets": {"x": "y"}}}
    part = answer | {"parts": {IDENT: {"values": {"port": 81}}}}
    later = answer | {"generation": 4}
    for bad, why in ((changed, "not signed"), (part, "named after"), (later, "says that it is 3")):
        with pytest.raises(BadDocument, match=why):
            site.check(bad)
    for signature in ("", "no base64!", base64.b64encode(b"x" * 70).decode(), None, 5):
        with pytest.raises(BadDocument, match="not signed"):
            site.check(answer | {"signature": signature})


def test_another_site_or_another_nodes_does_not(site: Site, tmp_path: Path) -> None:
    with pytest.raises(BadDocument, match="not signed"):
        site.check(Site(tmp_path / "other").answer())
    with pytest.raises(BadDocument, match="is for the node node2, and this is node1"):
        site.check(site.answer(node="node2"))


def test_an_instance_of_a_site_that_signed_nothing_goes_on(site: Site) -> None:
    answer = site.answer()
    del answer["signature"]
    assert site.check(answer, signer="").generation == 3


def test_a_collector_keeps_the_last_good_one_and_says_why(site: Site) -> None:
    answers = [
        site.answer(3),
        site.answer(4) | {"signature": site.answer(5)["signature"]},
        site.answer(2),
        site.answer(5),
    ]
    link = FakeLink(lambda method, target, body: json.loads(json.dumps(answers.pop(0))))
    box = Box()
    collector = Collector(site.host, link, box, random.Random(1), site.verifier())
    seen = []
    for _ in range(4):
        collector.step()
        seen.append((box.generation, box.problem))
    assert [generation for generation, _ in seen] == [3, 3, 3, 5]
    assert "generation 4 is not signed by this site" in str(seen[1][1])
    assert "generation 2, older than 3" in str(seen[2][1]) and seen[3][1] is None
