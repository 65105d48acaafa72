"""What a role's image is: built from elements, or a whole disk that was imported, which then can less. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from provisioner.errors import Problem
from provisioner.manifest.layer import Layer
from provisioner.model.role import ImageSpec, Role
from provisioner.model.storage import Storage

LAYOUT = ("filesystem", "table", "esp_mib", "grow", "disks", "groups", "volumes")
"""Parts of the storage that a whole disk brings itself."""


def check_image(role: Role, layer: Layer) -> Iterator[Problem]:
    image = role.image
    if not image.disk:
        if not image.elements:
            what = "image.elements has nothing in it; write an element, or disk: NAME for a whole disk"
            yield Problem(layer.where(("image",)), what)
        return
    built = ImageSpec(disk=image.disk)
    for key in [key for key in ImageSpec.model_fields if getattr(image, key) != getattr(built, key)]:
        what = f"image.{key} is for images that are built, and image.disk names one that is complete"
        yield Problem(layer.where(("image", key)), what, f"take {key} or disk out")
    for key in [key for key in LAYOUT if getattr(role.storage, key) != getattr(Storage(), key)]:
        what = f"storage.{key}: a whole disk brings its own partitions"
        yield Problem(layer.where(("storage", key)), what, f"take {key} out; only wipe can be said")
    if role.start != "power":
        what = f"start: {role.start} needs a kernel at a place that is known, which a whole disk has not"
        yield Problem(layer.where(("start",)), what, "write start: power")
    for key in [key for key in ("once", "secrets") if getattr(role, key)]:
        what = f"{key}: an instance of a whole disk has no config agent that would ask for it"
        yield Problem(layer.where((key,)), what, f"take {key} out")
    if role.health.role:
        what = "health.role: an instance of a whole disk runs its probes only until they are green for the first time"
        yield Problem(layer.where(("health", "role")), what, "write the probes under health.node")
