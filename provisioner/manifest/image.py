"""What a role's image is: built from elements, or a whole disk that was imported, which is written as it is. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from provisioner.errors import Problem
from provisioner.manifest.layer import Layer
from provisioner.manifest.values import CLOUD_CONFIG
from provisioner.model.role import ImageSpec, Role
from provisioner.model.storage import Storage

WITH_DISK = ("disk", "elements", "templates")
LAYOUT = ("filesystem", "table", "esp_mib", "grow", "disks", "groups", "volumes")
"""Parts of the storage that a whole disk brings itself."""


def check_image(role: Role, layer: Layer) -> Iterator[Problem]:
    image = role.image
    if not image.disk:
        if not image.elements:
            what = "image.elements has nothing in it; write an element, or disk: NAME for a whole disk"
            yield Problem(layer.where(("image",)), what)
        return
    plain = ImageSpec(disk=image.disk)
    for key in [
        key for key in ImageSpec.model_fields if key not in WITH_DISK and getattr(image, key) != getattr(plain, key)
    ]:
        what = f"image.{key} is for images that are built, and image.disk names one that is complete"
        yield Problem(layer.where(("image", key)), what, f"take {key} or disk out")
    if image.is_built and image.disk == role.role:
        what = f"image.disk: the role's own image is called {role.role}, so the disk cannot be"
        yield Problem(layer.where(("image", "disk")), what, "import it under a name that is no role's")
    for key in [key for key in LAYOUT if getattr(role.storage, key) != getattr(Storage(), key)]:
        what = f"storage.{key}: a whole disk brings its own partitions"
        yield Problem(layer.where(("storage", key)), what, f"take {key} out; only wipe can be said")
    if role.start != "power":
        what = f"start: {role.start} needs a kernel at a place that is known, which a whole disk has not"
        yield Problem(layer.where(("start",)), what, "write start: power")
    for key in [key for key in role.config.values if not image.is_built and key != CLOUD_CONFIG]:
        what = f"config.values.{key}: the role has no templates that would read it"
        hint = f"what cloud-init reads stands under {CLOUD_CONFIG}: {{{key}: ...}}"
        yield Problem(layer.where(("config", "values", key)), what, hint)
