"""Files of instances as operators see them: what is secret is not in them."""

from __future__ import annotations

from pydantic import Field

from provisioner.model.plan import FileChange
from provisioner.model.value import Value


class InstanceFile(Value):
    """A file as an instance is to have it. ``mode``: octal, ``0644``. ``content``: None when it is never shown."""

    path: str
    mode: str
    owner: str
    group: str
    validator: tuple[str, ...] = ()
    services: dict[str, str] = Field(default_factory=dict)
    confirm: bool = False
    content: str | None = None


class InstanceFiles(Value):
    """What the newest generation of a node's metadata makes of its image's templates."""

    node: str
    hostname: str
    image: str
    generation: int
    files: tuple[InstanceFile, ...]


class FileDiff(Value):
    """How a file differs. ``lines``: of a unified diff; none for one that is never shown (``sensitive``), or when
    enough of other instances are (``left_out``)."""

    change: FileChange
    sensitive: bool = False
    left_out: bool = False
    lines: tuple[str, ...] = ()


class MemberName(Value):
    node: str
    hostname: str


class MembersDiff(Value):
    """Instances whose files differ in the same way."""

    members: tuple[MemberName, ...]
    files: tuple[FileDiff, ...]


class ConfigDiff(Value):
    """``before`` and ``after``: what was compared, in words. Instances of which nothing differs are not in it."""

    before: str
    after: str
    changes: tuple[MembersDiff, ...] = ()
    notes: tuple[str, ...] = ()
