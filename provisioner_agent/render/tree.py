"""A template tree with its control files and data becomes files in memory."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioner_agent.render.problem import Problem, RenderError
from provisioner_agent.render.references import put_references
from provisioner_agent.render.template import render_template

CONTROL = ".control"
RESERVED = ("cloud", "role", "node", "members", "secrets", "certificates", "firewall")
"""Top-level names of the data that are not values."""

MODE = re.compile(r"^0?[0-7]{3}$")
ACCOUNT = re.compile(r"^[a-z_][a-z0-9_-]*$")
UNIT = re.compile(r"^[A-Za-z0-9:_.][A-Za-z0-9:_.@-]*(?<!@)\.(?:service|socket|timer|target)$")
"""Of a template of units (``web@.service``) an instance must be named: systemd says nothing of it, nor of those that it
is asked about in the same breath (systemctl(1))."""
RESTART, RELOAD, PHASE = "restart", "reload", "phase"
"""What becomes of a unit when a file of it changes: the agent restarts or reloads it, or a phase script sees to it."""


@dataclass(frozen=True)
class RenderedFile:
    """A file as it is to stand in the instance.

    :param path: absolute. :param validate: a command that ends with 0 when the file at ``{path}`` is good.
    :param sensitive: its content is never shown. :param services: units of systemd that a change of the file is about,
        each with ``restart``, ``reload`` or ``phase``. :param confirm: whether a change of it may cut the node off, and
        is taken back unless the server is heard again.
    """

    path: str
    content: str
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    validate: tuple[str, ...] = ()
    sensitive: bool = False
    services: Mapping[str, str] = field(default_factory=dict)
    confirm: bool = False


def split_tree(files: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """{relative path: text} of a template folder → (templates, control files), both by the template's path."""
    templates = {path: text for path, text in files.items() if not path.endswith(CONTROL)}
    controls = {path.removesuffix(CONTROL): text for path, text in files.items() if path.endswith(CONTROL)}
    return templates, controls


def build_data(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The data that templates see: the values at the top, beside them the names of RESERVED.

    Values that refer to a secret are that secret.

    :raises RenderError: a value has one of those names, or refers to a secret that the node was not given.
    """
    secrets = metadata.get("secrets") or {}
    try:
        values = put_references(metadata.get("values") or {}, metadata, lambda name: secrets[name])
    except (LookupError, TypeError, ValueError) as error:
        what = f"a value refers to a secret that is not there: {error}"
        raise RenderError([Problem("metadata", what)]) from error
    taken = [Problem("metadata", f"a value may not be called {name}") for name in RESERVED if name in values]
    if taken:
        raise RenderError(taken)
    return values | with_own_members({name: metadata[name] for name in RESERVED if name in metadata})


def with_own_members(data: Mapping[str, Any]) -> dict[str, Any]:
    """Data in which ``role.members`` are those of the role itself, for templates that serve several roles.

    ``role.alone``: whether there are no two of them.
    """
    role, members = data.get("role"), data.get("members")
    if isinstance(role, Mapping) and isinstance(members, Mapping) and role.get("name") in members:
        own = members[role["name"]]
        return {**data, "role": {**role, "members": own, "alone": len(own) < 2}}
    return dict(data)


def render_tree(
    templates: Mapping[str, str],
    controls: Mapping[str, str],
    data: Mapping[str, Any],
    stand_ins: Collection[str] = (),
) -> dict[str, RenderedFile]:
    """Render all templates.

    :param templates: text by path below the root, ``etc/motd``. :param controls: control files by the path of their
        template; each is a JSON map with any of ``mode`` (octal text, ``"0640"``), ``owner``, ``group``, ``validate``
        (argv, with ``{path}`` in one of its words), ``sensitive`` (bool), ``services`` ({unit: ``restart``, ``reload``
        or ``phase``}), ``confirm`` (bool), ``lax`` (bool: a missing key renders as nothing) and ``allow_empty`` (bool:
        when false there is no file where the template renders to nothing).
    :param stand_ins: what stands in the place of secrets that are not to be shown.
    :returns: the files by their absolute path.
    :raises RenderError: with every problem of every template.
    """
    problems: list[Problem] = []
    files: dict[str, RenderedFile] = {}
    for orphan in sorted(set(controls) - set(templates)):
        problems.append(Problem(orphan + CONTROL, "there is no template beside it"))
    for path in sorted(templates):
        if path != posixpath.normpath(path) or path.startswith(("/", "..")):
            problems.append(Problem(path, "not a path below the root of the template tree"))
            continue
        control = _parse_control(path, controls.get(path, "{}"), problems)
        lax, allow_empty = bool(control.pop("lax", False)), bool(control.pop("allow_empty", True))
        content = render_template(path, templates[path], data, problems, lax=lax, stand_ins=stand_ins)
        if allow_empty or content.strip():
            files[f"/{path}"] = RenderedFile(f"/{path}", content, **control)
    if problems:
        raise RenderError(problems)
    return files


def _parse_control(path: str, text: str, problems: list[Problem]) -> dict[str, Any]:
    where = path + CONTROL
    try:
        raw = json.loads(text)
    except ValueError as error:
        problems.append(Problem(where, f"not JSON: {error}"))
        return {}
    if not isinstance(raw, dict):
        problems.append(Problem(where, "not a JSON map"))
        return {}
    control: dict[str, Any] = {}
    for key, value in raw.items():
        if key == "mode" and isinstance(value, str) and MODE.match(value):
            control[key] = int(value, 8)
        elif key == "validate" and _is_command(value):
            control[key] = tuple(value)
        elif key in CHECKS and CHECKS[key](value):
            control[key] = value
        else:
            problems.append(Problem(where, f"{key}: {json.dumps(value)} is not what a control file may say"))
    return control


def _is_account(value: Any) -> bool:
    return isinstance(value, str) and bool(ACCOUNT.match(value))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_services(value: Any) -> bool:
    return isinstance(value, dict) and all(
        UNIT.match(unit) and how in (RESTART, RELOAD, PHASE) for unit, how in value.items()
    )


def _is_command(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(word, str) for word in value)
        and any("{path}" in word for word in value)
    )


CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "owner": _is_account,
    "group": _is_account,
    "sensitive": _is_flag,
    "confirm": _is_flag,
    "lax": _is_flag,
    "allow_empty": _is_flag,
    "services": _is_services,
}
"""What a control file may say as it is, by key."""
