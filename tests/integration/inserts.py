"""An application that writes, and notes what it was told to be kept: rows of ``app.rows``, one after another."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Client = Callable[[str, int], "subprocess.CompletedProcess[str]"]
"""Runs a statement at the cluster's address, given seconds to connect within; what came of it."""
TABLE = "CREATE TABLE app.rows (number INT PRIMARY KEY)"


class Inserts(threading.Thread):
    """Inserts one row after another, each until it is acknowledged.

    ``acknowledged``: their numbers. ``longest``: seconds between two of them. :param first: a number that no row has; a
        row that is there already changes nothing, and no member gets ahead of another by it.
    """

    def __init__(self, client: Client, first: int) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._first = first
        self._over = threading.Event()
        self.acknowledged: list[int] = []
        self.longest = 0.0

    def run(self) -> None:
        number, before = self._first - 1, time.monotonic()
        while not self._over.is_set():
            number += 1
            # A client that was cut off cannot know whether its row is there: it asks with the same number again.
            statement = f"INSERT INTO app.rows VALUES ({number}) ON DUPLICATE KEY UPDATE number = number"
            while self._client(statement, 2).returncode != 0:
                if self._over.wait(0.1):
                    return
            self.acknowledged.append(number)
            self.longest = max(self.longest, time.monotonic() - before)
            before = time.monotonic()

    def stop(self) -> None:
        self._over.set()
        self.join(60)
        assert not self.is_alive()


@contextmanager
def inserting(client: Client) -> Iterator[Inserts]:
    inserts = Inserts(client, max(rows(client), default=0) + 1)
    inserts.start()
    try:
        yield inserts
    finally:
        inserts.stop()


def rows(client: Client) -> set[int]:
    done = client("SELECT number FROM app.rows", 5)
    assert done.returncode == 0, done.stderr
    return set(map(int, done.stdout.split()))
