"""The collector by itself: sources that need more than a file, when it looks again, and how it finds new sources."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from agent_server import TOKEN, served
from agent_world import metadata
from stand_in_api import serving

from provisioner_agent.classic.cache import Cache
from provisioner_agent.classic.collect import TRIES, Collector, add_options
from provisioner_agent.classic.settings import Settings, read_settings
from provisioner_agent.classic.sources import Away, NotSetUp, read_ec2, read_nocloud, read_provisioner

DRIVES = """\
DEVNAME=/dev/vda1
TYPE=ext4

DEVNAME=/dev/sr0
LABEL={label}
TYPE=iso9660
"""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", tmp_path / "backup")


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The content of a volume, which programs play: ``label`` beside it is what it is called."""
    bin_ = tmp_path / "bin"
    content = tmp_path / "drive"
    content.mkdir()
    program(bin_, "blkid", f"#!/bin/sh\ncat {tmp_path}/blkid\n")
    program(bin_, "mount", f'#!/bin/sh\n[ "$1 $3 $4" = "/dev/sr0 -o ro" ] && cp -r {content}/. "$2"\n')
    program(bin_, "umount", f'#!/bin/sh\necho "$2" >{tmp_path}/unmounted\n')
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    return content


def label(drive: Path, name: str) -> None:
    drive.with_name("blkid").write_text(DRIVES.format(label=name))


def test_ec2_from_a_config_drive(drive: Path, cache: Cache, tmp_path: Path) -> None:
    label(drive, "config-2")
    (drive / "ec2/latest").mkdir(parents=True)
    (drive / "ec2/latest/meta-data.json").write_text('{"instance-id": "i-1"}')
    assert read_ec2(Settings(), cache) == [("ec2", {"instance-id": "i-1"})]
    assert not Path((tmp_path / "unmounted").read_text().strip()).exists(), "and it is put away"
    cache.store("ec2", {"instance-id": "i-1"})
    (drive / "ec2/latest/meta-data.json").write_text('{"instance-id": "i-2"}')
    assert read_ec2(Settings(), cache) == [("ec2", {"instance-id": "i-1"})], "once and for all"


def test_nocloud_from_a_folder(tmp_path: Path, cache: Cache) -> None:
    seed = tmp_path / "seed"
    seed.mkdir()
    (seed / "meta-data").write_text("instance-id: i-1  # of a foreign image\nlocal-hostname: 'web-0'\nindex: 3\n")
    settings = Settings(nocloud_path=(str(tmp_path / "none"), str(seed)))
    assert read_nocloud(settings, cache) == [("nocloud", {"instance-id": "i-1", "local-hostname": "web-0", "index": 3})]
    (seed / "meta-data").write_text("keys: [a, b]\n")
    with pytest.raises(Away, match="line 1"):
        read_nocloud(settings, cache)


def test_nocloud_from_a_volume(drive: Path, cache: Cache) -> None:
    settings = Settings(nocloud_path=())
    label(drive, "other")
    with pytest.raises(NotSetUp):
        read_nocloud(settings, cache)
    label(drive, "cidata")
    (drive / "meta-data").write_text('{"instance-id": "i-1"}')
    assert read_nocloud(settings, cache) == [("nocloud", {"instance-id": "i-1"})]


def test_the_provisioner_as_a_source(tmp_path: Path, cache: Cache) -> None:
    config = tmp_path / "agent.json"
    settings = Settings(provisioner_config=str(config))
    with pytest.raises(NotSetUp):
        read_provisioner(settings, cache)
    with served() as server:
        config.write_text(json.dumps({"url": server.url, "token": TOKEN}))
        with pytest.raises(Away, match="no metadata for this instance yet"):
            read_provisioner(settings, cache)
        server.offer(metadata(4, port=81))
        ((name, found),) = read_provisioner(settings, cache)
        assert (name, found["generation"], found["values"]) == ("provisioner", 4, {"port": 81})
        server.offer(metadata(5, references=[[["password"], "key"]]))
        ((name, found),) = read_provisioner(settings, cache)
        assert found["values"] == {"port": 80, "password": "key-5"}, "the secret is where the values refer to it"
        server.forge = "mac"
        with pytest.raises(Away):
            read_provisioner(settings, cache)
    with pytest.raises(Away):
        read_provisioner(settings, cache)
    config.write_text("{}")
    with pytest.raises(Away, match="another shape"):
        read_provisioner(settings, cache)


class Enough(Exception):
    """The test has seen what it wanted."""


class Looks:
    """A collector of one local file, whose clock is the test's. ``between``: what happens in each pause."""

    def __init__(self, folder: Path, command: str, **more: Any) -> None:
        self.file, self.log = folder / "local/a", folder / "log"
        self.file.parent.mkdir()
        self.log.write_text("")
        self.settings = Settings(
            collectors=("local",),
            local_path=(str(self.file.parent),),
            command=command.replace("LOG", str(self.log)),
            cachedir=str(folder / "cache"),
            backup_cachedir=str(folder / "backup"),
            **more,
        )
        self.pauses: list[float] = []

    def say(self, value: int) -> None:
        self.file.write_text(json.dumps({"x": value}))

    def run(self, looks: int, between: dict[int, int] | None = None) -> list[float]:
        """The pauses. ``between``: after which look the file says what."""

        def wait(seconds: float) -> None:
            self.pauses.append(seconds)
            if len(self.pauses) in (between or {}):
                self.say((between or {})[len(self.pauses)])
            if len(self.pauses) == looks:
                raise Enough

        with pytest.raises(Enough):
            Collector(lambda: self.settings, wait).run()
        return self.pauses

    @property
    def runs(self) -> int:
        return len(self.log.read_text().splitlines())


