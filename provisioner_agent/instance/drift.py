"""Drift: files of the generation in force that somebody else has changed since."""

from __future__ import annotations

from collections.abc import Mapping

from provisioner_agent.instance.account import build_mask
from provisioner_agent.instance.document import Document
from provisioner_agent.instance.files import compare_files, diff_text, render_files
from provisioner_agent.instance.host import Host
from provisioner_agent.instance.record import Record
from provisioner_agent.render.problem import RenderError

LOOK_SECONDS = 300.0
"""Between two looks: all templates are rendered for one."""
SHOWN = 2000
"""Characters of a file's diff that are told."""
REPAIR = "repair"
"""What a role says in ``config.drift`` when the agent is to put the files back; else it only tells."""


def find_drift(host: Host, document: Document, record: Record) -> dict[str, str]:
    """What differs, by path: a diff from what is there to what the generation says; of sensitive files only that.

    :param document: of the generation in force. :param record: names the files that the agent manages.
    """
    try:
        files = render_files(host, document)
    except RenderError:
        return {}  # the templates are a newer image's; that is told when a generation is applied
    changes = compare_files(host, files, record.files)
    mask = build_mask(document) if changes else str
    return {change.path: mask(diff_text([change], files))[:SHOWN] for change in changes}


def is_repaired(document: Document) -> bool:
    role: Mapping[str, object] = document.body.get("role") or {}
    return role.get("drift") == REPAIR
