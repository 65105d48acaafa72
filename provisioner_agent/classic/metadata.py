"""Metadata files: which are read, how they are merged, how a value is found in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from provisioner_agent.classic.problem import ClassicError

FILES_VARIABLE = "OS_CONFIG_FILES"
LIST_VARIABLE = "OS_CONFIG_FILES_PATH"
LIST_FILE = "/var/lib/os-collect-config/os_config_files.json"
OLD_LIST_FILE = "/var/run/os-collect-config/os_config_files.json"
FALLBACK_FILES = (
    "/var/cache/heat-cfntools/last_metadata",
    "/var/lib/heat-cfntools/cfn-init-data",
    "/var/lib/cloud/data/cfn-init-data",
)
"""Always read first."""


def choose_files(given: Sequence[str], list_file: str, environment: Mapping[str, str]) -> list[str]:
    """Those of the command line, else of the environment, else those that the collector listed.

    :raises ClassicError: the list is none.
    """
    if given:
        return list(given)
    if FILES_VARIABLE in environment:
        return environment[FILES_VARIABLE].split(":")
    default = environment.get(LIST_VARIABLE, LIST_FILE)
    return _read_list(list_file) or (_read_list(OLD_LIST_FILE) if list_file == default else [])


def _read_list(path: str) -> list[str]:
    if not Path(path).exists():
        return []
    found = _parse(path)
    if not isinstance(found, list):
        raise ClassicError(f"{path} holds no list of files")
    return [str(item) for item in found]


def read_metadata(paths: Iterable[str]) -> dict[str, Any]:
    """All files that exist as one map, the later over the earlier. What is no map counts as nothing.

    :raises ClassicError: a file cannot be read, or is not JSON.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        if path and Path(path).exists():
            found = _parse(path)
            if isinstance(found, dict):
                merged = merge(merged, found)
    return merged


def _parse(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ClassicError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ClassicError(f"{path} is not JSON: {error}") from error


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Maps key by key; everything else, lists too, is replaced."""
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        merged[key] = merge(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged


def find_part(data: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The map at a dotted path. :raises ClassicError: there is none."""
    found = data
    for key in path.split("."):
        inner = found.get(key)
        if not isinstance(inner, dict):
            raise ClassicError(f"{path} is no map in the metadata")
        found = inner
    return found


def find_value(data: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, whose words may be places in a list; None when it is missing or null."""
    found: Any = data
    for word in path.split("."):
        if isinstance(found, dict):
            found = found.get(word)
            if found is None:
                return None
        elif isinstance(found, list):
            try:
                found = found[int(word)]
            except (ValueError, IndexError):
                return None
        else:
            return None
    return found
