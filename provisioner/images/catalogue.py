"""The catalogue: a folder for each image, a pointer for each name, a signature over each manifest."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from provisioner.errors import Conflict, ImageError, NotFound, TrustError
from provisioner.images.provenance import FILE as PROVENANCE
from provisioner.images.provenance import Keys, seal, unseal
from provisioner.model.image import Image, ImageIndex
from provisioner.system.files import hash_file, write_file
from provisioner.system.scratch import held_folder, sweep_folders

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
INDEX = "index.json"
CONTENTS = "contents.zst"
TEMPLATES = "templates.json"
"""Of a role's image: the templates that are in it with their control files, text by path."""
PHASES = "phases.json"
"""Of a role's image on a whole disk: the phase scripts that its instances get, text by ``PHASE.d/NAME``."""
DISK = "disk"
"""The kind of an image that is a whole disk."""
SBOM = "sbom.spdx.json"
SIGNATURE_BYTES = 64
"""Of an Ed25519 signature (RFC 8032)."""
UNFINISHED = "."
"""Folders whose names begin with it are not images, or not any more."""
WORKPLACE = f"{UNFINISHED}building."
ID = re.compile(r"^[a-z0-9-]+-[0-9a-f]{12}$")


def describe_files(name: str, folder: Path) -> tuple[str, dict[str, str], dict[str, int]]:
    """An image's id, and the SHA-256 and bytes of its files by name: what its manifest says of a finished folder.

    The id ends with a digest over all of them, so that it differs when contents do.
    """
    paths = sorted(folder.iterdir())
    files = {path.name: hash_file(path) for path in paths}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return f"{name}-{digest[:12]}", files, {path.name: path.stat().st_size for path in paths}


