"""The driver ``redfish`` against ``sushy-emulator``'s fake systems, over TLS, on the loopback; no root needed."""

from __future__ import annotations

import datetime
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from provisioner.bmc.scan import Found, scan
from provisioner.bmc.worker import BmcWorker
from provisioner.errors import BmcError, BmcRefused, BmcSilent
from provisioner.model.hardware import BmcAddress, BootDevice, Power, SecretRef

pytestmark = pytest.mark.integration

PASSWORD = "S3cret-of-the-bench"
DEADLINE = 15.0
UUID = "24ab2d16-9f3e-4ab4-b5e6-dc1d3c5f4b01"
OTHER = "5d1a2f30-0a3e-4c55-8f4e-0d7bb5f7a002"
QUIRKS = Path(__file__).resolve().parents[2] / "hardware" / "quirks"
CONFIGURATION = """
SUSHY_EMULATOR_LISTEN_IP = "127.0.0.1"
SUSHY_EMULATOR_LISTEN_PORT = {port}
SUSHY_EMULATOR_SSL_CERT = "{folder}/certificate.pem"
SUSHY_EMULATOR_SSL_KEY = "{folder}/key.pem"
SUSHY_EMULATOR_AUTH_FILE = "{folder}/users"
SUSHY_EMULATOR_STATE_DIR = "{folder}/state"
SUSHY_EMULATOR_FAKE_DRIVER = True
SUSHY_EMULATOR_FAKE_SYSTEMS = {systems!r}
"""


