"""The service's own options, read with oslo.config from one INI file and shared as a frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from socket import gethostname

from provisioner.errors import UsageError

CONFIG_FILE = Path("/etc/provisioner/provisioner.conf")
SOURCE = Path(__file__).resolve().parents[2]
ALONE = "conductor"
"""Name of a conductor that shares its records with no other."""
LOOPBACK = "lo"
"""Nobody boots over it: a simulated fleet lives there, and needs no DHCP."""


@dataclass(frozen=True)
class Settings:
    """Where things are and which network the seed serves.

    :param state_dir: records, keys, images; survives a reboot. :param run_dir: sockets and process ids; need not.
    :param source_dir: folder that holds ``elements/ templates/ roles/``.
    :param elements_path: further folders of diskimage-builder elements, searched after ours.
    :param apt_sources: package sources of builds, in place of this host's own.
    :param interface: the network interface that DHCP, TFTP and HTTP are served on.
    :param address: the seed's own address on it, with prefix length.
    :param service: an address that is the master's, wherever it runs: nodes find the service there also after a
        handover. Empty: they find it at ``address``.
    :param dhcp_first: :param dhcp_last: the addresses that nodes get while they run the ramdisk.
    :param http_port: of the provisioning network, for boot scripts and what they load.
    :param https_port: for the agents, by TLS.
    :param prove_by_bmc: whether a ramdisk must write into the event log of its node's controller that it runs there.
    :param database_url: of the records, in SQLAlchemy's form; empty: a SQLite file in ``state_dir``.
    :param name: of this conductor, among those that share the records.
    :param awaits: whether this host makes no records of its own: it gets them by a handover.
    :param operators_listen: ``ADDRESS:PORT`` on which operators with a token are answered, by TLS; empty: nowhere.
    :param bytes_in_flight: of images that nodes fetch at once; more nodes wait in line. 0: no limit.
    :param sweep_seconds: between two looks at the power of all nodes; 0: none but on demand.
    :param record_consoles: whether the last lines of nodes' consoles are kept while they are worked on.
    """

    state_dir: Path = Path("/var/lib/provisioner")
    run_dir: Path = Path("/run/provisioner")
    source_dir: Path = SOURCE
    elements_path: tuple[Path, ...] = ()
    apt_sources: Path | None = None
    interface: str = ""
    address: str = ""
    service: str = ""
    dhcp_first: str = ""
    dhcp_last: str = ""
    http_port: int = 8080
    https_port: int = 8081
    prove_by_bmc: bool = False
    database_url: str = ""
    name: str = ALONE
    operators_listen: str = ""
    bytes_in_flight: int = 8_000_000_000
    sweep_seconds: float = 30.0
    record_consoles: bool = True
    awaits: bool = False

    @property
    def socket(self) -> Path:
        """The operator API's unix socket (mode 0600)."""
        return self.run_dir / "api.sock"

    @property
    def keys(self) -> Path:
        return self.state_dir / "keys"

    @property
    def images(self) -> Path:
        return self.state_dir / "images"

    @property
    def records(self) -> Path:
        """The SQLite file."""
        return self.state_dir / "provisioner.db"

    @property
    def database(self) -> str:
        """The records' URL, with its password if it has one: not for logs."""
        return self.database_url or f"sqlite:///{self.records}"

    @property
    def host(self) -> str:
        """The seed's own address on the provisioning network, without the prefix length."""
        return self.address.partition("/")[0]

    @property
    def url(self) -> str:
        """Where firmware finds boot scripts, kernel and initramfs: ``http://ADDRESS:PORT``."""
        return f"http://{self.service or self.host}:{self.http_port}"

    @property
    def guest_url(self) -> str:
        """Where the agents find the service: ``https://ADDRESS:PORT``."""
        return f"https://{self.service or self.host}:{self.https_port}"

    @property
    def own_url(self) -> str:
        """The same on the address that stays with this host."""
        return f"https://{self.host}:{self.https_port}"

    @property
    def handover(self) -> Path:
        """Where a handover keeps its files, on both sides."""
        return self.state_dir / "handover"


