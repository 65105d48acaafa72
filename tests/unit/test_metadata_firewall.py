"""Firewalls as data: what becomes of a role's rules in the metadata of its members, and in their file of nft."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from casefile import split_case
from firewalls import build_document, parse, render_firewall, think_members
from hypothesis import given
from hypothesis import strategies as st

from provisioner.manifest.values import build_shared
from provisioner.model.firewall import Firewall, join_ports, parse_ports
from provisioner.model.role import Desired
from provisioner.plan.values import diff_shared

CASES = sorted((Path(__file__).parent / "cases" / "firewall").glob("*.case"))
GALERA = {
    name: text
    for name, text in split_case(next(case for case in CASES if case.stem == "galera").read_text()).items()
    if name.endswith(".yaml")
}


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(case: Path) -> None:
    files = split_case(case.read_text())
    expected = {name: files.pop(name) for name in list(files) if name.startswith("expect.")}
    desired = parse(files)
    assert expected, "what becomes of the case is not written down"
    for name, text in expected.items():
        role = name.removeprefix("expect.").removesuffix(".nft")
        bare = desired.roles[role].model_copy(update={"firewall": Firewall()})
        use = desired.cloud.roles[role].model_copy(update={"firewall": ()})
        cloud = desired.cloud.model_copy(update={"roles": {**desired.cloud.roles, role: use}})
        without = desired.model_copy(update={"roles": {**desired.roles, role: bare}, "cloud": cloud})
        base, found = (lines(render_firewall(build_document(d, role)).content) for d in (without, desired))
        at, rules, said = base.index("chain input {"), base.index('counter comment "dropped"'), lines(text)
        split = next((number for number, line in enumerate(said) if "accept" in line), len(said))
        assert found == [*base[:at], *said[:split], *base[at:rules], *said[split:], *base[rules:]]


def test_the_order_of_members_makes_no_difference_and_only_addresses_of_members_are_in() -> None:
    desired = parse(GALERA)
    members = think_members(desired)
    text = render_firewall(build_document(desired, "galera", members)).content
    assert text == render_firewall(build_document(desired, "galera", members[::-1])).content
    fewer = render_firewall(build_document(desired, "galera", [m for m in members if m.hostname != "galera-1"])).content
    assert "10.0.0.10" in text and "10.0.0.10" not in fewer and "10.0.0.11" in fewer


def test_metadata_without_a_firewall_keep_nobody_out() -> None:
    document = build_document(parse(GALERA), "galera")
    del document["firewall"]
    found = lines(render_firewall(document).content)
    assert found[-2:] == ["table inet provisioner", "delete table inet provisioner"]


def test_the_file_is_checked_by_nft_reloads_its_service_and_is_taken_back_when_the_node_is_cut_off() -> None:
    file = render_firewall(build_document(parse(GALERA), "galera"))
    assert (file.validate, dict(file.services), file.confirm) == (
        ("nft", "-c", "-f", "{path}"),
        {"nftables.service": "reload"},
        True,
    )


def test_a_plan_tells_each_rule_by_itself_and_not_who_the_members_are() -> None:
    desired = parse(GALERA)
    before = build_shared(desired, "galera", {})
    changed = GALERA["galera.yaml"].replace(
        "{role: web}, protocol: tcp, ports: [3306]", "any, protocol: tcp, ports: [3306]"
    )
    more = GALERA["cloud.yaml"].replace("count: 2", "count: 5")
    after = build_shared(parse(GALERA | {"galera.yaml": changed, "cloud.yaml": more}), "galera", {})
    told = [(change.path, change.old, change.new) for change in diff_shared(before, after)]
    assert told == [
        ("role.firewall.tcp 3306 from any", None, ""),
        ("role.firewall.tcp 3306 from role web", "", None),
    ]
    assert "firewall" not in build_shared(Desired.model_validate(_unmanaged(desired)), "web", {})["role"]


def _unmanaged(desired: Desired) -> dict[str, object]:
    """As an older service put it on record."""
    old = desired.model_dump(mode="json")
    old["roles"] = {name: {k: v for k, v in found.items() if k != "firewall"} for name, found in old["roles"].items()}
    del old["cloud"]["firewall"]
    for use in old["cloud"]["roles"].values():
        del use["firewall"]
    return old


def test_what_is_on_record_is_read_again() -> None:
    desired = parse(GALERA)
    assert Desired.model_validate_json(desired.model_dump_json()) == desired
    assert Desired.model_validate(desired.model_dump(mode="json")) == desired


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), max_size=8))
def test_ports_are_joined_and_none_is_lost_or_added(found: list[tuple[int, int]]) -> None:
    ports = tuple(first if not more else f"{first}-{first + more}" for first, more in found)
    joined = [parse_ports(port) for port in join_ports(ports)]
    wanted = {port for first, more in found for port in range(first, first + more + 1)}
    assert {port for first, last in joined for port in range(first, last + 1)} == wanted
    assert all(before[1] + 1 < after[0] for before, after in pairwise(joined))
