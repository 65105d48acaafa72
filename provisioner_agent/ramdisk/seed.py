"""The order ``seed-instance``: the first files of the instance, put into its root file system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provisioner_agent.ramdisk.disks import mounted
from provisioner_agent.ramdisk.host import Host, run_checked
from provisioner_agent.ramdisk.problem import OrderFailed

MOST_LINKS = 40


COPY_SECONDS = 1800.0


def do_seed(host: Host, order: Mapping[str, Any]) -> dict[str, Any]:
    """Fill the volumes beside the root with what the image has at their places, then write the files.

    :raises OrderFailed: a path leads out, or a folder stands in its place.
    """
    files = list(order["files"])
    with mounted(host, str(order["root"])) as folder:
        for mount in order["mounts"]:
            fill(host, folder, mount, fresh=mount["volume"] in order["made"])
        for file in files:
            write_below(host, folder, str(file["path"]), str(file["content"]).encode(), int(file["mode"]))
            host.say(f"instance: {file['path']}")
    return {"files": len(files)}


def fill(host: Host, root: str, mount: Mapping[str, Any], *, fresh: bool) -> None:
    """Make the folder that a volume is mounted on; a new volume gets what the image has there, owners and modes too."""
    place = resolve_below(host, root, str(mount["path"]).split("/"))
    if not fresh:
        return
    host.say(f"instance: {mount['path']} is filled")
    with mounted(host, str(mount["device"]), str(mount["filesystem"])) as volume:
        argv = ["cp", "-a", f"{place}/.", f"{volume}/"]
        run_checked(host, argv, f"{mount['path']} cannot be copied to its volume", limit=COPY_SECONDS)


def write_below(host: Host, top: str, path: str, data: bytes, mode: int) -> None:
    """Write a file below ``top`` as if ``top`` were the root; a link in its place is replaced, not followed.

    :raises OrderFailed: the path is not absolute, climbs, or cannot be written.
    """
    parts = path.split("/")[1:]
    if not path.startswith("/") or not parts or any(part in ("", ".", "..") for part in parts):
        raise OrderFailed(f"{path!r} is not a path of a file in the instance")
    try:
        folder = resolve_below(host, top, parts[:-1])
        target = f"{folder}/{parts[-1]}"
        if host.is_folder(target):
            raise OrderFailed(f"{path} is a folder in the image")
        host.write_file(target, data, mode)
    except OSError as error:
        raise OrderFailed(f"{path} cannot be written", str(error)) from error


def resolve_below(host: Host, top: str, parts: list[str], *, make: bool = True) -> str:
    """Follow ``parts`` from ``top``; links are read as the instance would read them, so none leads out of it.

    :param make: make folders that are missing. :raises OrderFailed: links in a circle.
    """
    todo, links = list(parts), 0
    done: list[str] = []
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1]
            continue
        here = "/".join([top, *done, part])
        target = host.link_target(here)
        if target is None:
            if make:
                host.ensure_folder(here)
            done.append(part)
            continue
        links += 1
        if links > MOST_LINKS:
            raise OrderFailed(f"links in the image run in a circle at {'/'.join(parts)}")
        todo = target.split("/") + todo
        if target.startswith("/"):
            done = []
    return "/".join([top, *done])
