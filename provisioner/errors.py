"""The error tree. Every error says what, where, why and which command comes next.

::

    ProvisionerError
    ├── UsageError              the command line or a request cannot be understood (exit code 64)
    ├── ManifestError           a manifest is wrong; carries every problem found, with file:line
    ├── NotFound                a record with that name does not exist
    ├── Conflict                a record or lease is in the way; nothing was changed
    │   ├── LeaseLost           somebody else works on the node now
    │   └── GuardFailed         what a plan relied on no longer holds
    ├── BmcError                a management controller did not do what it was told
    │   ├── BmcSilent           no answer before the deadline
    │   └── BmcRefused          it answered and said no (credentials, privilege, command)
    ├── ImageError              an image cannot be built, found or trusted
    ├── TrustError              a signature, token or key does not hold
    ├── DeployError             a node did not get through a step
    ├── LabError                the virtual rack could not be built
    ├── ServerUnreachable       the service does not answer
    └── HostError               this host could not do it
        ├── RecordsAway         the database does not answer; what is under way waits for it
        ├── ProgramMissing      a program is not installed
        ├── ProgramFailed       a program ended with a code other than 0
        └── DeadlinePassed      it did not end in time (exit code 3)

Foreign exceptions are translated into one of these once, at the door where they appear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

EXIT_DONE = 0
EXIT_ERROR = 1
EXIT_CHANGES_PENDING = 2
EXIT_STILL_RUNNING = 3
EXIT_USAGE = 64


class ProvisionerError(Exception):
    """Base of all errors an operator may see.

    :param summary: one sentence: what went wrong.
    :param where: file:line, node or address it is about.
    :param cause: why, as far as it is known: the evidence, not a guess.
    :param hint: the next command or edit that helps.
    """

    exit_code: ClassVar[int] = EXIT_ERROR

    def __init__(
        self, summary: str, *, where: str | None = None, cause: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(summary)
        self.summary = summary
        self.where = where
        self.cause = cause
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.summary}" if self.where else self.summary
        return f"{head}: {self.cause}" if self.cause else head

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON, as the API answers it and ``-o json`` prints it."""
        return {
            "error": type(self).__name__,
            "summary": self.summary,
            "where": self.where,
            "cause": self.cause,
            "hint": self.hint,
        }


class UsageError(ProvisionerError):
    exit_code = EXIT_USAGE


@dataclass(frozen=True)
class Problem:
    """One fault in a manifest: where it is, what it is, and what to write instead."""

    where: str
    what: str
    instead: str | None = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        return f"{text} ({self.instead})" if self.instead else text


class ManifestError(ProvisionerError):
    """One or more manifests are wrong; ``problems`` holds every fault, not only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        super().__init__(
            f"{count} problem{'s' if count != 1 else ''} in the manifests",
            cause="; ".join(str(problem) for problem in self.problems),
            hint="correct the lines named and run the command again; nothing was changed",
        )

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            "problems": [{"where": p.where, "what": p.what, "instead": p.instead} for p in self.problems]
        }


class NotFound(ProvisionerError):
    pass


class Conflict(ProvisionerError):
    pass


class LeaseLost(Conflict):
    pass


class GuardFailed(Conflict):
    pass


class BmcError(ProvisionerError):
    pass


class BmcSilent(BmcError):
    pass


class BmcRefused(BmcError):
    pass


class ImageError(ProvisionerError):
    pass


class TrustError(ProvisionerError):
    pass


class DeployError(ProvisionerError):
    pass


class LabError(ProvisionerError):
    pass


class ServerUnreachable(ProvisionerError):
    pass


class HostError(ProvisionerError):
    pass


class RecordsAway(HostError):
    pass


class ProgramMissing(HostError):
    pass


class ProgramFailed(HostError):
    pass


class DeadlinePassed(HostError):
    exit_code = EXIT_STILL_RUNNING


def _tree(root: type[ProvisionerError]) -> dict[str, type[ProvisionerError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def error_from_dict(data: dict[str, Any]) -> ProvisionerError:
    """The inverse of :meth:`ProvisionerError.to_dict`, for the client's side of the API."""
    kind = _tree(ProvisionerError).get(str(data.get("error")), ProvisionerError)
    if kind is ManifestError:
        return ManifestError([Problem(p["where"], p["what"], p.get("instead")) for p in data.get("problems", [])])
    return kind(
        str(data.get("summary", "unknown error")),
        where=data.get("where"),
        cause=data.get("cause"),
        hint=data.get("hint"),
    )