def test_a_command_that_fails_is_given_up_after_longer_and_longer_pauses(tmp_path: Path) -> None:
    looks = Looks(tmp_path, "echo x >>LOG; exit 3")
    looks.say(1)
    pauses = looks.run(TRIES + 4)
    assert looks.runs == TRIES
    assert pauses[: TRIES - 1] == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
    assert max(pauses) <= 900


def test_what_was_given_up_is_tried_again_when_something_changes(tmp_path: Path) -> None:
    looks = Looks(tmp_path, "echo x >>LOG; exit 3")
    looks.say(1)
    looks.run(TRIES + 3, {TRIES + 1: 2})
    assert looks.runs == TRIES + 2


def test_looks_are_rarer_until_something_changes(tmp_path: Path) -> None:
    looks = Looks(tmp_path, "echo x >>LOG", polling_interval=10.0)
    looks.say(1)
    assert looks.run(9, {6: 2}) == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 1.0, 2.0, 4.0]
    assert looks.runs == 2


def test_not_all_begin_at_once(tmp_path: Path) -> None:
    first = set()
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        looks = Looks(tmp_path / str(number), "true", splay=100.0)
        first |= set(looks.run(1))
    assert all(0 <= pause <= 100 for pause in first) and len(first) > 1


def test_a_hang_up_lets_it_look_at_once(tmp_path: Path) -> None:
    looks = Looks(tmp_path, "")
    looks.say(1)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    words = [sys.executable, "-c", "from provisioner_agent.classic.collect import main; main()"]
    words += [
        "--config-file",
        "/dev/null",
        "--local-path",
        str(looks.file.parent),
        "--command",
        f"cat $OS_CONFIG_FILES >{gate}",
    ]
    words += ["--cachedir", str(tmp_path / "cache"), "--backup-cachedir", str(tmp_path / "backup"), "local"]
    words += ["--min-polling-interval", "3600", "--polling-interval", "3600"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        try:
            assert json.loads(gate.read_text()) == {"x": 1}
            while not (tmp_path / "cache/.status.json").exists():  # its command has ended, and it waits
                os.sched_yield()
            looks.say(2)
            process.send_signal(signal.SIGHUP)
            assert json.loads(gate.read_text()) == {"x": 2}
        finally:
            process.kill()


class Signals(ThreadingHTTPServer):
    """Serves one page of metadata, and takes what is posted."""

    daemon_threads = True
    page: dict[str, Any]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SignalHandler)
        self.posted: list[tuple[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class SignalHandler(BaseHTTPRequestHandler):
    server: Signals

    def do_GET(self) -> None:
        self._send(json.dumps(self.server.page).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, json.loads(body)))
        self._send(b"")

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


CONFIG = """\
[DEFAULT]
cachedir = FOLDER/cache
backup_cachedir = FOLDER/backup
command = os-refresh-config --lockfile FOLDER/lock
collectors = local
[local]
path = FOLDER/local
"""
"""As the image brings it."""
WITH_REQUEST = """\
{{#os-collect-config.request}}
[DEFAULT]
collectors = request
[request]
metadata_url = {{metadata_url}}
{{/os-collect-config.request}}
"""
COMPLETED = """#!/bin/sh
set -eu
url=$(os-apply-config --key completion-signal --type raw --key-default "")
[ -z "$url" ] && exit 0
printf '{"Status": "SUCCESS"}' | exec post "$url"
"""
POST = """
import sys
import urllib.request

urllib.request.urlopen(sys.argv[1], sys.stdin.buffer.read())
"""


def test_the_first_metadata_say_where_more_are_and_the_end_is_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees of old: collect runs refresh, whose scripts run apply, which writes collect's own configuration; the last
    script posts to the address that the metadata name."""
    base, templates, out = tmp_path / "base", tmp_path / "templates", tmp_path / "out"
    for tool in ("apply", "refresh"):
        text = f"#!{sys.executable}\nfrom provisioner_agent.classic.{tool} import main\n\nmain()\n"
        program(tmp_path / "bin", f"os-{tool}-config", text)
    program(tmp_path / "bin", "post", f"#!{sys.executable}\n{POST}")
    program(base / "configure.d", "20-os-apply-config", f"#!/bin/sh\nexec os-apply-config -t {templates} -o {out}\n")
    program(base / "post-configure.d", "99-refresh-completed", COMPLETED)
    (templates / "etc").mkdir(parents=True)
    initial = CONFIG.replace("FOLDER", str(tmp_path))
    (templates / "etc/os-collect-config.conf").write_text(initial + WITH_REQUEST)
    (templates / "etc/service.conf").write_text("port={{port}}\n")
    config = out / "etc/os-collect-config.conf"
    config.parent.mkdir(parents=True)
    config.write_text(initial)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("OS_REFRESH_CONFIG_BASE_DIR", str(base))
    (tmp_path / "local").mkdir()
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(["--config-file", str(config)])
    looks: list[str] = []

    def wait(seconds: float) -> None:
        looks.append((out / "etc/service.conf").read_text())
        if len(looks) == 3:
            raise Enough

    with serving(Signals()) as server:
        server.page = {"port": 80, "completion-signal": f"{server.url}/signal"}
        hint = {"os-collect-config": {"request": {"metadata_url": f"{server.url}/metadata"}}}
        (tmp_path / "local/hint").write_text(json.dumps(hint))
        with pytest.raises(Enough):
            Collector(lambda: read_settings(options), wait).run()
        assert looks == ["port=\n", "port=80\n", "port=80\n"]
        assert server.posted == [("/signal", {"Status": "SUCCESS"})], "once, when there was an address and a change"
