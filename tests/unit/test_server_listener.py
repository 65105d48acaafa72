"""The operator socket: its rights, what a dead process left, a second service."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from provisioner.errors import Conflict, HostError
from provisioner.server.listener import OperatorDoors, ServiceLock, open_listener, open_operator_socket
from provisioner.system.settings import Settings


def test_only_the_owner_may_enter_and_connect(tmp_path: Path) -> None:
    path = tmp_path / "run" / "api.sock"
    old = os.umask(0)  # nothing may depend on a umask
    try:
        with open_operator_socket(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(old)


def test_a_folder_with_wider_rights_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    with open_operator_socket(folder / "api.sock"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    open_operator_socket(path).close()
    assert path.is_socket()
    with open_operator_socket(path), socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))


def test_a_socket_on_which_somebody_answers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with open_operator_socket(path):
        inode = path.stat().st_ino
        with pytest.raises(Conflict, match="runs already"):
            open_operator_socket(path)
        assert path.stat().st_ino == inode


def test_a_second_service_is_refused_and_the_first_named(tmp_path: Path) -> None:
    lock = ServiceLock(tmp_path)
    with pytest.raises(Conflict) as refused:
        ServiceLock(tmp_path)
    assert str(os.getpid()) in str(refused.value.cause)
    lock.release()
    ServiceLock(tmp_path).release()
    assert not (tmp_path / "serve.pid").exists()


def test_an_address_of_another_host_is_named() -> None:
    with pytest.raises(HostError) as failed:
        open_listener("192.0.2.1", 0, "provisioning")
    assert failed.value.where == "192.0.2.1:0"
    assert "ip addr" in str(failed.value.hint)


def test_an_address_that_moves_is_listened_on_before_it_is_here(tmp_path: Path) -> None:
    """A service whose duty is with another one starts all the same."""
    with open_listener("127.0.0.1", 0, "provisioning") as free:
        port = free.getsockname()[1]
    for service, opens in (("192.0.2.1", True), ("192.0.2.2", False)):
        folder = tmp_path / service
        settings = Settings(run_dir=folder, service=service, operators_listen=f"192.0.2.1:{port}")
        doors = OperatorDoors(settings)
        try:
            if opens:
                own, other = doors.for_round()
                with own, other:
                    assert other.getsockname() == ("192.0.2.1", port)
            else:
                with pytest.raises(HostError):
                    doors.for_round()
        finally:
            doors.close()


def test_a_taken_port_is_named() -> None:
    with open_listener("127.0.0.1", 0, "provisioning") as first, pytest.raises(HostError) as failed:
        open_listener("127.0.0.1", first.getsockname()[1], "provisioning")
    assert "ss -ltnp" in str(failed.value.hint)
