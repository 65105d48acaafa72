"""Large files from another host, over a connection that the caller opens; what came stays when the line is cut."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path

BLOCK = 1 << 20


def fetch_file(connection: HTTPConnection, path: str, target: Path, size: int, tell: Callable[[int], None]) -> None:
    """Go on where ``target`` ends, until it has ``size`` bytes (RFC 9110, section 14). Nothing is proved by that.

    :param tell: hears how many bytes there are. :raises OSError: the line was cut, or the disk is full.
    :raises HTTPException: the other sends something else.
    """
    have = target.stat().st_size if target.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        if answer.status != (206 if have else 200):
            raise HTTPException(f"{path}: the other answers {answer.status}")
        with target.open("ab") as file:
            while block := answer.read(min(BLOCK, size - have + 1)):
                have += len(block)
                if have > size:
                    raise HTTPException(f"{path}: more than {size} bytes come")
                file.write(block)
                tell(have)
    finally:
        connection.close()
    if have != size:
        raise HTTPException(f"{path}: {have} of {size} bytes came")
