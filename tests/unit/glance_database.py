"""Stands for PyMySQL and Glance's database: images by name, with checksum and places, in the file ``DATABASE``.

What is tested imports it as ``pymysql``. ``DELETED`` names an image that is gone when it is told of a place.
"""

from __future__ import annotations

import json
import os
import pathlib

PATH = pathlib.Path(os.environ["DATABASE"])


class err:
    class MySQLError(Exception):
        pass


class Connection:
    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def ping(self, reconnect: bool) -> None:
        pass

    def cursor(self) -> Connection:
        return self

    def fetchall(self) -> list[tuple[str, str | None]]:
        known = json.loads(PATH.read_text())
        return [(name, one["checksum"]) for name, one in known.items() if not any("swift" in at for at in one["at"])]

    def execute(self, statement: str, words: tuple[str, ...] = ()) -> int:
        if words:
            known = json.loads(PATH.read_text())
            if words[1] == os.environ.get("DELETED"):
                return 0
            known[words[1]]["at"].append(words[0])
            PATH.write_text(json.dumps(known))
        return 1


class connections:
    Connection = Connection


def connect(**words: object) -> Connection:
    assert words["database"] == words["user"] == "glance" and words["password"] == "secret-glance_database_password"
    return Connection()
