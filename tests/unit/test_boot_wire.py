"""What dnsmasq's log says of nodes."""

from __future__ import annotations

from pathlib import Path

from provisioner.boot.wire import Seen, WireLog, parse_line

ACK = "dnsmasq-dhcp[3938]: DHCPACK(rack0) 10.77.0.100 52:54:00:77:00:01 \n"


def test_lines_that_are_about_a_node() -> None:
    said = "52:54:00:77:00:01 got the address 10.77.0.100 by DHCP"
    assert parse_line(ACK) == Seen("dhcp.answered", said, "10.77.0.100")
    sent = parse_line("dnsmasq-tftp[7]: sent /usr/lib/ipxe/snponly.efi to 10.77.0.100")
    assert sent == Seen("tftp.sent", "snponly.efi was sent by TFTP", "10.77.0.100")
    failed = parse_line("dnsmasq-tftp[7]: failed sending /usr/lib/ipxe/undionly.kpxe to 10.77.0.100")
    assert failed is not None and failed.kind == "tftp.failed"
    for line in (
        "dnsmasq[3938]: started, version 2.90 DNS disabled",
        "dnsmasq-dhcp[3938]: DHCPDISCOVER(rack0) 52:54:00:77:00:01 ",
        "dnsmasq-dhcp[3938]: read /run/provisioner/dnsmasq/hosts",
        "",
    ):
        assert parse_line(line) is None


def test_each_line_is_told_once_and_a_half_one_when_it_is_whole(tmp_path: Path) -> None:
    log, heard = tmp_path / "log", []
    log.write_text(ACK)
    wire = WireLog(log, heard.append)
    wire()
    assert heard == [], "what was there before is old"
    with log.open("a") as file:
        file.write(ACK + ACK[:20])
    wire()
    wire()
    assert len(heard) == 1
    with log.open("a") as file:
        file.write(ACK[20:])
    wire()
    assert len(heard) == 2
    log.write_text(ACK[:30])
    wire()
    log.write_text(ACK)
    wire()
    assert len(heard) == 3, "a log that was begun anew is read from its beginning"


def test_no_log_is_no_fault(tmp_path: Path) -> None:
    WireLog(tmp_path / "log", lambda seen: None)()
