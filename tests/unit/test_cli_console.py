"""``provisioner node console``: what is typed arrives, what is written is shown, and it ends when it should."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from served import FakeConductor, served

from provisioner.cli.console import Keys
from provisioner.cli.main import main
from provisioner.client.client import Client
from provisioner.errors import BmcRefused


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with served(FakeConductor(), tmp_path / "api.sock"), Client(tmp_path / "api.sock") as made:
        yield made


def test_bytes_go_both_ways(client: Client) -> None:
    with client.console("node1") as stream:
        parts = iter(stream)
        assert next(parts) == b"login: "
        assert stream.type(b"root\r")
        assert next(parts) == b"root\r"


def test_the_controllers_refusal_arrives_as_the_error_it_is(client: Client) -> None:
    with client.console("dead") as stream, pytest.raises(BmcRefused, match="in use"):
        list(stream)


@pytest.mark.parametrize(
    ("typed", "sent", "over"),
    [
        ([b"ls\r"], b"ls\r", False),
        ([b"~."], b"", True),
        ([b"ls\r~."], b"ls\r", True),
        ([b"ls\r", b"~", b"."], b"ls\r", True),
        ([b"a~."], b"a~.", False),
        ([b"\r~~"], b"\r~~", False),
        ([b"\r~x"], b"\r~x", False),
    ],
)
def test_the_escape_is_a_tilde_after_enter_and_a_dot(typed: list[bytes], sent: bytes, over: bool) -> None:
    keys = Keys()
    heard = [keys.take(data) for data in typed]
    assert b"".join(part for part, _ in heard) == sent
    assert heard[-1][1] is over


def test_the_service_ends_although_somebody_is_on_a_console(tmp_path: Path) -> None:
    with served(FakeConductor(), tmp_path / "api.sock"):
        client = Client(tmp_path / "api.sock")
        stream = client.console("node1")
        assert next(iter(stream.__enter__())) == b"login: "
    client.close()


def test_the_last_lines_are_printed(tmp_path: Path) -> None:
    config = tmp_path / "provisioner.conf"
    config.write_text(f"[DEFAULT]\nrun_dir = {tmp_path}\nstate_dir = {tmp_path}\n")
    with served(FakeConductor(), tmp_path / "api.sock"):
        done = CliRunner().invoke(main, ["--config", str(config), "node", "console", "node1", "--last"])
    assert done.exit_code == 0 and done.stdout == "one\ntwo\n"
