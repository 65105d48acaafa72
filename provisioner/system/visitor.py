"""The agent for instances whose image somebody else made, as one file."""

from __future__ import annotations

import io
import zipfile
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "provisioner_agent"
MODULES = (
    "__init__.py",
    "instance/__init__.py",
    "instance/document.py",
    "instance/host.py",
    "instance/probes.py",
    "instance/visitor.py",
    "protocol/__init__.py",
    "protocol/auth.py",
    "protocol/link.py",
    "protocol/parts.py",
    "protocol/servers.py",
    "protocol/messages.py",
)
MAIN = f"from {PACKAGE}.instance.visitor import main\nmain()\n"


def pack_visitor() -> bytes:
    """A zip that Python runs (:mod:`zipapp`); the same bytes each time."""
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None, "it is installed with us"
    folder = Path(spec.origin).parent
    files = {f"{PACKAGE}/{name}": (folder / name).read_text() for name in MODULES} | {"__main__.py": MAIN}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return packed.getvalue()
