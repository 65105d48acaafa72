"""Images as one file: from this site's catalogue to another's, and back.

The file is a plain tar: ``ID/manifest.json``, its signature, the statement of provenance, the files that the manifest
names, and ``site.pem``, the public key they are signed with.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from provisioner.errors import ImageError, TrustError
from provisioner.images.catalogue import ID, MANIFEST, SIGNATURE, Catalogue
from provisioner.images.disk import EPOCH
from provisioner.images.provenance import FILE as PROVENANCE
from provisioner.images.provenance import key_id, unseal
from provisioner.model.image import Image
from provisioner.system.files import write_file
from provisioner.trust.keys import PublicKey, SiteKeys

KEY = "site.pem"
SMALL = 64 * 1024 * 1024
"""Bytes that a manifest, a signature, a key or a statement may have at most."""
PIECE = 1024 * 1024


@contextmanager
def fresh_file(target: Path) -> Iterator[Path]:
    """A path beside ``target`` that takes its place when the block ends well; else ``target`` stays as it was."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def export_image(catalogue: Catalogue, image: Image, keys: SiteKeys, target: Path) -> None:
    """Write the file; whole or not at all. :raises OSError: the disk is full."""
    folder = catalogue.folder / image.id
    with fresh_file(target) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in (MANIFEST, SIGNATURE, PROVENANCE):
            _add(tar, f"{image.id}/{name}", (folder / name).read_bytes())
        _add(tar, KEY, keys.public_key_pem)
        for name in image.files:
            with (folder / name).open("rb") as file:
                tar.addfile(_entry(f"{image.id}/{name}", image.sizes[name]), file)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, int(EPOCH), 0o644
    return entry


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    tar.addfile(_entry(name, len(data)), io.BytesIO(data))


def is_archive(path: Path) -> bool:
    """Whether a file is one that :func:`export_image` wrote, by its first entry."""
    try:
        with tarfile.open(path, "r:") as tar:
            first = tar.next()
    except (tarfile.TarError, OSError):
        return False
    return first is not None and first.name.endswith(f"/{MANIFEST}")


def import_image(catalogue: Catalogue, path: Path, keys: SiteKeys, trusted: Collection[str]) -> Image:
    """Publish what another site exported, signed anew by this one; new deployments of its name take it.

    :param trusted: ids of the public keys whose images may come in, beside this site's own.
    :raises ImageError: the file is damaged, or what it holds is not what was signed. :raises TrustError: its key is
        not trusted. Nothing is published then.
    """
    try:
        with tarfile.open(path, "r:") as tar, catalogue.workplace() as out:
            image, key = _read_head(tar, path, keys, trusted)
            statement = unseal(_read_small(tar, f"{image.id}/{PROVENANCE}", path), key)
            for name, digest in image.files.items():
                _extract(tar, f"{image.id}/{name}", out / name, image.sizes[name], digest, path)
            statement["predicate"].setdefault("annotations", {})["importedFrom"] = key_id(key.public_key_pem)
            catalogue.publish(image, out, statement)
            return image
    except (tarfile.TarError, EOFError, KeyError, ValidationError) as error:
        raise _damaged(path, str(error)) from error


def _read_head(tar: tarfile.TarFile, path: Path, keys: SiteKeys, trusted: Collection[str]) -> tuple[Image, PublicKey]:
    first = tar.next()
    if first is None or not ID.match(first.name.rpartition("/")[0]):
        raise _damaged(path, "it does not begin with an image's manifest")
    folder = first.name.rpartition("/")[0]
    data = _read_small(tar, f"{folder}/{MANIFEST}", path)
    key = PublicKey.read(_read_small(tar, KEY, path))
    ident = key_id(key.public_key_pem)
    if ident != key_id(keys.public_key_pem) and ident not in trusted:
        raise TrustError(
            "the image is signed by a site that this one does not trust",
            where=str(path),
            cause=f"its key is {ident}",
            hint="compare the key with its owner, then give the command again with --trust KEY",
        )
    try:
        key.verify(data, _read_small(tar, f"{folder}/{SIGNATURE}", path))
    except TrustError as error:
        raise _damaged(path, "the signature of its manifest does not hold") from error
    image = Image.model_validate_json(data)
    if image.id != folder or any("/" in name or name.startswith(".") for name in image.files):
        raise _damaged(path, "its manifest is of another image")
    return image, key


def _read_small(tar: tarfile.TarFile, name: str, path: Path) -> bytes:
    member = tar.getmember(name)
    file = tar.extractfile(member) if member.isreg() and member.size <= SMALL else None
    if file is None:
        raise _damaged(path, f"{name} is no small file")
    data = file.read()
    if len(data) != member.size:
        raise _damaged(path, f"{name} is cut off")
    return data


def _extract(tar: tarfile.TarFile, name: str, target: Path, size: int, digest: str, path: Path) -> None:
    member = tar.getmember(name)
    source: IO[bytes] | None = tar.extractfile(member) if member.isreg() and member.size == size else None
    if source is None:
        raise _damaged(path, f"{name} is not the file that was signed")
    found = hashlib.sha256()
    with target.open("wb") as file:
        while piece := source.read(PIECE):
            found.update(piece)
            file.write(piece)
    if found.hexdigest() != digest:
        raise _damaged(path, f"{name} is not the file that was signed, or is cut off")


def _damaged(path: Path, cause: str) -> ImageError:
    return ImageError(
        "the file is no image, or is damaged",
        where=str(path),
        cause=cause,
        hint="export it again and compare sha256sum",
    )


def trusted_keys(folder: Path) -> frozenset[str]:
    """Ids of the sites' keys that were trusted before."""
    return frozenset(path.name for path in folder.glob("*") if not path.name.startswith("."))


def trust_key(folder: Path, ident: str) -> None:
    """From now on take images that are signed with this key."""
    write_file(folder / ident, "")
