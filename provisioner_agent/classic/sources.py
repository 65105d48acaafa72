"""Where metadata come from. Each source gives ``[(name, map)]``, or says that it is away, or that nobody set it up."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from provisioner_agent.classic.cache import Cache
from provisioner_agent.classic.flat import parse_flat
from provisioner_agent.classic.programs import run
from provisioner_agent.classic.settings import Settings
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.auth import AuthError
from provisioner_agent.protocol.link import HttpLink, Refused, ServerAway
from provisioner_agent.protocol.parts import join_parts, needed_parts
from provisioner_agent.protocol.servers import read_servers
from provisioner_agent.render.references import put_references

Found = list[tuple[str, Any]]

DRIVE_LABEL, DRIVE_TYPES, DRIVE_FILE = "config-2", ("vfat", "iso9660"), "ec2/latest/meta-data.json"
SEED_LABELS, SEED_FILE = ("cidata", "CIDATA"), "meta-data"
GROUPS = ("os-apply-config", "Heat::Ungrouped")
"""Of deployments, those that are metadata; the others are another tool's."""
ANSWER_SECONDS = 30.0


class Away(Exception):
    """The source does not say anything just now: what it said last goes on to hold."""


class NotSetUp(Exception):
    """Nobody has said where it is."""


def read_local(settings: Settings, cache: Cache) -> Found:
    """Every file of some folders, by name. One that others may write makes all of them worthless."""
    found = []
    for folder in map(Path, settings.local_path):
        if not folder.exists():
            continue
        _check_private(folder, owner=True)
        for path in folder.iterdir():
            if not path.name.startswith(".") and not path.is_dir():
                _check_private(path, owner=False)
                found.append((path.name, _parse(path.read_text("utf-8"), str(path))))
    return sorted(found, key=lambda item: os.fsencode(item[0]))


def _check_private(path: Path, *, owner: bool) -> None:
    known = path.stat()
    if owner and known.st_uid != os.getuid():
        raise Away(f"{path} is another user's: chown it")
    if known.st_mode & stat.S_IWOTH:
        raise Away(f"everybody may write {path}: chmod o-w it")


def read_heat_local(settings: Settings, cache: Cache) -> Found:
    """What heat-cfntools left: maps, of which a later one replaces the keys of one before."""
    joined: dict[str, Any] = {}
    for path in map(Path, settings.heat_local_path):
        if path.exists():
            try:
                found = json.loads(path.read_text("utf-8"))
            except ValueError:
                continue
            if isinstance(found, dict):
                joined.update(found)
    if not joined:
        raise Away(f"no map in {', '.join(settings.heat_local_path)}")
    return [("heat_local", joined)]


def read_ec2(settings: Settings, cache: Cache) -> Found:
    """An instance's own, once and for all: from a config drive, or by HTTP."""
    known = cache.read("ec2")
    if known:
        return [("ec2", known)]
    drive = _find_volume((DRIVE_LABEL,), DRIVE_TYPES)
    if drive is not None:
        with _mounted(drive) as folder:
            path = folder / DRIVE_FILE
            if path.is_file():
                return [("ec2", _parse(path.read_text("utf-8"), str(path)))]
    return [("ec2", _fetch_tree(f"{settings.ec2_metadata_url}/", settings.ec2_timeout))]


def _fetch_tree(url: str, seconds: float) -> Any:
    """A folder's address ends with a slash; its lines are names, those of keys as ``NUMBER=NAME``."""
    text = _fetch(url, seconds)
    if not url.endswith("/"):
        return text
    found: dict[str, Any] = {}
    for line in text.split("\n"):
        name = f"{line.partition('=')[0]}/" if "=" in line else line
        if name:
            found[name.rstrip("/")] = _fetch_tree(url + name, seconds)
    return found


def read_nocloud(settings: Settings, cache: Cache) -> Found:
    """cloud-init's NoCloud: a folder, or a volume called ``cidata``."""
    for folder in map(Path, settings.nocloud_path):
        if (folder / SEED_FILE).is_file():
            return _read_seed(folder)
    volume = _find_volume(SEED_LABELS, DRIVE_TYPES)
    if volume is None:
        raise NotSetUp("there is no seed of NoCloud")
    with _mounted(volume) as folder:
        return _read_seed(folder)


