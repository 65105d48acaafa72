"""A handover as the next master sees it: it asks, copies, proves, and takes over when it is told that the epoch moved.

Nothing of the copy is in force before that: it lies in a folder of its own. Whatever is killed is started again, looks
at that folder and at what the other offers, and goes on. The last thing that is moved into place are the records,
without which no service starts here.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

from provisioner.bmc.contract import Bmcs
from provisioner.errors import BmcError, Conflict, DeployError, HostError, ImageError, ProvisionerError, TrustError
from provisioner.events import Event, Observer
from provisioner.images.catalogue import ID, MANIFEST, SIGNATURE, Catalogue
from provisioner.images.provenance import FILE as PROVENANCE
from provisioner.model.duty import Duty, DutyState
from provisioner.model.image import Image
from provisioner.server.backup import KEYS, RECORDS, unpack_backup
from provisioner.server.handover import COMMANDED, describe_service
from provisioner.store.duty import read_duty
from provisioner.store.store import Store
from provisioner.system.clock import Clock
from provisioner.system.files import hash_file, sync_tree, write_file
from provisioner.system.settings import Settings
from provisioner.trust.ca import CA_CERTIFICATE
from provisioner.trust.keys import MetadataKey, SiteKeys
from provisioner_agent.protocol.link import Link, Refused, ServerAway
from provisioner_agent.protocol.messages import HANDOVER, HANDOVER_SAY, IMAGES, LONG_POLL

ANSWER_SECONDS = 60.0
READY_AGAIN = 30.0
"""Seconds after which the other is told once more that this host is ready."""
PAUSE, LONGEST_PAUSE = 1.0, 15.0
"""Seconds after a failure, and after many in a row."""
TELL_SECONDS = 2.0
"""Between two words about how far it is."""
AFRESH, TRIES = 3, 10
"""Failures in a row, after which the service is looked for wherever it is; and after which the handover has failed."""
FAREWELLS = 40
"""How often the other is told that this is the master now, before it is taken for switched off."""
SAMPLE, BMC_SECONDS = 3, 30.0
"""Controllers that are logged in to, and how long each may take."""


class Source(Protocol):
    """Fetches large files from the other."""

    def fetch(self, seed: str, path: str, target: Path, size: int, tell: Callable[[int], None]) -> None:
        """Go on where ``target`` ends, until it has ``size`` bytes. ``tell`` hears how many came.

        :param seed: URL of the other. :raises OSError: the line was cut, or the disk is full.
        """


@dataclass(frozen=True)
class Successor:
    """Who this host is, and how it reaches what it needs.

    :param config: of its config agent: ``node``, and ``ca`` and ``signer``, by which it knows the site.
    :param open_link: to the other alone, by its URL; None: to the service wherever it is. :param bmcs: made when they
        are needed; the second of the pair ends them. :param commanded: whether anybody could tell a service here
        anything, from elsewhere or after a login. :param start: starts the service here, and waits for it.
    """

    settings: Settings
    config: Mapping[str, Any]
    schema: str
    open_link: Callable[[str | None], Link]
    source: Source
    bmcs: Callable[[], tuple[Bmcs, Callable[[], None]]]
    commanded: Callable[[], bool]
    start: Callable[[], None]
    clock: Clock
    observer: Observer


class Receiver:
    """:meth:`step` is called again and again until it says the epoch in which this host is the master."""

    def __init__(self, successor: Successor) -> None:
        self._us = successor
        self._settings = successor.settings
        self._link = successor.open_link(None)
        self._have = ""
        self._seed = ""
        self._handover = ""
        self._said = float("-inf")
        self._told = float("-inf")
        self._failures = 0
        self._problem = ""
        self._proved = False
        """Whether the epoch may have moved: from then on nothing of the copy is dropped, whatever fails."""

    @property
    def folder(self) -> Path:
        return self._settings.handover / "in"

    @property
    def _whole(self) -> Path:
        return self.folder / "whole"

    @property
    def _note(self) -> Path:
        """Whom to tell that this is the master, once it is."""
        return self.folder / "handover.json"

    def run(self) -> int:
        """Until this host is the master; in which epoch."""
        while True:
            epoch = self.step()
            if epoch is not None:
                return epoch

    def step(self) -> int | None:
        """Ask once, and do what is due."""
        try:
            if self._settings.records.exists():
                return self._finish()
            self._follow(self._ask())
            epoch = self._finish() if self._settings.records.exists() else None
        except (ServerAway, Refused, OSError, HTTPException) as error:
            if self._failures >= TRIES and not self._proved:
                self._refuse(DeployError("it did not get on", where=self._us.config["node"], cause=str(error)))
            else:
                self._pause(f"the other does not answer, or refuses: {error}")
            return None
        except ProvisionerError as error:
            self._refuse(error)
            return None
        self._failures, self._problem = 0, ""
        return epoch

    def _ask(self) -> Mapping[str, Any]:
        now = self._us.clock.now()
        if not self._have and now - self._said >= READY_AGAIN:
            service = describe_service(self._settings, self._us.schema) | {COMMANDED: self._us.commanded()}
            self._link.call("POST", HANDOVER_SAY, {"say": "ready", "service": service}, timeout=ANSWER_SECONDS)
            self._said = now
        target = f"{HANDOVER}?have={self._have}&wait={LONG_POLL:g}"
        offer: Mapping[str, Any] = self._link.call("GET", target, timeout=LONG_POLL + ANSWER_SECONDS)
        return offer

    def _follow(self, offer: Mapping[str, Any]) -> None:
        phase = offer.get("phase")
        # Nothing is due; to one that has done nothing yet of a handover it knows: not even what was due before.
        if phase == "none" or (phase is None and self._handover and not self._have):
            self._forget("the handover was cancelled: the other stays the master")
        if phase in (None, "none"):
            return
        if offer["handover"] != self._handover and phase != "commit":
            self._drop()
            self._proved = False  # of another copy
        if offer["seed"] != self._seed:
            # From now on the other alone is asked: the address of the service is on its way to this host.
            self._link.close()
            self._link = self._us.open_link(str(offer["seed"]))
        self._handover, self._seed = str(offer["handover"]), str(offer["seed"])
        if phase == "images":
            self._copy_images(offer)
        elif phase == "records":
            self._copy_records(offer)
            checks = self._prove(offer)
            self._proved = True
            self._say("verified", checks=checks)
        elif phase == "commit":
            self._proved = True
            self._commit(offer)
        self._have = f"{self._handover}.{phase}"

    # The copy.

    def _copy_images(self, offer: Mapping[str, Any]) -> None:
        """All files, as their manifests say; that those are the site's is proved when its keys are here."""
        images = {ident: self._read_manifest(str(ident)) for ident in offer["images"]}
        total, done = sum(sum(image.sizes.values()) for image in images.values()), 0
        for image in images.values():
            for name in image.files:
                self._copy_file(image, name, done, total)
                done += image.sizes[name]
        for name, ident in offer["newest"].items():
            if ident in images:
                write_file(self.folder / "images" / f"{name}.newest", f"{ident}\n")
        self._say("images")

    def _copy_file(self, image: Image, name: str, done: int, total: int) -> None:
        """:param done: bytes that came before. :raises ImageError: it is not what the manifest says."""
        path, size = self.folder / "images" / image.id / name, image.sizes[name]
        if path.is_file() and path.stat().st_size == size and hash_file(path) == image.files[name]:
            return

        def tell(count: int) -> None:
            self._tell(done + count, total)

        self._fetch(f"{IMAGES}/{image.id}/{name}", path, size, tell)
        if hash_file(path) != image.files[name]:
            path.unlink()
            raise ImageError("a file is not what its manifest says", where=f"{image.id}/{name}")

    def _read_manifest(self, ident: str) -> Image:
        """:raises ImageError: its manifest is another image's."""
        said = self._say("image", image=ident)
        data = {key: base64.b64decode(text) for key, text in said.items()}
        image = Image.model_validate_json(data["manifest"])
        names = [*image.files, *image.sizes]
        if not ID.match(ident) or image.id != ident or any("/" in name or name.startswith(".") for name in names):
            raise ImageError("the manifest is another image's", where=ident)
        for key, name in (("manifest", MANIFEST), ("signature", SIGNATURE), ("provenance", PROVENANCE)):
            if key in data:
                write_file(self.folder / "images" / ident / name, data[key])
        return image

    def _copy_records(self, offer: Mapping[str, Any]) -> None:
        archive, path = offer["archive"], self.folder / "site.archive"
        path.unlink(missing_ok=True)  # it is good for one fetch, so there is nothing to go on from
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        self._fetch(str(archive["path"]), path, int(archive["size"]), lambda count: self._tell(count, archive["size"]))
        if hash_file(path) != archive["sha256"]:
            raise DeployError("the records did not come as they were sent", where=self._seed)
        shutil.rmtree(self._whole, ignore_errors=True)
        self._whole.mkdir(mode=0o700)
        unpack_backup(path, self._whole)
        path.unlink()

    def _fetch(self, path: str, target: Path, size: int, tell: Callable[[int], None]) -> None:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if target.exists() and target.stat().st_size >= size:
            target.unlink()
        self._us.source.fetch(self._seed, path, target, size, tell)

    # The proof.

    def _prove(self, offer: Mapping[str, Any]) -> dict[str, Any]:
        """That the copy is whole, is this site's, and can be worked with from here.

        :returns: how much of what was compared. :raises ProvisionerError: what does not hold.
        """
        if self._settings.keys.exists() and not self._proved:
            raise Conflict("there are keys on this host already", where=str(self._settings.keys))
        keys, folder = SiteKeys.ensure(self._whole / KEYS), self._whole / KEYS
        if (folder / CA_CERTIFICATE).read_text() != self._us.config["ca"]:
            raise TrustError("the keys are another site's than the one that this instance knows", where=self._seed)
        if MetadataKey.ensure(folder).public_key_pem != self._us.config.get("signer"):
            raise TrustError("metadata would be signed by another key than instances know", where=self._seed)
        catalogue = Catalogue(self.folder / "images", keys)
        images = catalogue.images() if catalogue.folder.is_dir() else []
        store = Store(f"sqlite:///{self._whole / RECORDS}", keys)
        try:
            duty = store.duty.get()
            if duty.handover != self._handover or duty.state is not DutyState.FROZEN:
                raise DeployError("the records are of another moment", where=self._seed, cause=f"{duty.state}")
            found = {name: list(digest) for name, digest in store.duty.digests().items()}
            sent = {str(name): list(digest) for name, digest in offer["tables"].items()}
            other = sorted(name for name in found.keys() | sent.keys() if found.get(name) != sent.get(name))
            if other:
                raise DeployError("the records are not the same here", where=self._seed, cause=", ".join(other))
            needed = {deployment.placement.image for deployment in store.deployments.live()}
            known = {image.id for image in images}
            nodes = store.nodes.all()
            for node in nodes:
                store.nodes.password(node.name)
            reached = self._try_controllers(store)
        finally:
            store.close()
        return {
            "tables": len(found),
            "rows": sum(rows for rows, _ in found.values()),
            "nodes": len(nodes),
            "images": len(images),
            "controllers": reached,
            "missing_images": sorted(needed - known),
        }

    def _try_controllers(self, store: Store) -> list[str]:
        """Log in to some of those that the other could reach. :raises DeployError: one does not let us in."""
        nodes = [node for node in store.nodes.all() if node.bmc_error is None]
        sample = nodes[:: max(1, len(nodes) // SAMPLE)][:SAMPLE]
        if not sample:
            return []
        self._say("progress", doing=f"logging in to {len(sample)} controllers")
        bmcs, close = self._us.bmcs()
        try:
            for node in sample:
                bmcs.power(node.bmc, store.nodes.password(node.name), BMC_SECONDS)
        except BmcError as error:
            raise DeployError(
                "a controller cannot be reached from this host",
                where=node.name,
                cause=str(error),
                hint="see to a route from here to the controllers' network; the seed has one",
            ) from error
        finally:
            close()
        return [node.name for node in sample]

    # The end.

    def _commit(self, offer: Mapping[str, Any]) -> None:
        """The epoch is ours: everything goes to its place, the records last. :raises DeployError: it is not proved."""
        settings, node = self._settings, str(self._us.config["node"])
        if not (self._whole / RECORDS).is_file():  # gone since they were proved
            self._copy_records(offer)
            self._prove(offer)
        key_folder = self._whole / KEYS if (self._whole / KEYS).exists() else settings.keys
        store = Store(f"sqlite:///{self._whole / RECORDS}", SiteKeys.ensure(key_folder))
        try:
            duty = self._take(store, store.duty.get(), node)
        finally:
            store.close()
        if duty.epoch != offer["epoch"]:
            raise DeployError("the epoch is another one than the records say", where=self._seed)
        write_file(self._note, json.dumps({"seed": self._seed, "handover": self._handover}))
        self._move_images()
        if key_folder != settings.keys:
            key_folder.rename(settings.keys)
        for path in (settings.keys, settings.images, self._whole / RECORDS):
            sync_tree(path)  # on the disk before the records are in their place, without which nothing starts
        (self._whole / RECORDS).rename(settings.records)
        sync_tree(settings.records)

    def _take(self, store: Store, duty: Duty, node: str) -> Duty:
        if duty.state is DutyState.MASTER:  # it was killed right after
            return duty
        now = self._us.clock.now()
        with store.transaction():
            taken = store.duty.take(duty, node, now)
            message = f"{node} is the master, in epoch {taken.epoch}; the records came from {self._seed}"
            store.events.add(Event("site.handed-over", message, node, data={"epoch": taken.epoch}), now)
        return taken

    def _move_images(self) -> None:
        target = self._settings.images
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((self.folder / "images").glob("*")):  # a site may have none
            place = target / path.name
            if path.is_dir() and place.is_dir():
                shutil.rmtree(place)
            path.rename(place)

    def _finish(self) -> int:
        """The records are in force here: the service runs, and the other hears of it."""
        said = json.loads(self._note.read_text()) if self._note.is_file() else {}
        self._seed, self._handover = said.get("seed", self._seed), said.get("handover", self._handover)
        epoch = read_duty(self._settings.records).epoch
        try:
            self._us.start()
        except HostError as error:
            if self._seed:
                with suppress(ServerAway, Refused):
                    self._link = self._us.open_link(self._seed)
                    self._say("progress", doing=f"the service does not start on {self._us.config['node']}: {error}")
            raise
        self._us.observer(Event("handover.master", f"this host is the master, in epoch {epoch}"))
        if self._seed:
            self._farewell(epoch)
        write_file(self._settings.handover / DONE, f"{epoch}\n")
        self._drop()
        return epoch

    def _farewell(self, epoch: int) -> None:
        link = self._us.open_link(self._seed)
        for number in range(FAREWELLS):
            try:
                link.call(
                    "POST",
                    HANDOVER_SAY,
                    {"handover": self._handover, "say": "master", "epoch": epoch},
                    timeout=ANSWER_SECONDS,
                )
                return
            except Refused:
                return  # it has heard it before
            except ServerAway:
                self._us.clock.sleep(min(LONGEST_PAUSE, PAUSE * (number + 1)))
        self._us.observer(Event("handover.alone", "the seed was not told that it has a tombstone: it does not answer"))

    # What is told.

    def _say(self, say: str, **more: Any) -> Mapping[str, Any]:
        message = {"handover": self._handover, "say": say, **more}
        answer: Mapping[str, Any] = self._link.call("POST", HANDOVER_SAY, message, timeout=ANSWER_SECONDS)
        return answer

    def _tell(self, count: int, total: int) -> None:
        now = self._us.clock.now()
        if now - self._told >= TELL_SECONDS:
            self._told = now
            self._say("progress", bytes=count, total=total)

    def _refuse(self, error: ProvisionerError) -> None:
        """The other stays the master, and says why."""
        self._us.observer(Event("handover.refused", str(error), data={"next": error.hint}))
        if self._proved or self._settings.records.exists():
            self._pause(str(error))
            return
        with suppress(ServerAway, Refused):
            self._say("failed", error=error.to_dict())
        self._forget("")

    def _forget(self, why: str) -> None:
        """Keys and records of the site have no business here; images may be of use again."""
        if why:
            self._us.observer(Event("handover.over", why))
        self._drop()
        self._proved = False
        self._have = self._seed = self._handover = ""
        self._said = float("-inf")
        self._link.close()
        self._link = self._us.open_link(None)

    def _drop(self) -> None:
        shutil.rmtree(self._whole, ignore_errors=True)
        for path in (self.folder / "site.archive", self._note):
            path.unlink(missing_ok=True)

    def _pause(self, why: str) -> None:
        self._failures += 1
        if why != self._problem:
            self._problem = why
            self._us.observer(Event("handover.waits", why))
        if self._failures == AFRESH and not (self._proved or (self._whole / RECORDS).exists()):
            self._have, self._seed = "", ""  # it may be another one by now
            self._said = float("-inf")
            self._link.close()
            self._link = self._us.open_link(None)
        self._us.clock.sleep(min(LONGEST_PAUSE, PAUSE * self._failures))


DONE = "done"
"""A file in the folder of handovers: nothing is waited for any more."""
