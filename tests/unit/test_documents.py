"""Every page of documentation is well-formed, and what the README names is there."""

from __future__ import annotations

import re
from pathlib import Path

import docutils.core
import docutils.nodes
import pytest

from provisioner.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for path in ROOT.rglob("*.rst") if not {".tox", "build"} & set(path.relative_to(ROOT).parts))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_is_well_formed(page: Path) -> None:
    settings = {"report_level": 2, "halt_level": 2, "warning_stream": False, "file_insertion_enabled": False}
    tree = docutils.core.publish_doctree(page.read_text(), source_path=str(page), settings_overrides=settings)
    texts = [paragraph.astext() for paragraph in tree.findall(docutils.nodes.paragraph)]
    assert not [text for text in texts if re.search(r"^[=<>]{6,}", text, re.MULTILINE)], "a title that is none"


def test_commands_and_places_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.rst").read_text()
    words = re.findall(r"provisioner ((?:node|image|cloud|lab|config) [a-z-]+|plan|apply|serve|events)\b", text)
    assert words and not set(words) - set(COMMANDS)
    places = re.findall(r"``((?:tests|seed|hardware|ci|elements|templates|roles|model)/[a-z_./-]*)``", text)
    missing = [place for place in places if not any((base / place).exists() for base in (ROOT, ROOT / "provisioner"))]
    assert places and not missing