def _read_seed(folder: Path) -> Found:
    path = folder / SEED_FILE
    try:
        return [("nocloud", parse_flat(path.read_text("utf-8")) or {})]
    except (OSError, ValueError) as error:
        raise Away(f"{path}: {error}") from error


def read_request(settings: Settings, cache: Cache) -> Found:
    url = settings.request_metadata_url
    if not url:
        raise NotSetUp("request_metadata_url is not set")
    found = _parse(_fetch(url, settings.request_timeout), url)
    if not isinstance(found, dict):
        raise Away(f"{url} is no map")
    return explode("request", found, settings.deployment_key)


def read_provisioner(settings: Settings, cache: Cache) -> Found:
    """The provisioner's own, whole: what ``run`` follows, for who would rather poll."""
    path = Path(settings.provisioner_config)
    if not path.is_file():
        raise NotSetUp(f"{path} is not there")
    try:
        config = json.loads(path.read_text("utf-8"))
        with closing(HttpLink(read_servers(config), config["token"])) as link:
            answer = link.call("GET", f"{messages.METADATA}?since=0&wait=0", timeout=ANSWER_SECONDS)
        if not answer:
            raise Away("there are no metadata for this instance yet")
        parts = [answer["parts"][ident] for ident in needed_parts(answer["metadata"])]
        found = join_parts(answer["metadata"], parts)
        secrets = found.get("secrets") or {}
        found["values"] = put_references(found.get("values") or {}, found, lambda name: secrets[name])
        return [("provisioner", found)]
    except (AuthError, Refused, ServerAway) as error:
        raise Away(str(error)) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Away(f"{path}, or the answer, has another shape: {error!r}") from error


SOURCES: Mapping[str, Callable[[Settings, Cache], Found]] = {
    "heat_local": read_heat_local,
    "ec2": read_ec2,
    "nocloud": read_nocloud,
    "request": read_request,
    "local": read_local,
    "provisioner": read_provisioner,
}
"""Each raises Away and NotSetUp."""


def explode(name: str, content: Mapping[str, Any], keys: Sequence[str]) -> Found:
    """The content, and after it each deployment in it that is metadata, under its own name."""
    found: Found = [(name, content)]
    for key in keys:
        deployments = content.get(key)
        for deployment in deployments if isinstance(deployments, list) else ():
            if "name" in deployment and deployment.get("group", GROUPS[1]) in GROUPS:
                found.append((deployment["name"], deployment["config"]))
    return found


def _fetch(url: str, seconds: float) -> str:
    if not url.startswith(("http://", "https://")):
        raise Away(f"{url} is no address of a web server")
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310
            return bytes(answer.read()).decode("utf-8")
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise Away(f"{url}: {error}") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Away(f"{where} is not JSON: {error}") from error


def _find_volume(labels: Sequence[str], types: Sequence[str]) -> str | None:
    """The first device with such a label and file system (blkid(8))."""
    for device in run(["blkid", "-o", "export"]).output.decode("utf-8", "replace").split("\n\n"):
        said = dict(line.replace("\\ ", " ").split("=", 1) for line in device.splitlines() if "=" in line)
        if said.get("LABEL") in labels and said.get("TYPE") in types:
            return said.get("DEVNAME")
    return None


@contextmanager
def _mounted(device: str) -> Iterator[Path]:
    """Where it is, or for a while read-only on a folder of its own. :raises Away:"""
    for line in Path("/proc/mounts").read_text("utf-8").splitlines():
        words = line.split()
        if words[0] == device:
            yield Path(words[1])
            return
    with tempfile.TemporaryDirectory(prefix="config-2-") as folder:
        ended = run(["mount", device, folder, "-o", "ro"])
        if ended.code != 0:
            raise Away(f"{device} cannot be mounted: {ended.said.strip()}")
        try:
            yield Path(folder)
        finally:
            run(["umount", "-l", folder])