class Catalogue:
    """Images under ``folder/ID/``; ``folder/NAME.newest`` holds the id that new deployments take."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        self.folder = folder
        self._keys = keys

    def images(self) -> list[Image]:
        """Every image whose signature holds, by id."""
        found = sorted(path.parent.name for path in self.folder.glob(f"*/{MANIFEST}"))
        return [self.get(name) for name in found if not name.startswith(UNFINISHED)]

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """An empty folder on the catalogue's own disk, to put an image's files in before it is published."""
        sweep_folders(self.folder, WORKPLACE)
        with held_folder(self.folder, WORKPLACE) as folder:
            (folder / "out").mkdir(mode=0o755)
            yield folder / "out"

    def newest(self, name: str) -> Image | None:
        """The image that new deployments of ``name`` take.

        :raises ImageError: its signature does not hold.
        """
        pointer = self.folder / f"{name}.newest"
        return self.get(pointer.read_text().strip()) if pointer.is_file() else None

    def get(self, image_id: str) -> Image:
        """One image, its signature checked.

        :raises NotFound: there is none. :raises ImageError: its signature does not hold.
        """
        folder = self.folder / image_id
        if not ID.match(image_id) or not (folder / MANIFEST).is_file():
            raise NotFound("there is no such image", where=image_id, hint="provisioner image list")
        data = (folder / MANIFEST).read_bytes()
        try:
            self._verify(data, (folder / SIGNATURE).read_bytes())
        except (TrustError, FileNotFoundError) as error:
            raise ImageError(
                "the image is not signed by this site, or was changed since",
                where=image_id,
                cause=str(error),
                hint=f"remove {folder} and run provisioner image build",
            ) from error
        return Image.model_validate_json(data)

    def _verify(self, data: bytes, signatures: bytes) -> None:
        """One of the signatures must hold; there are two while a manifest is being replaced."""
        *others, last = [
            signatures[at : at + SIGNATURE_BYTES] for at in range(0, len(signatures) or 1, SIGNATURE_BYTES)
        ]
        for signature in others:
            with suppress(TrustError):
                return self._keys.verify(data, signature)
        return self._keys.verify(data, last)

    def path(self, image_id: str, name: str) -> Path:
        """The path of a file that the image's manifest lists.

        :raises NotFound: the manifest lists no such file.
        """
        if name not in self.get(image_id).files:
            raise NotFound(f"the image has no file {name}", where=image_id)
        return self.folder / image_id / name

    def index(self, image_id: str) -> ImageIndex:
        """Where the chunks of a role image are.

        :raises ImageError: the index is not the one that was signed.
        """
        return ImageIndex.model_validate_json(self._signed(image_id, INDEX))

    def templates(self, image_id: str) -> dict[str, str] | None:
        """The template tree of a role's image: text by relative path. None for an image that keeps none, though there
        may be some in it: one that was built before images did, or a file system that somebody brought.

        :raises NotFound: there is no such image. :raises ImageError: it is not what was signed.
        """
        image = self.get(image_id)
        if TEMPLATES not in image.files:
            return {} if image.kind == DISK else None
        return dict(json.loads(self._signed(image_id, TEMPLATES)))

    def phases(self, image_id: str) -> dict[str, str]:
        """The phase scripts that are put into instances of a whole disk; those of other images are in them.

        :raises NotFound: there is no such image. :raises ImageError: it is not what was signed.
        """
        if PHASES not in self.get(image_id).files:
            return {}
        return dict(json.loads(self._signed(image_id, PHASES)))

    def _signed(self, image_id: str, name: str) -> bytes:
        path = self.path(image_id, name)
        try:
            data = path.read_bytes()
        except OSError as error:
            hint = f"remove {path.parent} and run provisioner image build"
            raise ImageError(f"{name} cannot be read", where=str(path), cause=error.strerror, hint=hint) from error
        if hashlib.sha256(data).hexdigest() != self.get(image_id).files[name]:
            raise ImageError(f"{name} is not what was signed", where=str(path), hint="provisioner image build")
        return data

    def provenance(self, image_id: str) -> dict[str, Any]:
        """Who built an image, when and from what. :raises TrustError: the statement is not this site's."""
        return unseal(self._member(image_id, PROVENANCE).read_bytes(), self._keys)

    def _member(self, image_id: str, name: str) -> Path:
        """A file of an image's folder. :raises NotFound: there is none."""
        path = self.folder / self.get(image_id).id / name
        if not path.is_file():
            raise NotFound(f"the image has no {name}", where=image_id, hint="provisioner image build makes it anew")
        return path

    def amend(self, image: Image) -> Image:
        """Replace the manifest of a published image; who reads it meanwhile finds the old or the new one."""
        folder = self.folder / image.id
        data = image.model_dump_json(indent=1).encode()
        fresh = self._keys.sign(data)
        write_file(folder / SIGNATURE, fresh + (folder / SIGNATURE).read_bytes())
        write_file(folder / MANIFEST, data)
        write_file(folder / SIGNATURE, fresh)
        return image

    def publish(self, image: Image, built: Path, statement: Mapping[str, Any]) -> None:
        """Move the folder ``built`` into the catalogue, at once or not at all; ``image`` and ``statement`` are signed.

        :param statement: where it is from.

        A node that is fetching an older image is not disturbed: ids differ when contents do.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        data = image.model_dump_json(indent=1).encode()
        write_file(built / MANIFEST, data)
        write_file(built / SIGNATURE, self._keys.sign(data))
        write_file(built / PROVENANCE, seal(statement, self._keys))
        target = self.folder / image.id
        if target.exists():
            shutil.rmtree(built)
            self.amend(image)
        else:
            built.rename(target)
        write_file(self.folder / f"{image.name}.newest", image.id + "\n")

    def remove(self, image_id: str) -> None:
        """Take an image out, at once or not at all. :raises Conflict: new deployments take it."""
        if any(path.read_text().strip() == image_id for path in self.folder.glob("*.newest")):
            raise Conflict(
                "new deployments take this image", where=image_id, hint="provisioner image build makes another"
            )
        gone = self.folder / f"{WORKPLACE}{image_id}"
        (self.folder / image_id).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
