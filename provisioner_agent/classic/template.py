"""A template as the old trees have it: mustache in which what is missing is nothing, or a program that prints."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pystache

from provisioner_agent.classic.problem import ClassicError
from provisioner_agent.classic.programs import run


class _Renderer(pystache.Renderer):  # type: ignore[misc]
    """Values are JSON, and nothing is escaped: these are configuration files."""

    def __init__(self) -> None:
        super().__init__(escape=lambda text: text, missing_tags="ignore", file_encoding="utf-8")

    def str_coerce(self, val: Any) -> str:
        if type(val) is int:
            return str(val)  # as JSON has it, in a tenth of the time: most of a tree's values are ports and sizes
        return "" if val is None else json.dumps(val)


def render(template: Path, data: Mapping[str, Any]) -> bytes:
    """:raises ClassicError: it cannot be rendered, or the program failed; with what it said."""
    if template.is_file() and os.access(template, os.X_OK):
        return _run(template, data)
    try:
        text = _Renderer().render(template.read_text(encoding="utf-8"), dict(data))
    except Exception as error:  # pystache raises whatever its parser meets
        raise ClassicError(f"it cannot be rendered: {error}") from error
    return str(text).encode()


def _run(program: Path, data: Mapping[str, Any]) -> bytes:
    ended = run([str(program)], json.dumps(data).encode())
    if ended.code != 0:
        said = ended.output.decode("utf-8", "replace") + ended.said
        raise ClassicError(f"it ended with code {ended.code} and said: {said.strip() or 'nothing'}")
    return ended.output
