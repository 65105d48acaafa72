"""What the ramdisk agent is told to do for a step; see :mod:`provisioner_agent.protocol.messages`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from provisioner.conductor.cloudinit import build_seed
from provisioner.conductor.instance import build_files
from provisioner.conductor.layout import Layout
from provisioner.conductor.presence import build_agent_config
from provisioner.conductor.work import Work
from provisioner.manifest.values import CLOUD_CONFIG
from provisioner.model.deployment import StepName
from provisioner.store.tokens import INSTANCE
from provisioner.system.agent import pack_agent
from provisioner.trust.keys import new_token
from provisioner_agent.render.references import put_references

LLDP_SECONDS = 32.0
"""Switches tell of themselves every 30 s (IEEE 802.1AB, 9.2.5.7)."""
TEMPLATES, PHASES = "/usr/libexec/provisioner-agent/templates", "/usr/libexec/os-refresh-config"
"""Where the config agent finds them."""
CMDLINE = "console=tty0 console=ttyS0,115200"


def build_layout(work: Work) -> Layout:
    disks = work.detail(StepName.CHOOSE_DISK)["disks"]
    return Layout(work.role.storage, disks, work.deployment.id, work.deployment.placement, work.node.spec.firmware)


def _storage_order(work: Work) -> dict[str, Any]:
    return build_layout(work).order(work.doors.catalogue.index(work.deployment.placement.image).size)


def _devices(work: Work) -> Mapping[str, str]:
    """The devices of volumes by name, as the step before found them in this boot of the ramdisk."""
    devices: Mapping[str, str] = work.detail(StepName.STORAGE)["devices"]
    return devices


def _image_order(work: Work) -> dict[str, Any]:
    image = work.doors.catalogue.get(work.deployment.placement.image)
    return {
        "root": _devices(work)[work.role.storage.root.name],
        "image": image.id,
        "index_sha256": image.files["index.json"],
        "grow": work.role.storage.grow and not work.role.image.disk,
        "filesystem": work.role.storage.filesystem,
    }


def _seed_order(work: Work) -> dict[str, Any]:
    placement, token = work.deployment.placement, _instance_token(work)
    members = work.doors.store.deployments.placements(placement.cloud)
    layout, devices = build_layout(work), _devices(work)
    files = build_files(placement, members, fstab=layout.fstab(), agent=build_agent_config(work.doors, token))
    mounts = [{**mount, "device": devices[mount["volume"]]} for mount in layout.mounts()]
    made = work.detail(StepName.STORAGE)["made"]
    return {"root": devices[work.role.storage.root.name], "mounts": mounts, "made": made, "files": files}


def _instance_token(work: Work) -> str:
    """A fresh one: an instance that the node ran before is not heard any more."""
    token = new_token()
    work.doors.store.tokens.replace(token, INSTANCE, work.node.name, work.deployment.id, None)
    return token


def _loader_order(work: Work) -> dict[str, Any]:
    layout, devices, storage = build_layout(work), _devices(work), work.role.storage
    disks = work.detail(StepName.CHOOSE_DISK)["disks"]
    return {
        "disks": [disks[name] for name in storage.disks_of(storage.root)],
        "root": devices[storage.root.name],
        "root_device": layout.root_device(),
        "grub_partition": layout.grub_partition(),
        "stacked": layout.stacked(),
        "raids": layout.raids(),
        "esp": devices.get("efi") or devices.get("esp"),
        "gone": list(work.detail(StepName.STORAGE).get("gone") or ()),
        "firmware": str(work.node.spec.firmware),
        "cmdline": CMDLINE,
    }


def _root_disk(work: Work) -> str:
    disk: str = work.detail(StepName.CHOOSE_DISK)["disk"]
    return disk


def _clear_order(work: Work) -> dict[str, Any]:
    return {"step": "clear-disk", "disk": _root_disk(work)}


def _seed_disk_order(work: Work) -> dict[str, Any]:
    placement, catalogue = work.deployment.placement, work.doors.catalogue
    app = pack_agent(
        {f"{TEMPLATES}/{path}": (text, 0o644) for path, text in (catalogue.templates(placement.image) or {}).items()}
        | {f"{PHASES}/{path}": (text, 0o755) for path, text in catalogue.phases(placement.image).items()}
    )
    agent = build_agent_config(work.doors, _instance_token(work))
    members = work.doors.store.deployments.placements(placement.cloud)
    files = build_seed(placement, _cloud_config(work), work.deployment.id, app, agent, members)
    return {"step": "seed-disk", "disk": _root_disk(work), "files": files}


def _cloud_config(work: Work) -> dict[str, Any]:
    """What the newest metadata say of it, with its secrets."""
    clouds = work.doors.store.clouds
    newest = clouds.newest(work.node.name)
    if newest is None:
        return {}
    shared, secrets = clouds.shared(newest), json.loads(clouds.own_text(newest))["secrets"]
    values = put_references(shared.get("values") or {}, shared, lambda name: secrets[name])
    return dict(values.get(CLOUD_CONFIG) or {})


def _check_disk_order(work: Work) -> dict[str, Any]:
    gone = list(work.detail(StepName.STORAGE).get("gone") or ())
    return {"step": "check-disk", "disk": _root_disk(work), "firmware": str(work.node.spec.firmware), "gone": gone}


def _cpu_order(work: Work) -> dict[str, Any]:
    return {"seconds": work.deployment.placement.burn_seconds}


def _network_order(work: Work) -> dict[str, Any]:
    """The ramdisk's own initramfs is what every node could fetch once already."""
    image = work.doors.catalogue.get(str(work.detail(StepName.BOOT_FILES)["ramdisk"]))
    return {
        "macs": [port.mac for port in work.node.spec.ports],
        "image": image.id,
        "name": "initramfs",
        "size": image.sizes["initramfs"],
        "sha256": image.files["initramfs"],
    }


