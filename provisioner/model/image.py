"""Images: immutable build results, named by role and content."""

from __future__ import annotations

from pydantic import Field

from provisioner.model.value import Value


class Chunk(Value):
    """A run of mapped data of an image, stored as one independent zstd frame (RFC 8878).

    :param offset: byte offset in the file system. :param length: bytes of data, at most 4 MiB.
    :param sha256: of the data, hex. :param frame: byte offset of the frame in ``root.zst``.
    :param frame_length: bytes of the frame.
    """

    offset: int
    length: int
    sha256: str
    frame: int
    frame_length: int


class ImageIndex(Value):
    """``index.json``: where each chunk of the root file system lies; all other bytes are zero.

    :param size: bytes of the file system; a partition must be at least this large.
    """

    size: int
    chunks: tuple[Chunk, ...]

    @property
    def mapped(self) -> int:
        """Bytes of data that must be written."""
        return sum(chunk.length for chunk in self.chunks)


class Image(Value):
    """``manifest.json`` of an image folder ``IMAGES/ID/``.

    ``id`` is ``NAME-`` and the first 12 hex digits of the hash over the files' hashes. ``files`` maps each file
    name in the folder to its sha256: a role image has ``root.zst``, ``index.json`` and, unless it is of before,
    ``templates.json``; the ramdisk has ``kernel`` and ``initramfs``. ``packages`` maps a package to its version,
    ``inputs`` each thing that went in to its hash. ``layers`` are those it stands on, the lowest first.

    :param kind: ``root``, a file system for a partition; ``ramdisk``; or ``disk``, a whole disk that somebody brought.
    :param table: of a whole disk: what its partition table calls itself, the GUID of a GPT or the number of an MBR.
    :param sector: of a whole disk: bytes of the sectors in which its GPT counts; 0 with an MBR.
    :param test: how the boot test ended: ``passed``, ``skipped`` (``--no-test``); empty for what has none.
    """

    id: str
    name: str
    files: dict[str, str]
    sizes: dict[str, int]
    mapped: int = 0
    elements: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    kind: str = "root"
    table: str = ""
    sector: int = 0
    test: str = ""
    inputs: dict[str, str] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)
