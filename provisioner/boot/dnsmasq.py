"""dnsmasq, supervised: DHCP for the ports on record and nobody else, TFTP for firmware that is not iPXE yet.

It is started apart from the service and found again by process id and start time, so a service that was killed takes
over the dnsmasq that still answers. Options: dnsmasq(8). The first program: iPXE as Debian ships it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from pathlib import Path

from provisioner.errors import HostError
from provisioner.events import Event, Observer
from provisioner.store.nodes import PortRecord
from provisioner.system.daemon import Daemon, Daemons, load_daemon, save_daemon
from provisioner.system.files import ensure_file
from provisioner.system.settings import Settings

PROGRAM = "dnsmasq"
IPXE = Path("/usr/lib/ipxe")
LEASE = "10m"
LAST_LINES = 5


def render_config(settings: Settings, folder: Path, ipxe: Path = IPXE) -> str:
    """dnsmasq.conf. ``folder`` holds the hosts and the leases.

    Client architectures are those of RFC 4578, section 2.1: 0 BIOS, 7 and 9 EFI on x86-64. Option 175 is iPXE's own.
    """
    network = ipaddress.IPv4Interface(settings.address).network
    return "\n".join(
        [
            "port=0",
            "keep-in-foreground",
            "log-facility=-",
            "user=root",  # the folders of the service are open to nobody else
            "pid-file=",
            f"interface={settings.interface}",
            "except-interface=lo",
            "bind-dynamic",
            "no-resolv",
            "no-hosts",
            "no-ping",
            "dhcp-authoritative",
            f"dhcp-range={network.network_address},static,{network.netmask},{LEASE}",
            "dhcp-ignore=tag:!known",
            f"dhcp-hostsfile={folder / 'hosts'}",
            f"dhcp-leasefile={folder / 'leases'}",
            "enable-tftp",
            f"tftp-root={ipxe}",
            "tftp-no-fail",
            "dhcp-match=set:ipxe,175",
            "dhcp-match=set:bios,option:client-arch,0",
            "dhcp-match=set:efi,option:client-arch,7",
            "dhcp-match=set:efi,option:client-arch,9",
            "dhcp-boot=tag:bios,tag:!ipxe,undionly.kpxe",
            "dhcp-boot=tag:efi,tag:!ipxe,snponly.efi",
            f"dhcp-boot=tag:ipxe,{settings.url}/boot/${{netX/mac:hexhyp}}",
            "",
        ]
    )


def render_hosts(ports: Sequence[PortRecord]) -> str:
    """One line for each port on record that has an address; dnsmasq reads the file again on SIGHUP."""
    lines = [f"{port.mac},{port.address}" for port in ports if port.address]
    return "".join(f"{line}\n" for line in sorted(lines))


class Dnsmasq:
    """:param ports: what is on record now. :param folder: of its files; made when missing."""

    def __init__(
        self,
        settings: Settings,
        ports: Callable[[], Sequence[PortRecord]],
        daemons: Daemons,
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._daemons = daemons
        self._observer = observer
        self._folder = settings.run_dir / "dnsmasq"
        self._daemon = load_daemon(self._record)

    @property
    def _record(self) -> Path:
        return self._folder / "process.json"

    @property
    def log(self) -> Path:
        return self._folder / "log"

    def ensure(self) -> None:
        """It runs, with this configuration and these hosts.

        :raises HostError: it ended by itself; it has been started again by then.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        changed = ensure_file(self._folder / "dnsmasq.conf", render_config(self._settings, self._folder), mode=0o600)
        moved = ensure_file(self._folder / "hosts", render_hosts(self._ports()), mode=0o600)
        before = self._daemon
        alive = before is not None and self._daemons.alive(before)
        if before is not None and alive and changed:
            self._daemons.end(before)
            alive = False
        if before is None or not alive:
            self._start("its configuration is new" if before is None or changed else "it had ended")
        elif moved:
            self._daemons.reload(before)
        if before is not None and not alive and not changed:
            raise HostError("dnsmasq had ended", where=str(self.log), cause=self._last_lines(), hint=f"see {self.log}")

    def _start(self, why: str) -> None:
        argv = [PROGRAM, f"--conf-file={self._folder / 'dnsmasq.conf'}"]
        self._daemon = daemon = self._daemons.start(argv, log=self.log)
        save_daemon(self._record, daemon)
        where = f"{self._settings.interface}, {self._settings.address}"
        self._observer(Event("dhcp.started", f"dnsmasq serves DHCP and TFTP on {where}: {why}"))

    def stop(self) -> None:
        """End it; a service that is killed instead leaves it running."""
        daemon: Daemon | None = self._daemon
        if daemon is not None and self._daemons.alive(daemon):
            self._daemons.end(daemon)
        self._daemon = None
        self._record.unlink(missing_ok=True)

    def _last_lines(self) -> str:
        try:
            return " | ".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        except FileNotFoundError:
            return "it left no log"