def _restart_order(work: Work) -> dict[str, Any]:
    layout = build_layout(work)
    return {
        "root": _devices(work)[work.role.storage.root.name],
        "stacked": layout.stacked(),
        "raids": layout.raids(),
        "cmdline": f"root={layout.root_device()} ro {CMDLINE}",
    }


def _inspect_order(work: Work) -> dict[str, Any]:
    return {"lldp_seconds": LLDP_SECONDS}


def build_order(work: Work) -> dict[str, Any]:
    """What the agent is told for the step at hand; ``step`` is its own name where a whole disk needs something else."""
    orders = ORDERS | WHOLE_DISK if work.role.image.disk else ORDERS
    return {"step": str(work.step.name)} | orders[work.step.name](work)


ORDERS: dict[StepName, Callable[[Work], dict[str, Any]]] = {
    StepName.STORAGE: _storage_order,
    StepName.WRITE_IMAGE: _image_order,
    StepName.SEED_INSTANCE: _seed_order,
    StepName.BOOT_LOADER: _loader_order,
    StepName.RESTART: _restart_order,
    StepName.INSPECT: _inspect_order,
    StepName.TEST_NETWORK: _network_order,
    StepName.TEST_DISK: lambda work: {},
    StepName.TEST_MEMORY: lambda work: {},
    StepName.TEST_CPU: _cpu_order,
    StepName.RESCUE: lambda work: {"keys": list(work.deployment.placement.keys)},
    StepName.ERASE: lambda work: {"level": str(work.deployment.placement.erase)},
}
WHOLE_DISK: dict[StepName, Callable[[Work], dict[str, Any]]] = {
    StepName.STORAGE: _clear_order,
    StepName.SEED_INSTANCE: _seed_disk_order,
    StepName.BOOT_LOADER: _check_disk_order,
}
"""What is done otherwise when the image is a whole disk that somebody brought."""
