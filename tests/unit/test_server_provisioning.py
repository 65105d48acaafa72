"""What nodes see: boot scripts, files of images, and the agents' messages with their authentication."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from provisioner.conductor.metadata import Ask
from provisioner.errors import Conflict, NotFound, ProvisionerError, TrustError
from provisioner.server import guard
from provisioner.server.changes import EACH, Changes
from provisioner.server.desk import Desk
from provisioner.server.guard import MAX_BODY, Nonces
from provisioner.server.provisioning import BOOT_BURST, agent_app, boot_app
from provisioner.store.database import EVERYTHING
from provisioner_agent.protocol.auth import (
    ID_HEADER,
    MAC_HEADER,
    NONCE_HEADER,
    answer_mac,
    check_mac,
    new_nonce,
    request_mac,
)
from provisioner_agent.protocol.messages import HELLO, METADATA, ORDER, PERMIT, PROGRESS, RECOVER, REPORT

SECRETS = {("b1", "hello"): "boot-secret", ("b1", "boot"): "boot-secret", ("i1", "instance"): "instance-secret"}


class Rack:
    """The conductor as guests see it."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, Any]] = []
        self.callbacks: list[Callable[[frozenset[str]], None]] = []
        self.due: dict[str, Any] | None = None
        self.generation = 1
        self.granted = False
        self.looks = 0
        self.looked = threading.Event()

    def subscribe(self, callback: Callable[[frozenset[str]], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def announce(self) -> None:
        for callback in self.callbacks:
            callback(frozenset({"node1"}))

    def guests(self, asks: Sequence[tuple[str, str]]) -> list[tuple[str, frozenset[str]] | TrustError]:
        topics = frozenset({"node1"})
        return [(SECRETS[ask], topics) if ask in SECRETS else TrustError("no such token") for ask in asks]

    def boot_script(self, mac: str, peer: str) -> str | None:
        return f"#!ipxe\n# {mac}\n" if mac == "52:54:00:77:00:01" else None

    def seen_on_wire(self, address: str, kind: str, message: str) -> None:
        self.heard.append((kind, address, message))

    def hello(self, token_id: str, message: dict[str, Any], peer: str) -> dict[str, Any]:
        self.heard.append(("hello", token_id, message))
        return {"clock": 5.0}

    def _look(self) -> None:
        self.looks += 1
        self.looked.set()

    def order(self, token_id: str) -> dict[str, Any] | None:
        self._look()
        return self.due

    def progress(self, token_id: str, message: dict[str, Any]) -> dict[str, Any]:
        self.heard.append(("progress", token_id, message))
        return {}

    def result(self, token_id: str, message: dict[str, Any]) -> dict[str, Any]:
        self.heard.append(("result", token_id, message))
        return {}

    def metadata(self, asks: Sequence[Ask]) -> list[str | None]:
        return [self._metadata(ask) for ask in asks]

    def _metadata(self, ask: Ask) -> str | None:
        self._look()
        self.had = tuple(ask.have)
        return json.dumps({"generation": self.generation, "metadata": {}}) if self.generation > ask.since else None

    def reports(self, asks: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, Any] | ProvisionerError]:
        return [
            Conflict("the generation is too old", where=token_id)
            if message.get("generation") == 1
            else {"heard": message["generation"]}
            for token_id, message in asks
        ]

    def recover(self, token_id: str, message: dict[str, Any]) -> dict[str, Any]:
        self.heard.append(("recover", token_id, message))
        self._look()
        return {"verdict": "lead" if self.granted else "wait", "why": "", "fence": 1}

    def permit(self, token_id: str, message: dict[str, Any]) -> dict[str, Any]:
        self._look()
        return {"granted": self.granted, "why": "", "once": {}}


class Wire:
    """Sends signed messages to the application and checks the answers' MACs."""

    def __init__(self, http: httpx.AsyncClient, rack: Rack, changes: Changes) -> None:
        self.http = http
        self.rack = rack
        self.changes = changes

    async def send(
        self, method: str, target: str, body: bytes = b"", *, ident: str, secret: str, nonce: str | None = None
    ) -> httpx.Response:
        nonce = nonce or new_nonce()
        mac = request_mac(secret, method, target, nonce, body)
        headers = {ID_HEADER: ident, NONCE_HEADER: nonce, MAC_HEADER: mac}
        answer = await self.http.request(method, target, content=body, headers=headers)
        if answer.status_code != 401:
            check_mac(answer_mac(secret, nonce, answer.status_code, answer.content), answer.headers.get(MAC_HEADER))
        return answer

    async def ramdisk(self, method: str, target: str, body: Any = None, **more: Any) -> httpx.Response:
        data = b"" if body is None else json.dumps(body).encode()
        return await self.send(method, target, data, ident="b1", secret="boot-secret", **more)

    async def instance(self, method: str, target: str, body: Any = None, **more: Any) -> httpx.Response:
        data = b"" if body is None else json.dumps(body).encode()
        return await self.send(method, target, data, ident="i1", secret="instance-secret", **more)


def with_wire(work: Callable[[Wire], Awaitable[None]], folder: Path | None = None) -> None:
    """Run ``work`` against the application; ``folder`` holds files by ``ID/NAME``."""

    def path_of(image: str, name: str) -> Path:
        if folder is None or (image, name) != ("galera-0123456789ab", "root.zst"):
            raise NotFound("there is no such image", where=image)
        return folder / image / name

    async def run() -> None:
        rack, desk = Rack(), Desk()
        changes = Changes(rack)
        boot = httpx.ASGITransport(boot_app(rack, path_of, desk, lambda: 0.0))
        agents = httpx.ASGITransport(agent_app(rack, path_of, desk, changes, lambda: 0.0))
        doors = {"http://": boot, "https://": agents}
        try:
            async with httpx.AsyncClient(mounts=doors, base_url="https://seed", trust_env=False) as http:
                await work(Wire(http, rack, changes))
        finally:
            changes.close()
            desk.close()
        assert rack.callbacks == []

    asyncio.run(run())


def test_boot_script_by_either_writing_of_the_mac() -> None:
    async def work(wire: Wire) -> None:
        for mac in ("52:54:00:77:00:01", "52-54-00-77-00-01"):
            answer = await wire.http.get(f"http://seed/boot/{mac}")
            assert answer.text == "#!ipxe\n# 52:54:00:77:00:01\n"
        stranger = await wire.http.get("http://seed/boot/52:54:00:77:00:02")
        assert stranger.status_code == 404 and stranger.json()["error"] == "NotFound"
        assert (await wire.http.get("http://seed/boot/..%2fetc")).status_code in {400, 404}

    with_wire(work)


def test_an_authentic_message_arrives_and_its_answer_is_signed() -> None:
    async def work(wire: Wire) -> None:
        answer = await wire.ramdisk("POST", HELLO, {"boot_id": "x"})
        assert answer.json() == {"clock": 5.0}
        assert wire.rack.heard == [("hello", "b1", {"boot_id": "x"})]

    with_wire(work)


def test_forged_messages_get_401_and_no_reason() -> None:
    async def work(wire: Wire) -> None:
        answers = []
        good = request_mac("boot-secret", "POST", PROGRESS, "0" * 32, b"{}")
        signed = {ID_HEADER: "b1", NONCE_HEADER: "0" * 32, MAC_HEADER: good}
        send = wire.http.request
        answers.append(await send("POST", PROGRESS, content=b'{"bytes": 1}', headers=signed))  # another body
        answers.append(await send("POST", PROGRESS + "?a=1", content=b"{}", headers=signed))  # another target
        answers.append(await send("POST", HELLO, content=b"{}", headers=signed))  # another path
        answers.append(await send("POST", PROGRESS, content=b"{}", headers=signed | {NONCE_HEADER: "1" * 32}))
        answers.append(await send("POST", PROGRESS, content=b"{}"))
        answers.append(await send("POST", PROGRESS, content=b"{}", headers=signed | {ID_HEADER: "i1"}))
        answers.append(await wire.send("POST", PROGRESS, b"{}", ident="b1", secret="another"))
        answers.append(await wire.send("POST", PROGRESS, b"{}", ident="nobody", secret="boot-secret"))
        answers.append(await wire.send("POST", PROGRESS, b"{}", ident="b1", secret="boot-secret", nonce="short"))
        # The boot token opens no path of the config agent, nor the other way round.
        answers.append(await wire.ramdisk("GET", METADATA))
        answers.append(await wire.instance("GET", ORDER))
        assert [answer.status_code for answer in answers] == [401] * len(answers)
        assert len({answer.content for answer in answers}) == 1
        assert all(MAC_HEADER not in answer.headers for answer in answers)
        assert wire.rack.heard == []

    with_wire(work)


def test_a_message_is_heard_once() -> None:
    async def work(wire: Wire) -> None:
        nonce = new_nonce()
        assert (await wire.ramdisk("POST", PROGRESS, {"bytes": 1}, nonce=nonce)).status_code == 200
        assert (await wire.ramdisk("POST", PROGRESS, {"bytes": 1}, nonce=nonce)).status_code == 401
        assert len(wire.rack.heard) == 1

    with_wire(work)


def test_a_forged_message_does_not_use_up_a_nonce() -> None:
    async def work(wire: Wire) -> None:
        nonce = new_nonce()
        assert (await wire.send("POST", PROGRESS, b"{}", ident="b1", secret="x", nonce=nonce)).status_code == 401
        assert (await wire.ramdisk("POST", PROGRESS, {}, nonce=nonce)).status_code == 200

    with_wire(work)


def test_nonces_are_kept_by_token_and_the_oldest_go_first() -> None:
    nonces = Nonces(each=2, tokens=2)
    first, second, third = "1" * 32, "2" * 32, "3" * 32
    assert nonces.hear("a", first) and nonces.hear("b", first)
    assert not nonces.hear("a", first)
    assert nonces.hear("a", second) and nonces.hear("a", third)
    assert not nonces.hear("a", third)
    assert nonces.hear("a", first)


def test_a_large_message_is_refused_by_what_it_says_and_by_what_it_is() -> None:
    async def chunks() -> Any:
        for _ in range(MAX_BODY // 65536 + 1):
            yield b" " * 65536

    async def work(wire: Wire) -> None:
        said = await wire.http.post(PROGRESS, content=b" " * (MAX_BODY + 1))
        streamed = await wire.http.post(PROGRESS, content=chunks())
        assert (said.status_code, streamed.status_code) == (413, 413)
        assert (await wire.send("POST", PROGRESS, b" " * MAX_BODY, ident="b1", secret="boot-secret")).status_code == 400

    with_wire(work)


def test_errors_of_the_conductor_are_signed_json() -> None:
    async def work(wire: Wire) -> None:
        answer = await wire.instance("POST", REPORT, {"generation": 1})
        assert answer.status_code == 409
        assert answer.json()["summary"] == "the generation is too old"
        wrong = await wire.instance("POST", REPORT, ["no map"])
        assert wrong.status_code == 400 and wrong.json()["error"] == "UsageError"
        wrong = await wire.instance("GET", METADATA + "?since=-1")
        assert wrong.status_code == 400

    with_wire(work)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_what_json_cannot_write_is_not_taken_on_record(number: str) -> None:
    async def work(wire: Wire) -> None:
        body = b'{"generation": 1, "state": "applied", "seconds": {"switch": %s}}' % number.encode()
        answer = await wire.send("POST", REPORT, body, ident="i1", secret="instance-secret")
        assert answer.status_code == 400 and "JSON" in answer.json()["summary"]

    with_wire(work)


def test_who_asks_in_a_report_is_answered() -> None:
    async def work(wire: Wire) -> None:
        answer = await wire.instance("POST", REPORT, {"generation": 2, "confirming": 2})
        assert (answer.status_code, answer.json()) == (200, {"heard": 2})

    with_wire(work)


async def until_looked(rack: Rack) -> None:
    assert await asyncio.to_thread(rack.looked.wait, 10)


@pytest.mark.parametrize("announced", [True, False], ids=["a change", "the end of the service"])
def test_a_long_poll_is_woken(announced: bool) -> None:
    async def work(wire: Wire) -> None:
        waiting = asyncio.create_task(wire.ramdisk("GET", ORDER + "?wait=50"))
        await until_looked(wire.rack)
        assert not waiting.done()
        if announced:
            wire.rack.due = {"id": "o1", "step": "storage"}
            wire.rack.announce()
        else:
            wire.changes.close()
        answer = await asyncio.wait_for(waiting, 8)
        assert answer.json() == ({"order": {"id": "o1", "step": "storage"}} if announced else {})

    with_wire(work)


def test_who_waits_hears_that_changes_may_have_been_missed() -> None:
    """As when the connection was lost over which other conductors tell of theirs."""

    async def work(wire: Wire) -> None:
        waiting = asyncio.create_task(wire.instance("GET", METADATA + "?since=1&wait=300"))
        await until_looked(wire.rack)
        wire.rack.generation = 2
        for callback in wire.rack.callbacks:
            callback(frozenset((EVERYTHING,)))
        assert (await asyncio.wait_for(waiting, 8)).json() == {"generation": 2, "metadata": {}}

    with_wire(work)


def test_a_change_that_is_not_enough_keeps_the_poll_waiting() -> None:
    async def work(wire: Wire) -> None:
        waiting = asyncio.create_task(wire.instance("GET", METADATA + "?since=1&wait=50"))
        await until_looked(wire.rack)
        wire.rack.looked.clear()
        wire.rack.announce()
        await until_looked(wire.rack)
        assert not waiting.done()
        wire.rack.generation = 2
        wire.rack.announce()
        assert (await asyncio.wait_for(waiting, 8)).json() == {"generation": 2, "metadata": {}}

    with_wire(work)


def test_of_the_polls_of_one_guest_the_newest_wait() -> None:
    """Whose connection has gone unseen would stay for minutes, and a guest may open and drop them without end."""

    async def work(wire: Wire) -> None:
        async def poll() -> httpx.Response:
            return await wire.instance("GET", METADATA + "?since=1&wait=300")

        other = asyncio.create_task(wire.ramdisk("GET", ORDER + "?wait=300"))
        polls = []
        for number in range(EACH + 3):
            polls.append(asyncio.create_task(poll()))
            while wire.rack.looks <= number:
                await asyncio.sleep(0.01)
        assert [(await asyncio.wait_for(gone, 8)).json() for gone in polls[:3]] == [{}] * 3
        assert not any(waiting.done() for waiting in (other, *polls[3:]))
        wire.rack.generation = 2
        wire.rack.announce()
        assert all(answer.json()["generation"] == 2 for answer in await asyncio.gather(*polls[3:]))
        wire.changes.close()
        await other

    with_wire(work)


def test_a_poll_that_does_not_wait_answers_at_once() -> None:
    async def work(wire: Wire) -> None:
        assert (await wire.instance("GET", METADATA + "?since=1")).json() == {}
        assert (await wire.instance("GET", METADATA + "?since=0&have=aa,bb")).json()["generation"] == 1
        assert wire.rack.had == ("aa", "bb")
        assert wire.rack.looks == 2

    with_wire(work)


def test_a_permit_waits_until_it_is_granted_and_a_release_does_not() -> None:
    async def work(wire: Wire) -> None:
        message = {"action": "acquire", "generation": 1, "wait": 50}
        waiting = asyncio.create_task(wire.instance("POST", PERMIT, message))
        await until_looked(wire.rack)
        released = await wire.instance("POST", PERMIT, message | {"action": "release"})
        assert released.json()["granted"] is False
        assert not waiting.done()
        wire.rack.granted = True
        wire.rack.announce()
        assert (await asyncio.wait_for(waiting, 8)).json()["granted"] is True

    with_wire(work)


def test_who_is_to_begin_again_is_answered_when_it_is_known() -> None:
    async def work(wire: Wire) -> None:
        position = {"history": "a", "sequence": 7, "wait": 50}
        waiting = asyncio.create_task(wire.instance("POST", RECOVER, position))
        await until_looked(wire.rack)
        assert not waiting.done()
        wire.rack.granted = True
        wire.rack.announce()
        assert (await asyncio.wait_for(waiting, 8)).json()["verdict"] == "lead"
        assert ("recover", "i1", position) in wire.rack.heard
        refused = await wire.instance("POST", RECOVER, position | {"wait": "long"})
        assert refused.status_code == 400

    with_wire(work)


def test_files_of_images_whole_and_in_ranges(tmp_path: Path) -> None:
    data = bytes(range(256)) * 12_000  # three blocks
    (tmp_path / "galera-0123456789ab").mkdir()
    (tmp_path / "galera-0123456789ab" / "root.zst").write_bytes(data)
    url = "/images/galera-0123456789ab/root.zst"

    async def work(wire: Wire) -> None:
        whole = await wire.http.get(url)
        assert whole.status_code == 200 and whole.content == data
        assert whole.headers["accept-ranges"] == "bytes"
        for given, want in {
            "bytes=0-0": data[:1],
            "bytes=5-1500000": data[5:1_500_001],
            "bytes=3000000-": data[3_000_000:],
            "bytes=-7": data[-7:],
        }.items():
            part = await wire.http.get(url, headers={"range": given})
            assert part.status_code == 206 and part.content == want
            assert part.headers["content-length"] == str(len(want))
        assert (await wire.http.get(url, headers={"range": "bytes=4000000-"})).status_code == 416
        assert (await wire.http.post(url)).status_code == 405

    with_wire(work, tmp_path)


def test_only_files_of_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "galera-0123456789ab").mkdir()
    (tmp_path / "galera-0123456789ab" / "manifest.sig").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"x")

    async def work(wire: Wire) -> None:
        for path in (
            "/images/galera-0123456789ab/manifest.sig",
            "/images/galera-0123456789ab/root.zst",  # listed, and removed from the disk
            "/images/galera-0123456789ab/..%2f..%2fsecret",
            "/images/..%2fsecret/x",
            "/v1/nodes",  # operators have a listener of their own
        ):
            answer = await wire.http.get(path)
            assert answer.status_code == 404, path
            assert answer.json()["error"] == "NotFound"

    with_wire(work, tmp_path)