def write_certificate(folder: Path) -> None:
    """One that the controller signed itself, as controllers do."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "controller")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


class Emulator:
    def __init__(self, folder: Path, uuids: tuple[str, ...]) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "state").mkdir(parents=True)
        write_certificate(folder)
        word = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        (folder / "users").write_text(f"admin:{word}\n")
        systems = [{"uuid": uuid, "name": f"n{n}", "power_state": "Off", "nics": []} for n, uuid in enumerate(uuids)]
        text = CONFIGURATION.format(port=self.port, folder=folder, systems=systems)
        (folder / "emulator.conf").write_text(text)
        with (folder / "log").open("wb") as log:
            words = [str(Path(sys.executable).parent / "sushy-emulator"), "--config", str(folder / "emulator.conf")]
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def bmc(self, **more: str) -> BmcAddress:
        fields = {"driver": "redfish", "address": "127.0.0.1", "port": self.port, "username": "admin"} | more
        return BmcAddress.model_validate(fields | {"password": SecretRef(env="UNUSED")})


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    made = Emulator(tmp_path_factory.mktemp("redfish"), (UUID,))
    yield made
    made.stop()


@pytest.fixture
def worker() -> Iterator[BmcWorker]:
    door = BmcWorker(quirks=QUIRKS)
    yield door
    door.close()


def test_a_controller_says_who_it_is_and_its_certificate_is_noted(worker: BmcWorker, emulator: Emulator) -> None:
    facts = worker.verify(emulator.bmc(), PASSWORD, DEADLINE)
    assert facts["guid"] == UUID.replace("-", "")
    assert (facts["power"], facts["manufacturer"]) == ("off", "Sushy Emulator")
    pem = (emulator.folder / "certificate.pem").read_bytes()
    assert facts["certificate"] == x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex()
    pinned = emulator.bmc(certificate=facts["certificate"])
    assert worker.power(pinned, PASSWORD, DEADLINE) is Power.OFF


def test_power_is_switched_and_waited_for(worker: BmcWorker, emulator: Emulator) -> None:
    for want, then in (("on", "on"), ("on", "on"), ("reset", "on"), ("soft", "off"), ("cycle", "on"), ("off", "off")):
        assert worker.set_power(emulator.bmc(), PASSWORD, want, DEADLINE) == then  # type: ignore[arg-type]
        assert worker.power(emulator.bmc(), PASSWORD, DEADLINE) == then


def test_the_boot_device_is_set_and_read_back(worker: BmcWorker, emulator: Emulator) -> None:
    """The emulator reports once as for ever: that is a quirk, known by who made it."""
    for device in (BootDevice.PXE, BootDevice.DISK):
        worker.set_boot_device(emulator.bmc(), PASSWORD, device, True, DEADLINE)
    worker.set_boot_device(emulator.bmc(), PASSWORD, BootDevice.PXE, False, DEADLINE, persistent=True)
    without = BmcWorker()
    try:
        with pytest.raises(BmcError, match="is kept otherwise"):
            without.set_boot_device(emulator.bmc(), PASSWORD, BootDevice.PXE, True, DEADLINE)
    finally:
        without.close()


def test_sensors_light_and_inventory(worker: BmcWorker, emulator: Emulator) -> None:
    sensors = worker.read(emulator.bmc(), PASSWORD, "sensors", DEADLINE)
    assert {"temperature", "fan"} <= {sensor["kind"] for sensor in sensors}
    worker.identify(emulator.bmc(), PASSWORD, None, DEADLINE)
    worker.identify(emulator.bmc(), PASSWORD, 0, DEADLINE)
    assert worker.read(emulator.bmc(), PASSWORD, "inventory", DEADLINE)["system"]["manufacturer"] == "Sushy Emulator"
    assert worker.read(emulator.bmc(), PASSWORD, "log", DEADLINE) == []


def test_what_is_wrong_is_named(worker: BmcWorker, emulator: Emulator) -> None:
    for bmc, password, kind, words in (
        (emulator.bmc(), "S3cret-of-another", BmcRefused, "user or password is wrong"),
        (emulator.bmc(certificate="0" * 64), PASSWORD, BmcRefused, "shows another certificate"),
        (emulator.bmc(system="n7"), PASSWORD, BmcError, "there is no system 'n7'"),
        (emulator.bmc(port=str(free_port())), PASSWORD, BmcSilent, "no answer"),
    ):
        with pytest.raises(kind, match=words) as caught:
            worker.power(bmc, password, DEADLINE)
        assert caught.value.where == f"127.0.0.1:{bmc.port}"
        assert "S3cret" not in str(caught.value.to_dict())


def test_of_several_systems_the_hardware_file_names_one(worker: BmcWorker, tmp_path: Path) -> None:
    emulator = Emulator(tmp_path / "two", (UUID, OTHER))
    try:
        with pytest.raises(BmcError, match="which system is the node") as caught:
            worker.power(emulator.bmc(), PASSWORD, DEADLINE)
        assert UUID in str(caught.value.cause) and "bmc.system" in str(caught.value.hint)
        for system in (OTHER, "n1", f"/redfish/v1/Systems/{OTHER}"):
            facts = worker.verify(emulator.bmc(system=system), PASSWORD, DEADLINE)
            assert facts["guid"] == OTHER.replace("-", "")
    finally:
        emulator.stop()


def test_both_protocols_are_swept_together(worker: BmcWorker, emulator: Emulator) -> None:
    dead = BmcAddress(address="127.0.0.1", port=free_port(), username="admin", password=SecretRef(env="UNUSED"))
    asked = {"redfish": (emulator.bmc(), PASSWORD), "ipmi": (dead, PASSWORD)}
    seen = {key: said for batch in worker.sweep(asked, 3.0) for key, said in batch.items()}
    assert seen["redfish"] is Power.OFF and isinstance(seen["ipmi"], BmcSilent)
    known = {key: said for batch in worker.verify_all(asked, 3.0) for key, said in batch.items()}
    assert isinstance(known["redfish"], dict) and isinstance(known["ipmi"], BmcSilent)


def test_a_scan_finds_it(emulator: Emulator) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind(("127.0.0.1", 0))  # a port where nobody speaks IPMI
        ports = {"ipmi": int(door.getsockname()[1]), "redfish": emulator.port}
        assert list(scan(["127.0.0.1"], ports)) == [Found("127.0.0.1", ("redfish",))]
