"""Metadata in parts: joined as they were, and only what an agent does not have travels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conductor_rack import Rack, cloud

from provisioner_agent.instance.document import BadDocument, parse_document
from provisioner_agent.protocol.parts import join_parts, part_id, write_part

MEMBERS = {"members": {"web": [{"hostname": "web-0", "address": "10.0.0.1"}, {"hostname": "web-1", "address": "::2"}]}}
ROLE: dict[str, Any] = {"values": {"size": 1}, "role": {"name": "web"}}
OWN: dict[str, Any] = {"node": {"hostname": "web-1"}, "secrets": {}}


def test_a_document_is_joined_and_each_node_finds_itself() -> None:
    joined = join_parts(OWN | {"parts": ["r", "m"]}, (ROLE, MEMBERS))
    assert joined == ROLE | OWN | {
        "members": {
            "web": [
                {"hostname": "web-0", "address": "10.0.0.1", "self": False},
                {"hostname": "web-1", "address": "::2", "self": True},
            ]
        }
    }
    assert "self" not in MEMBERS["members"]["web"][0], "a part is everybody's"


def test_the_id_of_a_part_is_of_its_content() -> None:
    one, same = write_part({"a": 1, "b": [2]}), write_part({"b": [2], "a": 1})
    assert part_id(one) == part_id(same) != part_id(write_part({"a": 1, "b": [3]}))


def test_a_part_that_is_neither_sent_nor_kept_makes_the_answer_a_bad_one() -> None:
    answer = {"generation": 2, "metadata": OWN | {"parts": ["r", "m"]}, "parts": {"r": ROLE}}
    known = parse_document(answer, {"m": MEMBERS})
    assert known is not None and known.body["values"] == {"size": 1} and len(known.body["members"]["web"]) == 2
    with pytest.raises(BadDocument, match="KeyError"):
        parse_document(answer)


def test_what_a_cloud_has_in_common_is_on_record_once_and_what_nobody_needs_goes(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 3)
    rack.enroll()
    rack.apply()
    rack.play()
    before = {rack.store.clouds.newest(name).parts for name in rack.servers}  # type: ignore[union-attr]
    assert len(before) == 1
    rack.apply(cloud(3, values={"web": {"size": 4}}))
    rack.play()
    after = {rack.store.clouds.newest(name).parts for name in rack.servers}  # type: ignore[union-attr]
    ((role, members),), ((newer, same),) = before, after
    assert members == same and role != newer
    assert rack.store.parts.get(newer)["values"]["web"]["size"] == 4
    assert rack.store.parts.text(role), "it was in force when the other one came"
    rack.apply(cloud(3, values={"web": {"size": 5}}))
    rack.restart()
    with pytest.raises(KeyError):
        rack.store.parts.text(role)
    assert rack.store.parts.text(newer), "it is in force still"
    assert {server.applied for server in rack.servers.values()} == {2}