def test_what_firmware_is_given_is_not_for_agents_and_the_other_way_round() -> None:
    async def work(wire: Wire) -> None:
        assert (await wire.http.get("https://seed/boot/52:54:00:77:00:01")).status_code == 404
        for path in (HELLO, ORDER, METADATA, REPORT):
            assert (await wire.http.get(f"http://seed{path}")).status_code == 404

    with_wire(work)


def test_a_flood_is_refused() -> None:
    async def work(wire: Wire) -> None:
        for _ in range(int(guard.GUESS_BURST)):
            assert (await wire.http.get(METADATA)).status_code == 401
        assert (await wire.http.get(METADATA)).status_code == 429
        script = "http://seed/boot/52:54:00:77:00:02"
        for _ in range(int(BOOT_BURST)):
            assert (await wire.http.get(script)).status_code == 404
        assert (await wire.http.get(script)).status_code == 429

    with_wire(work)


def test_a_guest_that_asks_without_end_is_refused_alone() -> None:
    async def work(wire: Wire) -> None:
        for _ in range(int(guard.BURST)):
            assert (await wire.ramdisk("GET", ORDER)).status_code == 200
        nonce = new_nonce()
        headers = {
            ID_HEADER: "b1",
            NONCE_HEADER: nonce,
            MAC_HEADER: request_mac("boot-secret", "GET", ORDER, nonce, b""),
        }
        assert (await wire.http.get(ORDER, headers=headers)).status_code == 429
        assert (await wire.instance("GET", METADATA)).status_code == 200

    with_wire(work)


def test_how_much_of_the_ramdisk_a_node_fetched_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "galera-0123456789ab"
    folder.mkdir()
    (folder / "root.zst").write_bytes(b"x" * 5_000_000)

    async def work(wire: Wire) -> None:
        await wire.http.get("http://seed/images/galera-0123456789ab/root.zst")
        assert wire.rack.heard == [("boot.fetched", "127.0.0.1", "it fetched root.zst: 5000000 of 5000000 bytes")]

    with_wire(work, tmp_path)
