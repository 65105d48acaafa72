"""Makes layers: the lowest by mmdebstrap, those above by diskimage-builder with the part of elements that installs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import ImageError, ProvisionerError
from provisioner.events import Event, Observer
from provisioner.images.chain import Layer
from provisioner.images.debian import make_debian, store_layer
from provisioner.images.dib import DibRun, build_tree
from provisioner.images.elements import LAYER_ELEMENT, copy_package_parts
from provisioner.images.inputs import explain
from provisioner.images.sources import Source
from provisioner.images.workshop import Workshop, timed
from provisioner.system.files import write_file
from provisioner.system.run import Runner


def layer_path(workshop: Workshop, layer: Layer) -> Path:
    return workshop.state / "layers" / f"{layer.key}.tar.zst"


@dataclass
class Layers:
    """The layers of a workshop: ``state/layers/KEY.tar.zst``, and what the newest of each name was made from."""

    workshop: Workshop
    sources: tuple[Source, ...]
    lock: Mapping[str, str]
    runner: Runner
    observer: Observer

    def path(self, layer: Layer) -> Path:
        return layer_path(self.workshop, layer)

    def missing(self, top: Layer) -> list[Layer]:
        """The layers that must be made before one can stand on ``top``, the lowest first; the others are reused."""
        absent: list[Layer] = []
        for layer in reversed(top.chain):
            if self.path(layer).is_file():
                os.utime(self.path(layer))  # when it was last used decides what goes when room is needed
                self.observer(
                    Event("image.layer.reused", f"layer {layer.name}: reused", data={"image": f"layer-{layer.name}"})
                )
                break
            absent.insert(0, layer)
        return absent

    def why(self, layer: Layer) -> str:
        record = self._record(layer)
        return explain(json.loads(record.read_text()) if record.is_file() else None, layer.inputs)

    def make(self, layer: Layer) -> None:
        """:raises ImageError: it could not be made; nothing is left behind but its log."""
        path, work, name = self.path(layer), self.workshop.work, f"layer-{layer.name}"
        self.observer(Event("image.layer.started", f"layer {layer.name}: made {self.why(layer)}"))
        try:
            with (
                timed(self.observer, name, "layer"),
                tempfile.TemporaryDirectory(dir=work, prefix=f"{name}.") as folder,
            ):
                if layer.parent is None:
                    make_debian(
                        path,
                        self.sources,
                        self.lock,
                        work=Path(folder),
                        pool=self.workshop.pool,
                        runner=self.runner,
                        observer=self.observer,
                    )
                else:
                    self._install(layer, self.path(layer.parent), path, Path(folder), name)
        except OSError as error:
            raise ImageError(
                f"the layer {layer.name} could not be stored",
                where=error.filename or str(path),
                cause=error.strerror,
                hint=f"df -h {path.parent}; provisioner image prune makes room",
            ) from error
        except ProvisionerError as error:
            self.observer(Event("image.layer.failed", f"layer {layer.name}: {error.summary}", data={"image": name}))
            raise
        write_file(self._record(layer), json.dumps(dict(layer.inputs), indent=1))
        size = path.stat().st_size
        told = {"image": name, "bytes": size}
        self.observer(Event("image.layer.done", f"layer {layer.name}: made, {size // 10**6} MB", data=told))

    def _install(self, layer: Layer, parent: Path, path: Path, folder: Path, name: str) -> None:
        copy_package_parts(layer.elements, folder / "elements")
        run = DibRun(
            name=name,
            elements=tuple(element for element in layer.elements if element != LAYER_ELEMENT),
            elements_path=(folder / "elements",),
            layer=parent,
            agent_source=self.workshop.agent,
            ca_bundle=self.workshop.ca_bundle,
            pool=self.workshop.pool,
        )
        tar = folder / "layer.tar"
        build_tree(run, tar, work=folder, logs=self.workshop.logs, runner=self.runner, observer=self.observer)
        store_layer(tar, path, self.runner)

    def _record(self, layer: Layer) -> Path:
        return self.workshop.state / "records" / "layers" / f"{layer.name}.json"
