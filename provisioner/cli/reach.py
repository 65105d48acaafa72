"""The way from a command to the settings and to the service."""

from __future__ import annotations

from provisioner.cli.options import Options
from provisioner.client.client import Client
from provisioner.system.settings import Settings, read_settings


def read_options(options: Options) -> Settings:
    return read_settings(options.config)


def open_client(options: Options) -> Client:
    return Client(read_options(options).socket)
