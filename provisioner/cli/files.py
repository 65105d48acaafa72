"""Files that a command reads before it calls: the text of manifests, BMC passwords."""

from __future__ import annotations

import os
from pathlib import Path

from provisioner.errors import ManifestError, Problem, UsageError
from provisioner.model.hardware import NodeSpec, SecretRef
from provisioner.model.status import EnrollItem

MANIFEST_BYTES = 4 << 20
SECRET_BYTES = 64 << 10


def read_text(path: Path) -> str:
    """The text of a manifest.

    :raises UsageError: it cannot be read, or is not text.
    """
    try:
        if path.stat().st_size > MANIFEST_BYTES:
            raise UsageError("the file is too large for a manifest", where=str(path))
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError("the file cannot be read", where=str(path), cause=error.strerror) from error
    except UnicodeDecodeError as error:
        raise UsageError("the file is not UTF-8 text", where=str(path), cause=str(error)) from error


def read_passwords(specs: list[NodeSpec], stored: Path | None = None) -> list[EnrollItem]:
    """Each node with its BMC password, read from where its hardware file says; empty when the service has it.

    :param stored: a file with the password that the service is to have of all nodes whose file says ``stored``.
    :raises ManifestError: names every node whose password cannot be read; nothing has been sent then.
    """
    items, problems = [], []
    for spec in specs:
        try:
            ref = spec.bmc.password
            place = SecretRef(file=str(stored.absolute())) if ref.stored and stored else ref
            items.append(EnrollItem(spec=spec, password=_read_secret(place)))
        except _Unreadable as error:
            problems.append(Problem(f"node {spec.name}: bmc.password", error.what, error.instead))
    if problems:
        raise ManifestError(problems)
    return items


def read_secret(path: Path) -> str:
    """A secret from a file that others cannot read, without line ends at its end.

    :raises UsageError: it cannot be read, or everybody may.
    """
    try:
        return _read_file(path, "secret")
    except _Unreadable as error:
        raise UsageError(error.what, where=str(path), hint=error.instead) from None


class _Unreadable(Exception):
    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what)
        self.what = what
        self.instead = instead


def _read_secret(ref: SecretRef) -> str:
    if ref.stored:
        return ""
    if ref.env is not None:
        secret = os.environ.get(ref.env, "")
        if not secret:
            raise _Unreadable(f"the environment variable {ref.env} is not set", f"export {ref.env} before the command")
        return secret
    if ref.file is None:
        raise _Unreadable("says neither file nor env nor stored", "write {file: /absolute/path}")
    path = Path(ref.file)
    if not path.is_absolute():
        raise _Unreadable(f"{path} is not an absolute path", "write where it is from / on")
    return _read_file(path, "password")


def _read_file(path: Path, what: str) -> str:
    instead = f"write the {what} there, mode 0600"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & 0o007:
                raise _Unreadable(f"everybody may read {path} (mode {mode:04o})", f"chmod 0600 {path}")
            data = file.read(SECRET_BYTES + 1)
            if len(data) > SECRET_BYTES:
                raise _Unreadable(f"{path} has more than {SECRET_BYTES} bytes", instead)
            secret = data.decode().rstrip("\r\n")
    except OSError as error:
        raise _Unreadable(f"{path} cannot be read: {error.strerror}", instead) from error
    except UnicodeDecodeError:
        raise _Unreadable(f"{path} does not hold text", instead) from None
    if not secret:
        raise _Unreadable(f"{path} is empty", instead)
    return secret
