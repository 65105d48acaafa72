"""dnsmasq is started, told of new ports, found again and started again; the scripts that iPXE gets."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from provisioner.boot.dnsmasq import Dnsmasq, render_config, render_hosts
from provisioner.boot.ipxe import TRIES, render_boot_script, render_local_script
from provisioner.errors import HostError
from provisioner.events import RecordingObserver
from provisioner.store.nodes import PortRecord
from provisioner.system.daemon import FakeDaemons
from provisioner.system.settings import Settings
from provisioner.trust.ca import ensure_ca
from provisioner.trust.keys import new_token
from provisioner_agent.protocol.servers import read_authority

PORT = PortRecord("52:54:00:00:00:01", "n1", "10.0.0.100")


class Bench:
    def __init__(self, folder: Path) -> None:
        self.settings = Settings(run_dir=folder, interface="eth1", address="10.0.0.1/24", http_port=8080)
        self.daemons = FakeDaemons()
        self.ports = [PORT]
        self.observer = RecordingObserver()

    def open(self) -> Dnsmasq:
        return Dnsmasq(self.settings, lambda: self.ports, self.daemons, self.observer)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_it_is_started_once_and_told_of_new_ports(bench: Bench) -> None:
    dnsmasq = bench.open()
    dnsmasq.ensure()
    dnsmasq.ensure()
    assert len(bench.daemons.started) == 1 and bench.daemons.reloaded == []
    bench.ports.append(PortRecord("52:54:00:00:00:02", "n2", None))
    dnsmasq.ensure()
    assert bench.daemons.reloaded == []  # a port without an address is nothing to DHCP
    bench.ports.append(PortRecord("52:54:00:00:00:03", "n3", "10.0.0.101"))
    dnsmasq.ensure()
    assert len(bench.daemons.reloaded) == 1
    assert (bench.settings.run_dir / "dnsmasq" / "hosts").read_text() == (
        "52:54:00:00:00:01,10.0.0.100\n52:54:00:00:00:03,10.0.0.101\n"
    )


def test_a_service_that_was_killed_finds_it_again(bench: Bench) -> None:
    bench.open().ensure()
    bench.open().ensure()
    assert len(bench.daemons.started) == 1


def test_one_that_died_is_started_again_and_its_last_words_are_told(bench: Bench) -> None:
    dnsmasq = bench.open()
    dnsmasq.ensure()
    dnsmasq.log.write_text("dnsmasq: unknown interface eth1\n")
    bench.daemons.running.clear()
    with pytest.raises(HostError, match="unknown interface eth1"):
        dnsmasq.ensure()
    assert len(bench.daemons.started) == 2
    dnsmasq.ensure()


def test_another_configuration_needs_another_process(bench: Bench) -> None:
    bench.open().ensure()
    bench.settings = Settings(run_dir=bench.settings.run_dir, interface="eth2", address="10.0.0.1/24")
    dnsmasq = bench.open()
    dnsmasq.ensure()
    assert len(bench.daemons.started) == 2 and len(bench.daemons.running) == 1
    dnsmasq.stop()
    assert bench.daemons.running == {}
    dnsmasq.stop()


def test_the_configuration_answers_ports_on_record_only(tmp_path: Path) -> None:
    settings = Settings(interface="eth1", address="10.0.0.1/24", http_port=8081)
    lines = render_config(settings, tmp_path).splitlines()
    assert "dhcp-ignore=tag:!known" in lines and "port=0" in lines and "interface=eth1" in lines
    assert "dhcp-boot=tag:ipxe,http://10.0.0.1:8081/boot/${netX/mac:hexhyp}" in lines
    assert render_hosts([]) == ""


@pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq is not installed")
def test_dnsmasq_itself_accepts_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "dnsmasq.conf"
    path.write_text(render_config(Settings(interface="lo", address="127.0.0.1/8"), tmp_path))
    done = subprocess.run(["dnsmasq", "--test", f"--conf-file={path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


AUTHORITY = "-----BEGIN CERTIFICATE-----\nAAAB\n-----END CERTIFICATE-----\n"


def test_a_certificate_fits_on_the_kernels_command_line(tmp_path: Path) -> None:
    script = render_boot_script(
        url="http://192.168.100.200:8080",
        services=[f"https://192.168.100.{number}:8081" for number in range(100, 110)],
        authority=ensure_ca(tmp_path).read_text(),
        token=new_token(),
        mac="52:54:00:00:00:01",
        address="192.168.100.100/24",
        image="ramdisk-0123456789ab",
        now=1_700_000_000.0,
    )
    kernel = next(line for line in script.splitlines() if line.startswith("kernel "))
    assert len(kernel) < 2047, "of the x86 boot protocol"


def test_the_boot_script_carries_what_the_ramdisk_needs() -> None:
    script = render_boot_script(
        url="http://10.0.0.1:8080",
        services=("http://10.0.0.1:8080", "http://10.0.0.2:8080"),
        authority=AUTHORITY,
        now=1_700_000_000.4,
        token="id.secret",
        mac="52:54:00:00:00:01",
        address="10.0.0.100/24",
        image="ramdisk-1",
    )
    assert script.startswith("#!ipxe\n")
    kernel = next(line for line in script.splitlines() if line.startswith("kernel "))
    assert kernel.split()[1] == "http://10.0.0.1:8080/images/ramdisk-1/kernel"
    for word in (
        "provisioner.url=http://10.0.0.1:8080,http://10.0.0.2:8080",
        "provisioner.token=id.secret",
        "provisioner.clock=1700000000",
        "provisioner.mac=52:54:00:00:00:01",
        "provisioner.address=10.0.0.100/24",
        "initrd=initramfs",
    ):
        assert word in kernel.split()
    packed = next(word.partition("=")[2] for word in kernel.split() if word.startswith("provisioner.ca="))
    assert read_authority(packed) == AUTHORITY
    labels = [line[1:] for line in script.splitlines() if line.startswith(":")]
    assert len(set(labels)) == TRIES == script.count("\nkernel ")
    assert all(f"goto {label}" in script for label in labels)


def test_a_node_that_nothing_is_due_to_goes_on_to_its_disk() -> None:
    assert render_local_script().startswith("#!ipxe\n")
    assert render_local_script().splitlines()[-1] == "exit 1"
