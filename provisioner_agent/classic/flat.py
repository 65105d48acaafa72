"""Small maps of YAML, read without a library: ``key: value`` in lines of their own, or JSON."""

from __future__ import annotations

import json
import re
from typing import Any

LINE = re.compile(r"^(?P<key>[^\s:#'\"{}\[\],&*!|>%@`]+)\s*:(?:\s+(?P<value>.*))?$")
COMMENT = re.compile(r"(?:^|\s)#.*$")
NUMBERS = (
    (re.compile(r"^[-+]?0[0-7_]+$"), 8),
    (re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), 10),
    (re.compile(r"^[-+]?0x[0-9a-fA-F_]+$"), 16),
    (re.compile(r"^[-+]?0b[01_]+$"), 2),
)
"""YAML 1.1: a number that begins with 0 is octal."""
TRUES, FALSES = ("true", "yes", "on"), ("false", "no", "off")
NULLS = ("", "~", "null", "Null", "NULL")


def parse_flat(text: str) -> Any:
    """None for nothing. Comments, plain and quoted text, booleans and whole numbers.

    :raises ValueError: it is more than this reads, with the line.
    """
    try:
        return json.loads(text)
    except ValueError:
        pass
    found: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        quoted = line.rstrip()[-1:] in ("'", '"')
        bare = (line if quoted else COMMENT.sub("", line)).rstrip()
        if not bare or bare in ("---", "..."):
            continue
        match = LINE.match(bare)
        if match is None:
            raise ValueError(f"line {number} is not a key and its value: {line.strip()}")
        found[match["key"]] = _scalar((match["value"] or "").strip(), number)
    return found or None


def _scalar(word: str, number: int) -> Any:
    if word in NULLS:
        return None
    if word[0] in "'\"":
        if len(word) < 2 or word[-1] != word[0]:
            raise ValueError(f"line {number}: a quote is not closed")
        return word[1:-1]
    if word[0] in "{[&*!|>%@`":
        raise ValueError(f"line {number}: {word} is more than a flat map holds")
    if word in {form for known in TRUES for form in (known, known.upper(), known.title())}:
        return True
    if word in {form for known in FALSES for form in (known, known.upper(), known.title())}:
        return False
    for pattern, base in NUMBERS:
        if pattern.match(word):
            return int(word.replace("_", ""), base)
    return word
