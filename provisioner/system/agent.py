"""The config agent as one file, for images that somebody else made."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

PACKAGE, MUSTACHE = "provisioner_agent", "pystache"
ROOMS = ("classic", "instance", "protocol", "render")
"""Those of the package that the config agent has; that of the ramdisk is not among them."""
MAIN = f"""\
import sys
if sys.argv[1:2] == ["install"] or sys.version_info < (3, 9):
    from {PACKAGE}.instance.install import main
else:
    from {PACKAGE}.command import main
main()
"""
BROUGHT = "files"
UNITS = "/etc/systemd/system"


def pack_agent(files: Mapping[str, tuple[str, int]]) -> bytes:
    """A zip that Python runs (:mod:`zipapp`); the same bytes each time.

    :param files: what it puts in their places beside its own units when it is installed: text and mode by path.
    """
    package, mustache = _folder(PACKAGE), _folder(MUSTACHE)
    modules = [package / "__init__.py", package / "command.py"]
    modules += [path for room in ROOMS for path in sorted((package / room).glob("*.py"))]
    texts = {"__main__.py": MAIN}
    texts |= {f"{PACKAGE}/{path.relative_to(package)}": path.read_text() for path in modules}
    texts |= {f"{MUSTACHE}/{path.name}": path.read_text() for path in sorted(mustache.glob("*.py"))}
    for licence in sorted(mustache.parent.glob(f"{MUSTACHE}-*.dist-info/LICENSE")):
        texts[f"{MUSTACHE}/{licence.name}"] = licence.read_text()
    units = {f"{UNITS}/{path.name}": (path.read_text(), 0o644) for path in (package / "instance").glob("*.service")}
    brought = sorted((units | dict(files)).items())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
        for path, (text, mode) in brought:
            info = zipfile.ZipInfo(BROUGHT + path)
            info.external_attr = mode << 16
            archive.writestr(info, text, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, "it is installed with us"
    return Path(spec.origin).parent
