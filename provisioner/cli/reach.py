"""The way from a command to the settings and to the service."""

from __future__ import annotations

import os
from pathlib import Path

from provisioner.cli.options import Options
from provisioner.client.client import Client, Remote
from provisioner.errors import UsageError
from provisioner.system.settings import Settings, read_settings

SERVER, TOKEN_FILE, CA = "PROVISIONER_SERVER", "PROVISIONER_TOKEN_FILE", "PROVISIONER_CA"
"""Environment variables of whoever asks a service on another host: ``https://HOST:PORT``, and two files."""


def read_options(options: Options) -> Settings:
    return read_settings(options.config)


def open_client(options: Options) -> Client:
    """:raises UsageError: the environment names a service on another host, and a file that it needs is not there."""
    url = os.environ.get(SERVER, "")
    if not url:
        return Client(read_options(options).socket, itself=options.itself)
    if not url.startswith("https://"):
        raise UsageError(f"{SERVER} is not https://HOST:PORT", where=url, hint=f"unset {SERVER} to ask this host's own")
    token, ca = (_file(name) for name in (TOKEN_FILE, CA))
    return Client(Remote(url, token.read_text().strip(), ca), itself=options.itself)


def _file(name: str) -> Path:
    path = Path(os.environ.get(name, ""))
    if not path.is_file():
        hint = "provisioner operator add and provisioner operator ca, on the seed, print what goes into it"
        raise UsageError(f"{name} names no file", where=str(path), hint=hint)
    return path
