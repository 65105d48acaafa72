"""The collector's options: of its configuration file, and over them those of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioner_agent.classic.problem import ClassicError

CONFIG = "/etc/os-collect-config.conf"
NOT_OFFERED = ("cfn", "heat", "zaqar")
"""Sources that need a running Heat or Zaqar; a list that names them is read all the same."""
TRUES, FALSES = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass(frozen=True)
class Settings:
    """Names are those of os-collect-config, a group's with an underscore before its option; seconds."""

    collectors: tuple[str, ...] = ("heat_local", "ec2", "nocloud", "request", "local", "provisioner")
    command: str | None = None
    cachedir: str = "/var/lib/os-collect-config"
    backup_cachedir: str = "/var/run/os-collect-config"
    one_time: bool = False
    min_polling_interval: float = 1.0
    polling_interval: float = 30.0
    print_cachedir: bool = False
    force: bool = False
    print: bool = False
    deployment_key: tuple[str, ...] = ("deployments",)
    splay: float = 0.0
    ec2_metadata_url: str = "http://169.254.169.254/latest/meta-data"
    ec2_timeout: float = 10.0
    request_metadata_url: str | None = None
    request_timeout: float = 10.0
    local_path: tuple[str, ...] = ("/var/lib/os-collect-config/local-data",)
    heat_local_path: tuple[str, ...] = ("/var/lib/heat-cfntools/cfn-init-data",)
    nocloud_path: tuple[str, ...] = ("/var/lib/cloud/seed/nocloud", "/var/lib/cloud/seed/nocloud-net")
    provisioner_config: str = "/etc/provisioner-agent/agent.json"


HELP: Mapping[str, str] = {
    "collectors": "the sources, in this order",
    "command": "run this by the shell when something changed, with OS_CONFIG_FILES; without it all is printed",
    "cachedir": "where what the sources said is kept",
    "backup_cachedir": "a copy of that",
    "one_time": "end after one look",
    "min_polling_interval": "seconds between two looks after a change",
    "polling_interval": "seconds between two looks at most",
    "print_cachedir": "say where the cache is",
    "force": "run the command though nothing changed, and end",
    "print": "print what the sources say, and run nothing",
    "deployment_key": "lists at the root that are files of their own",
    "splay": "wait up to so many seconds before the first look",
    "ec2_metadata_url": "where metadata are in EC2's form, if there is no config drive",
    "request_metadata_url": "where a map of JSON is",
    "local_path": "folders of JSON files",
    "heat_local_path": "files of JSON maps, the later over the earlier",
    "nocloud_path": "folders with a meta-data of cloud-init's NoCloud",
    "provisioner_config": "where the provisioner is; its metadata are a source",
}
GROUPS = ("ec2", "request", "local", "heat_local", "nocloud", "provisioner")
SHORT = {"command": "-c", "polling_interval": "-i"}


def option_name(name: str) -> str:
    """``--ec2-metadata-url`` of ``ec2_metadata_url``; a group keeps its underscore."""
    group = next((group for group in sorted(GROUPS, key=len, reverse=True) if name.startswith(f"{group}_")), "")
    if not group:
        return name.replace("_", "-")
    return f"{group}-{name[len(group) + 1 :].replace('_', '-')}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of os-collect-config."""
    parser.add_argument("--config-file", metavar="FILE", default=CONFIG, help="options of old (default: %(default)s)")
    for name, default in vars(Settings()).items():
        flags = [*([SHORT[name]] if name in SHORT else []), f"--{option_name(name)}"]
        shown = HELP.get(name, "see os-collect-config")
        if name == "collectors":
            parser.add_argument(name, nargs="*", metavar="SOURCE", help=f"{shown} (default: {' '.join(default)})")
        elif isinstance(default, bool):
            parser.add_argument(*flags, dest=name, action="store_true", default=None, help=shown)
        elif isinstance(default, tuple):
            parser.add_argument(*flags, dest=name, action="append", metavar="WORD", help=shown)
        else:
            kind = float if isinstance(default, float) else str
            parser.add_argument(*flags, dest=name, type=kind, metavar=kind.__name__.upper(), help=shown)


def read_settings(options: argparse.Namespace) -> Settings:
    """:raises ClassicError: the file cannot be read, or holds what is not an option's value."""
    found: dict[str, Any] = {}
    defaults = vars(Settings())
    for name, texts in _read_file(Path(options.config_file)).items():
        if name in defaults:
            found[name] = _convert(name, texts, defaults[name], options.config_file)
    for name in defaults:
        given = getattr(options, name)
        if given not in (None, []):
            found[name] = tuple(given) if isinstance(given, list) else given
    if "collectors" in found:
        found["collectors"] = tuple(name for name in found["collectors"] if name not in NOT_OFFERED)
    return Settings(**found)


def _read_file(path: Path) -> dict[str, list[str]]:
    """All values of each option, in order, by :class:`Settings`' names. A line that begins with a space goes on."""
    found: dict[str, list[str]] = {}
    section, last = "", None
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
    except OSError as error:
        raise ClassicError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        if line[0].isspace() and last is not None:
            found[last][-1] += f"\n{text}"
        elif text.startswith("[") and text.endswith("]"):
            name = text[1:-1]
            section, last = ("" if name == "DEFAULT" else f"{name}_"), None
        else:
            name, equal, value = text.partition("=")
            if not equal:
                name, equal, value = text.partition(":")
            if not equal:
                raise ClassicError(f"{path}:{number}: not an option and its value: {text}")
            last = section + name.strip().replace("-", "_")
            found.setdefault(last, []).append(value.strip())
    return found


def _convert(name: str, texts: list[str], default: Any, path: str) -> Any:
    text = texts[-1]
    if isinstance(default, tuple):
        return tuple(texts)
    if isinstance(default, bool):
        if text.lower() not in (*TRUES, *FALSES):
            raise ClassicError(f"{path}: {name} is true or false, not {text}")
        return text.lower() in TRUES
    if isinstance(default, float):
        try:
            return float(text)
        except ValueError:
            raise ClassicError(f"{path}: {name} is a number, not {text}") from None
    return text
