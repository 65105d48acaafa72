"""Hardware tests: what they find in machines that are well, and in those that are not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner_agent.ramdisk import burn
from provisioner_agent.ramdisk.burnin import do_test_cpu, do_test_memory, memory_to_test
from provisioner_agent.ramdisk.disktest import PIECE, PIECES, do_test_disk, places
from provisioner_agent.ramdisk.download import Away
from provisioner_agent.ramdisk.fakehost import FakeHost
from provisioner_agent.ramdisk.host import BlockFile, Finished, LinuxHost
from provisioner_agent.ramdisk.nettest import do_test_network
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.progress import NoMeter
from provisioner_agent.ramdisk.smart import parse_smart

CASES = Path(__file__).parent / "cases" / "smart"
SMART_CASES = sorted(CASES.glob("*.json"))
MEMINFO = "MemTotal: 4000000 kB\nMemAvailable: 3000000 kB\n"
WELL = "done 7\ndone 7\n"


# The program that loads the machine.


def test_every_processor_reckons_the_known_sum() -> None:
    said: list[str] = []
    burn.burn_cpu(0, said.append)
    assert said == ["done 1"]


def test_a_wrong_sum_is_a_fault() -> None:
    said: list[str] = []
    times = iter(range(100))
    burn.burn_cpu(9, said.append, monotonic=lambda: float(next(times)), known="00000000")
    assert [line.split()[0] for line in said] == ["fault"] * burn.MOST_FAULTS + ["done"]
    assert "instead of 00000000" in said[0]


class Broken(bytearray):
    """Memory that is not what it seems: ``stuck`` bytes read as something else, ``alias`` blocks are one."""

    stuck: Callable[[int, bytes], bytes] = staticmethod(lambda at, data: data)
    alias = False

    def _at(self, where: slice) -> slice:
        return slice(where.start % burn.BLOCK, where.start % burn.BLOCK + burn.BLOCK) if self.alias else where

    def __getitem__(self, where: slice) -> bytes:  # type: ignore[override]
        return self.stuck(where.start, bytes(super().__getitem__(self._at(where))))

    def __setitem__(self, where: slice, value: bytes) -> None:  # type: ignore[override]
        super().__setitem__(self._at(where), value)


def burnt(memory: Broken) -> list[str]:
    said: list[str] = []
    burn.burn_memory(memory, said.append)
    return said


def test_memory_that_holds_what_is_written_has_no_fault() -> None:
    size = 3 * burn.BLOCK
    said = burnt(Broken(size))
    assert all(line.startswith("done ") for line in said)
    assert sum(int(line.split()[1]) for line in said) == size * burn.passes()


def test_a_bit_that_is_stuck_is_found_in_its_place() -> None:
    memory = Broken(8 * burn.BLOCK)
    place = 5 * burn.BLOCK

    def stuck(at: int, data: bytes) -> bytes:
        return data[:17] + bytes((data[17] | 4,)) + data[18:] if at == place else data

    memory.stuck = stuck  # type: ignore[method-assign]
    faults = [line for line in burnt(memory) if line.startswith("fault")]
    assert "fault pattern 0x00: 0x00 was written, 0x04 read, in its MiB 1" in faults
    assert len(faults) >= 2


def test_an_address_line_that_does_nothing_is_found() -> None:
    """Every block is the same memory: patterns that are equal everywhere do not see it."""
    memory = Broken(3 * burn.BLOCK)
    memory.alias = True
    faults = [line for line in burnt(memory) if line.startswith("fault")]
    assert faults and all("random" in line for line in faults)


def test_the_program_itself_runs_on_every_processor() -> None:
    lines = list(LinuxHost().stream(["python3", "-m", "provisioner_agent.ramdisk.burn", "memory", "2"], 60))
    assert lines and all(line.startswith("done ") for line in lines)


def test_a_program_that_ends_badly_is_told() -> None:
    with pytest.raises(OrderFailed, match="exit code 3: last"):
        list(LinuxHost().stream(["sh", "-c", "echo first; echo last; exit 3"], 60))
    with pytest.raises(OrderFailed, match="cannot be started"):
        list(LinuxHost().stream(["/no/such/program"], 60))


# The orders of processors and memory.


def loaded(tmp_path: Path, output: str, texts: dict[str, str] | None = None) -> FakeHost:
    host = FakeHost(tmp_path, {"/proc/meminfo": MEMINFO} | (texts or {}))
    host.programs["python3"] = lambda argv, stdin: Finished(0, output)
    return host


def test_processors_that_reckon_right_pass(tmp_path: Path) -> None:
    host = loaded(tmp_path, WELL)
    assert do_test_cpu(host, {"seconds": 60}) == {
        "verdict": "passed",
        "summary": "2 processors reckoned right, 14 rounds in all",
    }
    assert ("python3", "-m", "provisioner_agent.ramdisk.burn", "cpu", "60") in host.runs


def test_a_fault_fails_and_names_the_processor(tmp_path: Path) -> None:
    result = do_test_cpu(
        loaded(tmp_path, WELL + "fault CPU 1: it reckoned 1 instead of 2 in round 3\n"), {"seconds": 1}
    )
    assert result["verdict"] == "failed" and result["summary"].startswith("CPU 1: it reckoned")


def counting(host: FakeHost, changes: dict[str, str], log: str = "") -> FakeHost:
    """While the load runs, the machine counts."""

    def run(argv: Sequence[str], stdin: str) -> Finished:
        host.texts |= changes
        host.programs["dmesg"] = lambda argv, stdin: Finished(0, log)
        return Finished(0, WELL)

    host.programs["python3"] = run
    return host


MC = "/sys/devices/system/edac/mc/mc0"


@pytest.mark.parametrize(
    ("changes", "log", "verdict", "words"),
    [
        ({f"{MC}/ce_count": "5"}, "", "degraded", "2 memory errors that ECC mended"),
        ({f"{MC}/ce_count": "5", f"{MC}/ue_count": "1"}, "", "failed", "1 memory errors that ECC could not mend"),
        (
            {"/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "12"},
            "",
            "degraded",
            "slowed themselves down 12 times",
        ),
        ({}, "x\n[  9.1] mce: [Hardware Error]: CPU 0: Machine Check\n", "degraded", "CPU 0: Machine Check"),
        ({}, "[  9.1] something else\n", "passed", "MiB hold what is written"),
    ],
)
def test_what_the_machine_counts_meanwhile(
    tmp_path: Path, changes: dict[str, str], log: str, verdict: str, words: str
) -> None:
    texts = {"/proc/meminfo": MEMINFO, f"{MC}/ce_count": "3", f"{MC}/ue_count": "0"}
    texts["/sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"] = "0"
    result = do_test_memory(counting(FakeHost(tmp_path, texts), changes, log), NoMeter())
    assert result["verdict"] == verdict and words in result["summary"]


def test_memory_leaves_room_for_the_agent_and_its_workers(tmp_path: Path) -> None:
    assert memory_to_test(MEMINFO, 2) == int((2929 - 96 - 32) * 0.95)
    assert memory_to_test("", 2) == memory_to_test("MemAvailable: 90000 kB\n", 2) == 0
    assert do_test_memory(FakeHost(tmp_path), NoMeter())["verdict"] == "skipped"


def test_a_load_that_cannot_run_is_no_verdict(tmp_path: Path) -> None:
    host = loaded(tmp_path, "")
    host.programs["python3"] = lambda argv, stdin: Finished(1, "", "no room")
    with pytest.raises(OrderFailed):
        do_test_cpu(host, {"seconds": 1})


# Disks.


@pytest.mark.parametrize("case", SMART_CASES, ids=lambda path: path.stem)
def test_what_smart_says(case: Path) -> None:
    found = "".join(f"{finding.verdict} {finding.text}\n" for finding in parse_smart(case.read_text()))
    assert found == case.with_suffix(".txt").read_text()


def test_there_are_cases() -> None:
    assert len(SMART_CASES) > 5


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(
        st.sampled_from([
            "smart_status", "passed", "nvme_smart_health_information_log", "ata_smart_attributes", "table", "raw",
            "value", "when_failed", "scsi_error_counter_log", "read",
        ]), inner) | st.lists(inner))
)  # fmt: skip
def test_whatever_a_disk_says_is_read(said: object) -> None:
    list(parse_smart(json.dumps(said)))


class Platter:
    """A disk that takes ``seconds`` for each place it is asked for; ``bad`` offsets cannot be read."""

    def __init__(self, host: FakeHost, seconds: Callable[[int], float], bad: Callable[[int], bool]) -> None:
        self.host, self.seconds, self.bad = host, seconds, bad

    def read_into(self, offset: int, view: memoryview) -> int:
        self.host.time += self.seconds(offset)
        if self.bad(offset):
            raise OSError(5, "Input/output error")
        return len(view)

    def forget(self) -> None: ...

    def close(self) -> None: ...


class DiskHost(FakeHost):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.blocks: dict[str, Platter] = {}
        self.sizes: dict[str, int] = {}
        self.programs["lsblk"] = lambda argv, stdin: Finished(0, json.dumps({"blockdevices": self.listed()}))
        self.programs["smartctl"] = lambda argv, stdin: Finished(0, '{"smart_status": {"passed": true}}')

    def listed(self) -> list[dict[str, object]]:
        return [
            {"name": name, "kname": name, "type": "disk", "size": size, "ro": False, "model": "M1", "serial": name}
            for name, size in self.sizes.items()
        ]

    def put(
        self,
        name: str,
        size: int = 1 << 40,
        seconds: Callable[[int], float] = lambda offset: 0.02,
        bad: Callable[[int], bool] = lambda offset: False,
    ) -> None:
        self.sizes[name] = size
        self.blocks[f"/dev/{name}"] = Platter(self, seconds, bad)

    def open_block(self, path: str) -> BlockFile:
        return self.blocks[path]  # type: ignore[return-value]


@given(st.integers(1, 1 << 44))
def test_places_lie_inside_the_disk_and_all_over_it(size: int) -> None:
    found = places(size)
    assert all(at >= 0 and at + length <= size and length > 0 for at, length in found)
    if size <= PIECE * PIECES:
        assert sum(length for _, length in found) == size
    else:
        assert len(set(found)) == PIECES and min(found)[0] == 0 and max(found)[0] + PIECE > size - 4096


def test_a_disk_that_reads_everywhere_passes(tmp_path: Path) -> None:
    host = DiskHost(tmp_path)
    host.put("sda")
    assert do_test_disk(host, NoMeter()) == {"verdict": "passed", "summary": "sda: reads at 210 MB/s"}


def test_places_that_cannot_be_read_fail(tmp_path: Path) -> None:
    host = DiskHost(tmp_path)
    host.put("sda")
    host.put("sdb", bad=lambda offset: offset > 1 << 39)
    result = do_test_disk(host, NoMeter())
    assert result["verdict"] == "failed"
    assert result["summary"].startswith("sdb: 32 places cannot be read, the first at byte 5")


def test_places_that_take_long_are_a_sign(tmp_path: Path) -> None:
    host = DiskHost(tmp_path)
    host.put("sda", seconds=lambda offset: 4.0 if offset == 0 else 0.02)
    result = do_test_disk(host, NoMeter())
    assert result == {"verdict": "degraded", "summary": "sda: 1 of 64 places read slowly, the slowest took 4.0 s"}


def test_a_slow_disk_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    host = DiskHost(tmp_path)
    host.put("sda", seconds=lambda offset: 10.0)
    assert do_test_disk(host, NoMeter())["summary"] == "sda: reads at 0 MB/s, 7 of 64 places in 60 s"


def test_a_disk_much_slower_than_its_siblings_is_named(tmp_path: Path) -> None:
    host = DiskHost(tmp_path)
    for name in ("sda", "sdb", "sdc"):
        host.put(name, seconds=lambda offset, slow=name == "sdc": 0.2 if slow else 0.02)  # type: ignore[misc]
    result = do_test_disk(host, NoMeter())
    assert result["verdict"] == "degraded"
    assert result["summary"] == "sdc: it reads at 21 MB/s, 210 MB/s is usual for its model here"


def test_what_smart_says_counts(tmp_path: Path) -> None:
    host = DiskHost(tmp_path)
    host.put("sda")
    host.programs["smartctl"] = lambda argv, stdin: Finished(8, '{"smart_status": {"passed": false}}')
    assert do_test_disk(host, NoMeter()) == {"verdict": "failed", "summary": "sda: SMART says that it fails"}


def test_without_a_disk_there_is_nothing_to_test(tmp_path: Path) -> None:
    assert do_test_disk(DiskHost(tmp_path), NoMeter()) == {"verdict": "skipped", "summary": "there is no disk"}


# The network.

CONTENT = bytes(range(256)) * 4096
ORDER = {
    "macs": ["52:54:00:77:00:01"],
    "image": "ramdisk-1",
    "name": "initramfs",
    "size": len(CONTENT),
    "sha256": hashlib.sha256(CONTENT).hexdigest(),
}


class Sent:
    """A server. ``answers`` are what it sends, one after the other and the last for ever: bytes, or an error."""

    def __init__(self, host: FakeHost, *answers: bytes | Away, during: Callable[[], None] = lambda: None) -> None:
        self.host, self.answers, self.during = host, list(answers), during
        self.opened = 0

    def open(self, image: str, name: str, start: int, end: int | None) -> Sent:
        self.opened += 1
        self.host.time += 1
        self.during()
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, Away):
            raise found
        self.left = found
        return self

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self.left))
        buffer[:count] = self.left[:count]
        self.left = self.left[count:]
        return count

    def abort(self) -> None: ...

    def close(self) -> None: ...


def ported(tmp_path: Path, **texts: str) -> FakeHost:
    """eth0 as it should be; ``texts`` change its files."""
    net = "/sys/class/net/eth0"
    well = {
        "address": "52:54:00:77:00:01",
        "carrier": "1",
        "speed": "10000",
        "duplex": "full",
        "device/vendor": "0x1af4",
        "statistics/rx_crc_errors": "4",
    }
    return FakeHost(tmp_path, {f"{net}/{name}": text for name, text in (well | texts).items()})


def test_a_network_that_works_passes(tmp_path: Path) -> None:
    host = ported(tmp_path)
    source = Sent(host, CONTENT)
    result = do_test_network(host, source, ORDER, NoMeter())
    assert result == {"verdict": "passed", "summary": "1 of 1 ports have a link; 1 MB/s from the server"}
    assert source.opened == 10


@pytest.mark.parametrize(
    ("texts", "order", "verdict", "words"),
    [
        ({"carrier": "0"}, {}, "failed", "eth0: 52:54:00:77:00:01 has no link"),
        ({}, {"macs": ["52:54:00:77:00:09"]}, "failed", "52:54:00:77:00:09 is not there"),
        ({"duplex": "half"}, {}, "degraded", "eth0: half duplex"),
        ({}, {"sha256": "0" * 64}, "failed", "not what was sent"),
    ],
)
def test_what_is_wrong_with_a_network(
    tmp_path: Path, texts: dict[str, str], order: dict[str, object], verdict: str, words: str
) -> None:
    host = ported(tmp_path, **texts)
    result = do_test_network(host, Sent(host, CONTENT), ORDER | order, NoMeter())
    assert result["verdict"] == verdict and words in result["summary"]


def test_a_port_slower_than_another_of_its_kind_is_named(tmp_path: Path) -> None:
    host = ported(tmp_path)
    slow = {"address": "52:54:00:77:00:02", "carrier": "1", "speed": "1000", "device/vendor": "0x1af4"}
    host.texts |= {f"/sys/class/net/eth1/{name}": text for name, text in slow.items()}
    result = do_test_network(host, Sent(host, CONTENT), ORDER, NoMeter())
    assert result == {"verdict": "degraded", "summary": "eth1: 1000 Mbit/s, another of its kind has 10000"}


def test_errors_that_are_counted_meanwhile_are_a_sign(tmp_path: Path) -> None:
    host = ported(tmp_path)

    def count() -> None:
        host.texts["/sys/class/net/eth0/statistics/rx_crc_errors"] = "7"

    result = do_test_network(host, Sent(host, CONTENT, during=count), ORDER, NoMeter())
    assert result == {"verdict": "degraded", "summary": "eth0: 3 rx_crc_errors while a file was fetched"}


def test_connections_that_break(tmp_path: Path) -> None:
    host = ported(tmp_path)
    result = do_test_network(host, Sent(host, Away("reset"), CONTENT), ORDER, NoMeter())
    assert result == {"verdict": "degraded", "summary": "1 connections to the server broke"}
    result = do_test_network(host, Sent(host, Away("reset")), ORDER, NoMeter())
    assert result["verdict"] == "failed"
