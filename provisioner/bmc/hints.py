"""Troubles of controllers as errors for operators, with the command by which they reach the same controller."""

from __future__ import annotations

import re
import shlex

from provisioner.errors import BmcError, BmcRefused, BmcSilent
from provisioner.model.hardware import BmcAddress

ERRORS: dict[str, type[BmcError]] = {"silent": BmcSilent, "stale": BmcSilent, "refused": BmcRefused}


def where(bmc: BmcAddress) -> str:
    return f"{bmc.address}:{bmc.port}"


def ipmitool(bmc: BmcAddress, words: str = "chassis power status") -> str:
    """The command with which an operator reaches the same controller; the password is in a file of theirs."""
    port = "" if bmc.port == 623 else f" -p {bmc.port}"
    user, address = shlex.quote(bmc.username), shlex.quote(bmc.address)
    return f"ipmitool -I lanplus -H {address}{port} -U {user} -f PASSWORD_FILE {words}"


def fill_in(hint: str, bmc: BmcAddress) -> str:
    """Put the operator's command line in the place of ``{ipmitool}`` or ``{ipmitool:WORDS}``."""
    return re.sub(r"\{ipmitool(?::([^}]*))?\}", lambda match: ipmitool(bmc, match[1] or "chassis power status"), hint)


def silent(bmc: BmcAddress, cause: str) -> BmcSilent:
    hint = f"check that the controller has power, and the way to it; by hand: {ipmitool(bmc)}"
    return BmcSilent("no answer from the controller", where=where(bmc), cause=cause, hint=hint)


def trouble_error(bmc: BmcAddress, kind: str, summary: str, cause: str, hint: str) -> BmcError:
    """The error of ours for what a driver raised."""
    known = ERRORS.get(kind, BmcError)
    return known(summary, where=where(bmc), cause=cause or None, hint=fill_in(hint, bmc) or None)
