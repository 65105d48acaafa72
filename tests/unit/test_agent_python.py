"""The config agent runs where Python is old: nothing in it is newer than 3.9."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

AGENT = Path(__file__).resolve().parents[2] / "provisioner_agent"
ROOMS = ("classic", "instance", "protocol", "render")
OLDEST = (3, 9)
OLDER = AGENT / "instance/install.py"
"""Also a Python that is too old must understand it: see ``test_instance_install.py``."""
FILES = [path for room in ROOMS for path in sorted((AGENT / room).glob("*.py")) if path != OLDER]


def newer(tree: ast.AST) -> list[str]:
    """What parses and fails when it runs: unions of types as values, ``zip(strict=)``; annotations are never run."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("isinstance", "issubclass") and isinstance(node.args[1], ast.BinOp):
                found.append(f"line {node.lineno}: a union in {node.func.id}")
            if node.func.id == "zip" and any(keyword.arg == "strict" for keyword in node.keywords):
                found.append(f"line {node.lineno}: zip(strict=)")
            if node.func.id == "dataclass" and any(keyword.arg in ("slots", "kw_only") for keyword in node.keywords):
                found.append(f"line {node.lineno}: dataclass({node.keywords[0].arg}=)")
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            found += [f"line {node.lineno}: {name}" for name in names if name in ("tomllib", "StrEnum", "Self", "UTC")]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_is_not_newer(path: Path) -> None:
    text = path.read_text()
    assert newer(ast.parse(text, feature_version=OLDEST)) == []
    assert "from __future__ import annotations" in text or not ast.parse(text).body[1:]


def test_what_is_newer_is_found() -> None:
    assert len(newer(ast.parse("isinstance(a, int | float); zip(a, strict=True); import tomllib"))) == 3
    with pytest.raises(SyntaxError):
        ast.parse("match a:\n    case 1: pass", feature_version=OLDEST)
