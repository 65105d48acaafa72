"""The catalogue: a folder for each image, a pointer for each name, a signature over each manifest."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from provisioner.errors import ImageError, NotFound, TrustError
from provisioner.model.image import Image, ImageIndex
from provisioner.system.files import hash_file, write_file

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
INDEX = "index.json"
UNFINISHED = "."
"""Folders whose names begin with it are not images, or not any more."""
ID = re.compile(r"^[a-z0-9-]+-[0-9a-f]{12}$")


class Signer(Protocol):
    def sign(self, data: bytes) -> bytes: ...

    def verify(self, data: bytes, signature: bytes) -> None: ...


class Catalogue:
    """Images under ``folder/ID/``; ``folder/NAME.newest`` holds the id that new deployments take."""

    def __init__(self, folder: Path, keys: Signer) -> None:
        self.folder = folder
        self._keys = keys

    def images(self) -> list[Image]:
        """Every image whose signature holds, by id."""
        found = sorted(path.parent.name for path in self.folder.glob(f"*/{MANIFEST}"))
        return [self.get(name) for name in found if not name.startswith(UNFINISHED)]

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """An empty folder on the catalogue's own disk, to put an image's files in before it is published."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=f"{UNFINISHED}building.") as folder:
            (Path(folder) / "out").mkdir(mode=0o755)
            yield Path(folder) / "out"

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
            self._keys.verify(data, (folder / SIGNATURE).read_bytes())
        except (TrustError, FileNotFoundError) as error:
            raise ImageError(
                "the image is not signed by this site, or was changed since",
                where=image_id,
                cause=str(error),
                hint=f"remove {folder} and run provisioner image build",
            ) from error
        return Image.model_validate_json(data)

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
        path = self.path(image_id, INDEX)
        if hash_file(path) != self.get(image_id).files[INDEX]:
            raise ImageError("the index is not the one that was signed", where=str(path))
        return ImageIndex.model_validate_json(path.read_bytes())

    def publish(self, image: Image, built: Path) -> None:
        """Sign ``image`` and move the folder ``built`` into the catalogue; at once, or not at all.

        A node that is fetching an older image is not disturbed: ids differ when contents do.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        data = image.model_dump_json(indent=1).encode()
        write_file(built / MANIFEST, data)
        write_file(built / SIGNATURE, self._keys.sign(data))
        target = self.folder / image.id
        if target.exists():
            shutil.rmtree(built)
        else:
            built.rename(target)
        write_file(self.folder / f"{image.name}.newest", image.id + "\n")
