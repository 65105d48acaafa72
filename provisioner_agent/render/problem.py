"""What is wrong with a template tree: every fault with its place, not only the first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One fault. ``where`` is ``PATH:LINE:COLUMN`` or the path of a control file; ``what`` says it in one sentence."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class RenderError(Exception):
    """A template tree cannot be rendered with this data; nothing was rendered."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))
