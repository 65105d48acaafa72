"""``provisioner node console``: a node's serial console in this terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

import click
import httpx

from provisioner.cli.options import Options, clean, pass_options
from provisioner.cli.reach import open_client
from provisioner.client.client import ConsoleStream
from provisioner.errors import ProvisionerError

CHUNK = 1024


class Keys:
    """What is typed, until the escape ``Enter ~ .`` or the end of the input."""

    def __init__(self) -> None:
        self._before = b"\r"

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """(what to send, whether it ends here). A tilde after Enter is held back until the next key."""
        sent = b""
        for number in data:
            key = bytes((number,))
            if self._before == b"~" and key == b".":
                return sent, True
            if self._before == b"~":
                sent += b"~"
            if key == b"~" and self._before in (b"\r", b"\n"):
                self._before = key
                continue
            sent += key
            self._before = key if key != b"~" else b"?"
        return sent, False


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the node as it is; the terminal is as before afterwards."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _follow(stream: ConsoleStream, ended: int, failed: list[ProvisionerError]) -> None:
    """Print what the node writes; a byte into ``ended`` when there is no more."""
    try:
        for data in stream:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    except ProvisionerError as error:
        failed.append(error)
    except (httpx.HTTPError, httpx.StreamError, OSError):
        pass  # the other thread closed it
    finally:
        os.write(ended, b".")


def _converse(stream: ConsoleStream) -> None:
    """Until the console ends, the escape is typed, or Ctrl-C where the input is no terminal."""
    watched, ended = os.pipe()
    failed: list[ProvisionerError] = []
    threading.Thread(target=_follow, args=(stream, ended, failed), daemon=True).start()
    keys, doors = Keys(), [0, watched]
    while True:
        ready, _, _ = select.select(doors, [], [])
        if watched in ready:
            break
        data = os.read(0, CHUNK)
        if not data:
            doors = [watched]  # nothing more to type; the node goes on writing
            continue
        sent, over = keys.take(data)
        if (sent and not stream.type(sent)) or over:
            break
    if failed:
        raise failed[0]


@click.command("console")
@click.argument("name")
@click.option("--last", is_flag=True, help="Only print the last lines of its current or last deployment or inspection.")
@pass_options
def console(options: Options, name: str, last: bool) -> None:
    """Look at and type on the serial console of NAME, through its BMC (serial over LAN). Enter ~ . ends it.

    What is piped in is typed; the output goes on until Ctrl-C. While a node is worked on, its console is recorded; who
    opens it then takes it over, and the record ends there.

    \b
    Example:
      provisioner node console node1
    """
    if last:
        with open_client(options) as client:
            lines = client.console_lines(name)
        click.echo(clean("\n".join(lines)) if lines else f"nothing was recorded of the console of {name}")
        return
    with open_client(options) as client, client.console(name) as stream:
        if sys.stdin.isatty():
            click.echo(f"{name}: Enter ~ . ends the console", err=True)
        with _raw_terminal():
            _converse(stream)