def read_settings(path: Path | None = None) -> Settings:
    """Read the options; a file that does not exist means the defaults.

    :raises UsageError: the file cannot be parsed or holds a wrong value.
    """
    from oslo_config import cfg  # only here: its import costs more than most commands take

    conf = cfg.ConfigOpts()
    defaults = Settings()
    conf.register_opts(
        [
            cfg.StrOpt("state_dir", default=str(defaults.state_dir), help="records, keys and images"),
            cfg.StrOpt("run_dir", default=str(defaults.run_dir), help="sockets and process ids"),
            cfg.StrOpt("source_dir", default=str(defaults.source_dir), help="holds elements/ templates/ roles/"),
            cfg.ListOpt("elements_path", default=[], help="further folders of diskimage-builder elements"),
            cfg.StrOpt("apt_sources", default="", help="file of package sources for builds (default: this host's)"),
        ]
    )
    conf.register_opts(
        [
            cfg.StrOpt("interface", default="", help="interface of the provisioning network"),
            cfg.StrOpt("address", default="", help="the seed's address on it, with prefix length"),
            cfg.StrOpt("service", default="", help="address at which nodes find the service; moves with a handover"),
            cfg.StrOpt("dhcp_first", default="", help="first address for the ramdisk"),
            cfg.StrOpt("dhcp_last", default="", help="last address for the ramdisk"),
            cfg.PortOpt("http_port", default=8080, help="port of boot scripts, and of what they load"),
            cfg.PortOpt("https_port", default=8081, help="port of the agents, by TLS"),
            cfg.BoolOpt("prove_by_bmc", default=False, help="nodes prove by their BMC's event log who they are"),
            cfg.IntOpt(
                "megabytes_in_flight", default=8000, min=0, help="of images that are fetched at once; 0: no limit"
            ),
        ],
        group="network",
    )
    conf.register_opts(
        [cfg.StrOpt("listen", default="", help="ADDRESS:PORT for operators with a token, by TLS (default: nowhere)")],
        group="operators",
    )
    conf.register_opts(
        [
            cfg.FloatOpt("sweep_seconds", default=30.0, min=0.0, help="between two sweeps of all BMCs; 0: on demand"),
            cfg.BoolOpt("record_consoles", default=True, help="keep the last lines of consoles of nodes at work"),
        ],
        group="hardware",
    )
    conf.register_opts(
        [
            cfg.StrOpt(
                "url", default="", secret=True, help="postgresql://USER:PASSWORD@HOST/NAME (default: a SQLite file)"
            )
        ],
        group="database",
    )
    conf.register_opts(
        [
            cfg.StrOpt(
                "name", default="", help="of this conductor among those that share the records (default: the host's)"
            )
        ],
        group="conductor",
    )
    conf.register_opts(
        [cfg.BoolOpt("awaits", default=False, help="this host gets its records by a handover, and makes none")],
        group="handover",
    )
    chosen = path or CONFIG_FILE
    try:
        conf(args=[], project="provisioner", default_config_files=[str(chosen)] if chosen.is_file() else [])
        return Settings(
            state_dir=Path(conf.state_dir),
            run_dir=Path(conf.run_dir),
            source_dir=Path(conf.source_dir),
            elements_path=tuple(Path(folder) for folder in conf.elements_path),
            apt_sources=Path(conf.apt_sources) if conf.apt_sources else None,
            interface=conf.network.interface,
            address=conf.network.address,
            service=_service(conf.network.service, conf.network.address, conf.database.url),
            dhcp_first=conf.network.dhcp_first,
            dhcp_last=conf.network.dhcp_last,
            http_port=conf.network.http_port,
            https_port=conf.network.https_port,
            prove_by_bmc=conf.network.prove_by_bmc,
            database_url=_database(conf.database.url),
            name=conf.conductor.name or (gethostname() if conf.database.url else ALONE),
            operators_listen=_place(conf.operators.listen),
            bytes_in_flight=conf.network.megabytes_in_flight * 1_000_000,
            sweep_seconds=conf.hardware.sweep_seconds,
            record_consoles=conf.hardware.record_consoles,
            awaits=conf.handover.awaits,
        )
    except (cfg.Error, ValueError) as error:
        raise UsageError("the configuration file is wrong", where=str(chosen), cause=str(error)) from error


def _service(text: str, address: str, database: str) -> str:
    """:raises ValueError: it is no address of the provisioning network, or moves where several conductors have one."""
    if not text:
        return ""
    if not address or IPv4Address(text) not in IPv4Interface(address).network:
        raise ValueError(f"[network] service is {text!r}; write an address of the network of [network] address")
    if text == address.partition("/")[0]:
        raise ValueError(f"[network] service is {text!r}, which stays with this host; write another address")
    if database:
        raise ValueError("[network] service is for a service with records of its own; [database] url shares them")
    return text


def _place(text: str) -> str:
    """:raises ValueError: it is not ``ADDRESS:PORT``."""
    address, _, port = text.rpartition(":")
    if text and not (address and port.isdigit() and 0 <= int(port) < 65536):
        raise ValueError(f"[operators] listen is {text!r}; write it as 192.0.2.1:8443")
    return text


def _database(text: str) -> str:
    """The URL with the name of the driver that is used. :raises ValueError: it is of another database."""
    scheme, _, rest = text.partition("://")
    if text and scheme not in ("postgresql", "postgresql+psycopg"):
        raise ValueError("[database] url is not of the form postgresql://USER:PASSWORD@HOST/NAME")
    return text and f"postgresql+psycopg://{rest}"
