"""From metadata to the list of files that differ: render, validate, compare."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from provisioner_agent.instance import places
from provisioner_agent.instance.account import Mask
from provisioner_agent.instance.document import Document
from provisioner_agent.instance.host import FileState, Host
from provisioner_agent.instance.journal import Change
from provisioner_agent.instance.record import Managed
from provisioner_agent.render.problem import Problem, RenderError
from provisioner_agent.render.tree import RenderedFile, build_data, render_tree, split_tree

VALIDATOR_LIMIT = 120.0
SHOWN = 500
"""Characters of a validator's last words that are told."""


def render_files(host: Host, document: Document, templates: str = places.TEMPLATES) -> dict[str, RenderedFile]:
    """All files of a generation, by path.

    :raises RenderError: with every problem of every template.
    """
    try:
        sources, controls = split_tree(host.tree(templates))
    except UnicodeDecodeError as error:
        raise RenderError([Problem(templates, f"a template is not UTF-8 text: {error}")]) from error
    return render_tree(sources, controls, build_data(document.body))


def check_files(host: Host, files: Mapping[str, RenderedFile], mask: Mask = str) -> list[dict[str, Any]]:
    """Run each file's own validator on a candidate of it, which lies at the same path below another folder.

    Beside it are the candidates of all other files of the generation, which it may refer to.

    :param mask: hides secrets in what a validator said, before it is cut.
    :returns: ``{"path", "command", "code", "seconds", "said"}`` of each. Whether they are all good, says
        :func:`refuse_files`.
    """
    said: list[dict[str, Any]] = []
    judged = {path: file for path, file in files.items() if file.validate}
    try:
        for path, file in files.items() if judged else ():
            host.write(places.CANDIDATE + path, FileState(file.content.encode(), 0o600))
        for path, file in judged.items():
            argv = [word.replace("{path}", host.real(places.CANDIDATE + path)) for word in file.validate]
            begun = host.monotonic()
            done = host.run(argv, limit=VALIDATOR_LIMIT)
            words = "; ".join(done.output.strip().splitlines()[-5:]) if not file.sensitive else "(sensitive)"
            said.append(
                {
                    "path": path,
                    "command": shlex.join(file.validate),
                    "code": done.code or (-9 if done.timed_out else 0),
                    "seconds": round(host.monotonic() - begun, 3),
                    "said": mask(words)[-SHOWN:],
                }
            )
    finally:
        host.remove(places.CANDIDATE)
    return said


def refuse_files(checks: Iterable[Mapping[str, Any]]) -> None:
    """:raises RenderError: with the last words of every validator that said no."""
    bad = [check for check in checks if check["code"] != 0]
    if bad:
        what = "{command} ended with code {code}: {said}"
        raise RenderError([Problem(check["path"], what.format(**check)) for check in bad])


def managed_of(files: Mapping[str, RenderedFile]) -> Managed:
    """What a generation with these files manages."""
    return Managed(
        tuple(sorted(files)),
        {path: dict(file.services) for path, file in sorted(files.items()) if file.services},
        tuple(path for path, file in sorted(files.items()) if file.confirm),
    )


def compare_files(host: Host, files: Mapping[str, RenderedFile], managed: Iterable[str]) -> tuple[Change, ...]:
    """What of the paths that were managed must be removed, and then what must be written: a file may give way to a
    folder of its name, or a folder to a file."""
    changes = []
    for path in sorted(set(managed) - set(files)):
        old = host.read(path)
        if old is not None:
            changes.append(Change(path, old, None))
    for path, file in sorted(files.items()):
        old = host.read(path)
        new = FileState(file.content.encode(), file.mode)
        if host.owns:
            new = replace(new, owner=file.owner, group=file.group)
        if old != new:
            changes.append(Change(path, old, new))
    return tuple(changes)


def diff_text(changes: Iterable[Change], files: Mapping[str, RenderedFile]) -> str:
    """The changes as a unified diff; of a sensitive file, and of one that is removed, only that it differs."""
    lines: list[str] = []
    for change in changes:
        if change.new is None:
            lines.append(f"removed: {change.path}")
            continue
        if change.old is None or _attributes(change.old) != _attributes(change.new):
            before = _attributes(change.old) if change.old else "no file"
            lines.append(f"{change.path}: {before} → {_attributes(change.new)}")
        if files[change.path].sensitive:
            lines.append(f"{change.path}: the content differs (sensitive)")
            continue
        lines += difflib.unified_diff(
            (change.old.data if change.old else b"").decode(errors="replace").splitlines(),
            change.new.data.decode().splitlines(),
            change.path,
            change.path,
            lineterm="",
        )
    return "\n".join(lines)


def _attributes(state: FileState) -> str:
    return f"{state.mode:04o} {state.owner}:{state.group}"
