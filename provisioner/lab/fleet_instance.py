"""A simulated instance: it fetches, proves, acknowledges and reports as the config agent does, and applies nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from provisioner.lab.guest_link import GuestLink
from provisioner_agent.protocol.messages import AGENT_CONFIG, BETWEEN, DRAIN, METADATA, METADATA_POLL, PERMIT, REPORT
from provisioner_agent.protocol.parts import write_part
from provisioner_agent.protocol.servers import BETWEEN as BETWEEN_URLS
from provisioner_agent.protocol.servers import build_trust

POLL_SECONDS = 25.0
REPORT_SECONDS = 600.0
SIGNED = ec.ECDSA(hashes.SHA256())
trust = lru_cache(build_trust)
"""A thousand servers trust the same authority."""


@lru_cache
def read_signer(pem: str) -> ec.EllipticCurvePublicKey:
    """The key of a site's metadata."""
    key = load_pem_public_key(pem.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


@dataclass(frozen=True)
class Seed:
    """What the ramdisk was given for the instance."""

    token: str
    services: Sequence[str]
    trust: ssl.SSLContext
    signer: ec.EllipticCurvePublicKey


def read_seed(files: Sequence[Mapping[str, Any]]) -> Seed:
    """:param files: of the order ``seed-instance``."""
    said = json.loads(next(file["content"] for file in files if file["path"] == AGENT_CONFIG))
    services = said["url"].split(BETWEEN_URLS)
    return Seed(said["token"], services, trust(said["ca"]), read_signer(said["signer"]))


class FleetInstance:
    """:param root: what it says that it runs from. :param apply: takes the time that applying takes.

    :param red: whether its probe is never green. :param complain: hears what is wrong with it.
    """

    def __init__(
        self,
        seed: Seed,
        boot: str,
        root: str,
        apply: Callable[[], Awaitable[None]],
        *,
        red: bool,
        complain: Callable[[str], None],
    ) -> None:
        self._seed = seed
        self._boot = boot
        self._root = root
        self._apply = apply
        self._red = red
        self._complain = complain
        self._newest: asyncio.Queue[int] = asyncio.Queue()

    async def run(self) -> None:
        """One connection waits for metadata while another tells what became of them."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._collect())
            tasks.create_task(self._configure())

    async def _collect(self) -> None:
        known, have, patience = 0, "", METADATA_POLL + POLL_SECONDS
        with GuestLink(self._seed.services, self._seed.trust) as link:
            while True:
                target = f"{METADATA}?since={known}&wait={METADATA_POLL:.0f}&have={have}"
                found = await link.say(self._seed.token, "GET", target, seconds=patience)
                if found is None:
                    self._complain("the service does not know its instance")
                    return
                if found:
                    own = found["metadata"]
                    self._seed.signer.verify(base64.b64decode(found["signature"]), write_part(own).encode(), SIGNED)
                    known, have = int(found["generation"]), BETWEEN.join(own["parts"])
                    self._newest.put_nowait(known)

    async def _configure(self) -> None:
        applied = 0
        with GuestLink(self._seed.services, self._seed.trust) as link:
            while True:
                try:
                    generation = await asyncio.wait_for(self._newest.get(), REPORT_SECONDS)
                except TimeoutError:
                    await self._report(link, applied, healthy=not self._red)
                    continue
                await self._apply()
                await self._acquire(link, generation)
                await self._report(link, generation, healthy=False)
                applied = generation
                if self._red:
                    self._complain("its probe is red")
                    continue
                await self._report(link, generation, healthy=True)
                await link.say(self._seed.token, "POST", PERMIT, {"action": "release", "generation": generation})
                link.close()  # nothing is said for minutes

    async def _acquire(self, link: GuestLink, generation: int) -> None:
        body = {"action": "acquire", "generation": generation, "wait": POLL_SECONDS}
        while True:
            said = await link.say(self._seed.token, "POST", PERMIT, body)
            if said is None or said.get("granted"):
                return

    async def _report(self, link: GuestLink, generation: int, *, healthy: bool) -> None:
        report = {
            "generation": generation, "applied": generation, "state": "applied", "healthy": healthy, "probes": {},
            "services": {}, "phases": [], "error": None, "boot_id": self._boot, "root": self._root, "warnings": [],
            DRAIN: {"scripts": 0},
        }  # fmt: skip
        await link.say(self._seed.token, "POST", REPORT, report)
