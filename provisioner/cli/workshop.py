"""Where builds read and write, from the configuration."""

from __future__ import annotations

from provisioner.images.lock import LOCK
from provisioner.images.workshop import Workshop, host_ca_bundle
from provisioner.system.settings import Settings


def open_workshop(settings: Settings) -> Workshop:
    return Workshop(
        source=settings.source_dir,
        agent=settings.source_dir / "provisioner_agent",
        elements_path=settings.elements_path,
        state=settings.state_dir / "build",
        pool=settings.state_dir / "build" / "pool",
        lock=settings.source_dir / LOCK,
        apt=(settings.apt_sources,) if settings.apt_sources else Workshop.apt,
        ca_bundle=host_ca_bundle(),
        in_memory=True,
    )
