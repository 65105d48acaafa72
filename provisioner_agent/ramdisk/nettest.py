"""The order ``test-network``: cables, speeds, counters of errors, and a file fetched over and over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provisioner_agent.ramdisk.download import Away, Source
from provisioner_agent.ramdisk.hardware import read_nics
from provisioner_agent.ramdisk.host import Host
from provisioner_agent.ramdisk.patience import Patience
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.progress import Meter
from provisioner_agent.ramdisk.verdict import DEGRADED, FAILED, PASSED, Finding, conclude

FETCH_SECONDS = 10.0
MOST_FETCHES = 20
BUFFER = 1 << 20
COUNTERS = ("rx_crc_errors", "rx_frame_errors", "rx_length_errors", "tx_carrier_errors", "collisions")
"""Errors that a bad cable, plug or port makes (Linux, networking/statistics); dropped packets may have other causes."""
MB = 1_000_000


def do_test_network(host: Host, source: Source, order: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
    """:param order: ``macs``: of ports that should be there. ``image``, ``name``, ``size``, ``sha256``: the file."""
    before = _errors(host)
    meter.begin("network", MOST_FETCHES * int(order["size"]))
    fetched = list(_fetch(host, source, order, meter))
    nics = read_nics(host)
    for nic in nics:
        nic["half"] = host.read_text(f"/sys/class/net/{nic['name']}/duplex") == "half"
    return conclude([*compare(nics, order["macs"]), *_news(before, _errors(host)), *fetched], "")


def compare(nics: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> Iterator[Finding]:
    """What is wrong with how the ports are plugged in. :param wanted: MACs of the ports that the node should have."""
    known = {nic["mac"]: nic for nic in nics}
    for mac in wanted:
        if mac not in known:
            yield Finding(FAILED, f"the port {mac} is not there")
        elif not known[mac]["link"]:
            yield Finding(FAILED, f"{known[mac]['name']}: {mac} has no link")
    for nic in (nic for nic in nics if nic["link"]):
        fastest = max(other["speed"] for other in nics if other["driver"] == nic["driver"])
        if 0 < nic["speed"] < fastest:
            yield Finding(DEGRADED, f"{nic['name']}: {nic['speed']} Mbit/s, another of its kind has {fastest}")
        if nic["half"]:
            yield Finding(DEGRADED, f"{nic['name']}: half duplex")
    linked = sum(1 for nic in nics if nic["link"])
    yield Finding(PASSED, f"{linked} of {len(nics)} ports have a link")


def _errors(host: Host) -> dict[str, int]:
    """By ``NIC counter``."""
    found = {}
    for nic in read_nics(host):
        for counter in COUNTERS:
            text = host.read_text(f"/sys/class/net/{nic['name']}/statistics/{counter}")
            found[f"{nic['name']} {counter}"] = int(text) if text.isdigit() else 0
    return found


def _news(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[Finding]:
    for name, count in after.items():
        if count > before.get(name, 0):
            nic, _, counter = name.partition(" ")
            yield Finding(DEGRADED, f"{nic}: {count - before.get(name, 0)} {counter} while a file was fetched")


def _fetch(host: Host, source: Source, order: Mapping[str, Any], meter: Meter) -> Iterator[Finding]:
    """Until the time is over; what comes must be what was sent."""
    begun, patience, buffer = host.monotonic(), Patience(host), bytearray(BUFFER)
    times = breaks = 0
    while times + breaks < MOST_FETCHES and (times == 0 or host.monotonic() - begun < FETCH_SECONDS):
        digest = hashlib.sha256()
        try:
            body = source.open(order["image"], order["name"], 0, None)
            try:
                while count := body.readinto(memoryview(buffer)):
                    digest.update(memoryview(buffer)[:count])
                    meter.add(count)
                    patience.heard()
            finally:
                body.close()
        except Away as error:
            breaks += 1
            try:
                patience.wait(str(error))
            except OrderFailed as given_up:
                yield Finding(FAILED, str(given_up))
                return
            continue
        times += 1
        if digest.hexdigest() != order["sha256"]:
            yield Finding(FAILED, "what came over the network is not what was sent")
            return
    if breaks:
        verdict = DEGRADED if times else FAILED
        yield Finding(verdict, f"{breaks} connections to the server broke")
    rate = times * int(order["size"]) / max(host.monotonic() - begun, 1e-9)
    yield Finding(PASSED, f"{rate / MB:.0f} MB/s from the server")
