"""Why a command gives up."""

from __future__ import annotations


class ClassicError(Exception):
    """The words are for people; the command ends with code 1 and has changed nothing."""
