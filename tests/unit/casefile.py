"""A case as a file: documents separated by lines ``=== NAME``."""

from __future__ import annotations

import re


def split_case(text: str) -> dict[str, str]:
    """The documents by name."""
    parts = re.split(r"^=== (\S+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
